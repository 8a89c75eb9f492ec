//! Warm agents: a cell inside a template's user namespace, and an embryo forked into it.

use super::cell::{Cell, Failure, Kind, Process, State, Warm};
use super::failures::{failure, from_io, namespace_hint, program_failure, wrong_descriptors};
use super::ground::{namespace_of, setup_pair};
use super::poller::Source;
use super::setup::pid_of;
use super::template::template_gone;
use super::verify::{self, Expected};
use super::{Launcher, NAMESPACES};
use crate::compile::{self, c_string};
use crate::plan::{AGENT_ID, CellKind};
use crate::protocol::{CellPolicy, Event, Token};
use clove_sys::embryo::{self, ForkReply, ForkRequest, OUTCOME_BYTES, Outcome};
use clove_sys::nested::{self, Home, Map, NEWS_BYTES, News};
use clove_sys::program::ResourceLimits;
use clove_sys::report::Stage;
use clove_sys::scm;
use clove_sys::stub::{Role, Stub};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// In the order of `embryo::FD_USER` to `FD_CGROUP`.
const NAMESPACE_FILES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

impl Launcher {
    pub(super) fn spawn_warm(
        &mut self,
        token: Token,
        template_token: Token,
        policy: CellPolicy,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if fds.len() != 3 {
            return Err(wrong_descriptors(3, fds.len()));
        }
        let plan = crate::plan::plan(CellKind::Agent, &policy, &self.host)?;
        let template = self.cells.get_mut(&template_token).and_then(Cell::template);
        let Some(template) = template.filter(|t| t.ready && t.control.is_some()) else {
            return Err(template_gone());
        };
        let hint = "wait until other agents have ended";
        let inner_id = template
            .uids
            .take()
            .ok_or_else(|| failure("uids", Errno::AGAIN, "the template's uids are used up", hint))?;
        let Some(home) =
            template.home.as_ref().map(|(u, p)| Home { user: u.as_raw_fd(), pid: p.as_raw_fd() })
        else {
            return Err(template_gone());
        };
        let uid = template.first_id + inner_id;
        let warm = Warm {
            template: template_token,
            inner_id,
            fds,
            asked: false,
            outcome: None,
            given: Vec::new(),
            walls_stand: false,
            embryo: None,
        };
        let mut cell = Cell::new(token, policy, plan, Kind::Warm(Box::new(warm)), uid);
        let made = self.make_warm(&mut cell, home, inner_id);
        self.cells.insert(token, cell);
        self.watch_helper(token, made?)
    }

    /// What helpers say is listened to from here on.
    pub(super) fn watch_helper(&mut self, token: Token, helper: OwnedFd) -> Result<(), Failure> {
        let watched = self.poller.add(&helper, Source::Helper(token));
        if let Some(cell) = self.cells.get_mut(&token) {
            cell.helper = Some(helper);
        }
        watched.map_err(|e| from_io("launcher", &e, "no more to be watched", ""))
    }

    fn make_warm(&mut self, cell: &mut Cell, home: Home, inner_id: u32) -> Result<OwnedFd, Failure> {
        self.make_group(cell)?;
        let trees = self.open_trees(&cell.plan, &cell.policy, cell.uid)?;
        let (ours, theirs) = setup_pair()?;
        let (helper, up) = setup_pair()?;
        let script = compile::script(&cell.plan, &trees.numbers)?;
        let keep = trees.numbers.clone();
        // The helpers are born in the v2 group, and the first process with them.
        let (doors, born_in) = self.doors(cell, true)?;
        let born_in = born_in.as_ref().map(|d| d.as_fd());
        let groups = doors.iter().map(|d| d.as_raw_fd()).collect();
        let mut stub = Stub { setup: theirs.as_raw_fd(), keep, groups, script, role: Role::Empty };
        stub.sort();
        let map = Map { inside: AGENT_ID, outside: inner_id };
        nested::spawn(&self.proof, home, NAMESPACES, born_in, &stub, map, up.as_raw_fd())
            .map_err(|e| failure("fork", e, "the helper that makes the cell", namespace_hint(e)))?;
        // The warden and the maker.
        self.strays += 2;
        cell.setup = Some(ours);
        Ok(helper)
    }

    /// News from the helpers.
    pub(super) fn handle_helper(&mut self, token: Token) {
        loop {
            let Some(helper) = self.cells.get(&token).and_then(|c| c.helper.as_ref()) else { return };
            let mut bytes = [0u8; NEWS_BYTES];
            let mut fds = [None];
            let got = match scm::recv(helper.as_fd(), &mut bytes, &mut fds, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return,
                Ok((NEWS_BYTES, _)) => News::decode(&bytes),
                _ => None,
            };
            let Some(news) = got else { return self.helpers_ended(token) };
            let [pidfd] = fds;
            match news {
                News::Made => {
                    // Nothing behind the pidfd: it has ended, and its pidfd says so.
                    if let Some(pidfd) = pidfd {
                        let pid = pid_of(&pidfd).and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
                        self.adopt(token, Process { pid, pidfd });
                    }
                }
                News::Mapped => {
                    self.drop_helper(token);
                    let released = self.release(token);
                    self.fail_on_error(token, released);
                    return self.finish_if_over(token);
                }
                News::Failed { stage, errno, found } => {
                    self.drop_helper(token);
                    let Some(cell) = self.cells.get(&token) else { return };
                    let f = if cell.is_agent() {
                        let e = Errno::from_raw_os_error(errno);
                        failure(stage.word(), e, "making the cell inside the template", namespace_hint(e))
                    } else {
                        program_failure(stage, errno, found, cell.argv(), &cell.policy.cwd)
                    };
                    return self.fail(token, f);
                }
            }
        }
    }

    /// The end of the helpers' socket. For a template it is good news, once there is a process: it has got to its exec.
    fn helpers_ended(&mut self, token: Token) {
        self.drop_helper(token);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let is_template = !cell.is_agent();
        if is_template && (cell.beside_init().is_some() || cell.status.is_some()) {
            return self.finish_if_over(token);
        }
        let message = if is_template {
            "the helper that starts it ended"
        } else {
            "the helpers that make the cell ended"
        };
        self.fail(token, failure("fork", Errno::CHILD, message, "try again"));
    }

    fn adopt(&mut self, token: Token, made: Process) {
        match self.cells.get(&token).map(Cell::is_agent) {
            Some(true) => self.adopt_first(token, made),
            Some(false) => self.adopt_template(token, made),
            None => {}
        }
    }

    fn drop_helper(&mut self, token: Token) {
        if let Some(helper) = self.cells.get_mut(&token).and_then(|c| c.helper.take()) {
            self.poller.remove(&helper, Source::Helper(token));
        }
    }

    fn adopt_first(&mut self, token: Token, first: Process) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.killed || cell.failure.is_some() {
            let _ = pidfd_send_signal(&first.pidfd, Signal::KILL);
        }
        cell.first = Some(first);
        let watched = self.watch_first(token);
        self.fail_on_error(token, watched);
    }

    fn fail_on_error(&mut self, token: Token, result: Result<(), Failure>) {
        if let Err(f) = result {
            self.fail(token, f);
        }
    }

    /// The cell stands: asks the template for the embryo.
    pub(super) fn ask_for_embryo(&mut self, token: Token) -> Result<(), Failure> {
        let Some(cell) = self.cells.get(&token) else { return Ok(()) };
        let (doors, _) = self.doors(cell, false)?;
        let Some(cell) = self.cells.get_mut(&token) else { return Ok(()) };
        let Some(init) = cell.first.as_ref().map(|f| f.pid) else { return Ok(()) };
        let request = ForkRequest {
            token,
            uid: AGENT_ID,
            gid: AGENT_ID,
            limits: ResourceLimits { nofile: cell.plan.nofile },
            landlock: compile::landlock(&cell.plan)?,
            filter: self.filters.of(cell.policy.profile),
            cwd: c_string(&cell.plan.cwd)?,
        };
        let mut fds = Vec::with_capacity(embryo::FDS);
        // Descriptors of namespaces, not of init: init's memory is a copy of the launcher's, and entering by a process
        // would mean being allowed to look into it.
        for name in NAMESPACE_FILES {
            fds.push(namespace_of(init, name)?);
        }
        // The launcher's end doesn't block.
        let (outcome, told) = setup_pair()?;
        let Some(warm) = cell.warm() else { return Ok(()) };
        let held = |fd: &OwnedFd| verify::held(std::process::id() as i32, fd.as_raw_fd());
        let [syscalls, stdout, stderr] = warm.fds.as_slice() else { return Ok(()) };
        let given = [stdout, stderr, syscalls, &told].map(held).into_iter().collect::<Result<_, _>>();
        warm.given = given.map_err(|e| from_io("launcher", &e, "looking at its own descriptors", ""))?;
        fds.append(&mut warm.fds);
        fds.push(told);
        fds.extend(doors);
        let template = warm.template;
        warm.outcome = Some(outcome);
        warm.asked = true;
        let watched = match &warm.outcome {
            Some(outcome) => self.poller.add(outcome, Source::Outcome(token)),
            None => Ok(()),
        };
        watched.map_err(|e| from_io("launcher", &e, "no more to be watched", ""))?;
        self.expected.push_back((Instant::now() + self.patience, token));
        let sent = self.send_to_template(template, request.encode(), fds);
        if sent.is_err()
            && let Some(w) = self.cells.get_mut(&token).and_then(Cell::warm)
        {
            w.asked = false;
        }
        sent
    }

    /// The template has forked, or couldn't.
    pub(super) fn handle_fork_reply(&mut self, template: Token, reply: ForkReply, pidfd: Option<OwnedFd>) {
        let token = reply.token;
        let own = std::process::id();
        let known_pid = pidfd.as_ref().and_then(pid_of);
        // A zombie still has its pid; a process that isn't ours, or is known already, is a lie. Others' processes can't be
        // given away: there is nothing in the template's PID namespace but its own.
        let is_new = |pid: u32| parent_of(pid) == Some(own) && !self.owns(pid as i32);
        let genuine = known_pid.filter(|pid| is_new(*pid));
        let Some(cell) = self.cells.get_mut(&token) else { return self.uninvited(template) };
        let ending = cell.killed || cell.failure.is_some();
        let Some(warm) = cell.warm().filter(|w| w.template == template && w.asked) else {
            return self.uninvited(template);
        };
        warm.asked = false;
        match (reply.errno, pidfd, genuine) {
            (0, Some(pidfd), Some(pid)) => {
                if ending {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                }
                let watched = self.poller.add(&pidfd, Source::Beside(token));
                warm.embryo = Some(Process { pid: pid as i32, pidfd });
                if let Err(e) = watched {
                    self.fail(token, from_io("launcher", &e, "no more to be watched", ""));
                }
                self.check_embryo(token);
            }
            (0, Some(pidfd), None) if pid_of(&pidfd).is_none() => {
                let message = "the embryo ended before it was looked at";
                self.fail(token, failure("embryo", Errno::CHILD, message, "see the template's output"));
            }
            (0, ..) => {
                self.strays += 1;
                let message = "the template gave back something that isn't a new child of the launcher";
                self.fail(
                    token,
                    failure("verify", Errno::CHILD, message, "its library or setup tampers with forks"),
                );
            }
            (errno, ..) => {
                let e = Errno::from_raw_os_error(errno);
                let hint = "the template's process or memory limit may be too small for its agents";
                self.fail(token, failure("fork", e, "the template couldn't fork", hint));
            }
        }
        self.finish_if_over(token);
    }

    /// Ends embryos that don't come, or come and don't say that their walls stand; and templates that don't answer. Gives
    /// the time to the next.
    pub(super) fn end_overdue_embryos(&mut self) -> Option<Duration> {
        let now = Instant::now();
        while let Some((at, token)) = self.expected.front().copied() {
            let state = self.cells.get(&token).map(|c| (c.state, c.failure.is_some() || c.killed));
            let is_waited_for = state == Some((State::Starting, false));
            if is_waited_for && at > now {
                return Some(at.saturating_duration_since(now));
            }
            self.expected.pop_front();
            if is_waited_for {
                self.embryo_is_overdue(token, now);
            }
        }
        None
    }

    fn embryo_is_overdue(&mut self, token: Token, now: Instant) {
        let Some(warm) = self.cells.get_mut(&token).and_then(Cell::warm) else { return };
        let (template, asked) = (warm.template, warm.asked);
        if !asked {
            return self.fail(token, verify::refused("it didn't say in time that its walls stand"));
        }
        let heard = self.cells.get_mut(&template).and_then(Cell::template).map(|t| t.heard);
        match heard.map(|heard| heard + self.patience) {
            // It is busy with others.
            Some(until) if until > now => self.expected.push_back((until, token)),
            None => {}
            Some(_) => {
                let message = format!("it didn't answer a request to fork for {} s", self.patience.as_secs());
                self.refuse_template(template, message, String::new());
            }
        }
    }

    /// An answer to what nobody had asked.
    fn uninvited(&mut self, template: Token) {
        let message = "it answered a request to fork that it didn't have".to_owned();
        self.refuse_template(template, message, String::new());
    }

    /// The embryo has said whether its walls stand.
    pub(super) fn handle_outcome(&mut self, token: Token) {
        let Some(warm) = self.cells.get_mut(&token).and_then(Cell::warm) else { return };
        let Some(outcome) = &warm.outcome else { return };
        let mut bytes = [0u8; OUTCOME_BYTES];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(outcome, &mut bytes));
        let said = match got {
            Err(Errno::AGAIN) => return,
            Ok(n) => bytes.get(..n).and_then(Outcome::decode),
            Err(_) => None,
        };
        match said {
            Some(Outcome { stage: 0, .. }) if !warm.walls_stand => {
                warm.walls_stand = true;
                self.check_embryo(token);
            }
            Some(Outcome { stage, errno }) if stage != 0 => {
                self.drop_outcome(token);
                let word = Stage::from_number(stage).map_or("embryo", Stage::word);
                let e = Errno::from_raw_os_error(errno);
                self.fail(
                    token,
                    failure(word, e, "the embryo couldn't put up its walls", "run `clove doctor`"),
                );
            }
            // It has ended, or says nothing: its pidfd, the template's answer or the time that passes tell.
            _ => self.drop_outcome(token),
        }
    }

    fn drop_outcome(&mut self, token: Token) {
        if let Some(outcome) = self.cells.get_mut(&token).and_then(Cell::warm).and_then(|w| w.outcome.take())
        {
            self.poller.remove(&outcome, Source::Outcome(token));
        }
    }

    /// Once it has come and says that its walls stand: looked at from outside, and let go.
    fn check_embryo(&mut self, token: Token) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.killed || cell.failure.is_some() || cell.state != State::Starting {
            return;
        }
        let (Some(init), group) = (cell.first.as_ref().map(|f| f.pid), cell.group.clone()) else { return };
        let (uid, nofile, cwd) = (cell.uid, cell.plan.nofile, cell.plan.cwd.clone());
        let Some(warm) = cell.warm().filter(|w| w.walls_stand) else { return };
        let Some(embryo) = &warm.embryo else { return };
        let pid = embryo.pid;
        let cgroups = group.map(|g| self.cgroups.paths(&g)).unwrap_or_default();
        let wanted = Expected { pid, init, uid, cgroups, nofile, cwd, given: &warm.given };
        let checked = verify::verify(&wanted, &embryo.pidfd).and_then(|()| {
            let outcome = warm.outcome.as_ref().map(|o| rustix::io::write(o, &[embryo::GO]));
            match outcome {
                Some(Ok(1)) => Ok(()),
                _ => Err(verify::refused("it doesn't wait to be let go")),
            }
        });
        self.drop_outcome(token);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        match checked {
            Ok(()) => {
                cell.state = State::Running;
                self.tell(&Event::Started { token, pid: pid as u32 }, &[]);
            }
            Err(f) => self.fail(token, f),
        }
    }
}

/// The parent's pid, from /proc/PID/stat: after the last `)`, state and ppid.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
