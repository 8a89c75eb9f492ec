//! Warm agents: a cell inside a template's user namespace, and an embryo forked into it.

use super::cell::{Cell, Failure, Kind, Process, State, Warm};
use super::failures::{failure, from_io, namespace_hint, wrong_descriptors};
use super::ground::setup_pair;
use super::poller::Source;
use super::setup::pid_of;
use super::template::template_gone;
use super::{Launcher, NAMESPACES};
use crate::compile::{self, c_string};
use crate::plan::{AGENT_ID, CellKind};
use crate::protocol::{CellPolicy, Event, Token};
use clove_sys::embryo::{self, ForkReply, ForkRequest, OUTCOME_BYTES, Outcome};
use clove_sys::nested::{self, Map, NEWS_BYTES, News};
use clove_sys::program::ResourceLimits;
use clove_sys::report::Stage;
use clove_sys::scm;
use clove_sys::stub::{Role, Stub};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

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
        let user_namespace = template.user_namespace.as_ref().map_or(-1, |n| n.as_raw_fd());
        let uid = template.first_id + inner_id;
        let warm = Warm {
            template: template_token,
            inner_id,
            fds,
            helper: None,
            asked: false,
            outcome: None,
            walls_stand: false,
            embryo: None,
        };
        let mut cell = Cell::new(token, policy, plan, Kind::Warm(Box::new(warm)), uid);
        let made = self.make_warm(&mut cell, user_namespace, inner_id);
        self.cells.insert(token, cell);
        made?;
        let cell = self.cells.get_mut(&token);
        if let Some(helper) = cell.and_then(Cell::warm).and_then(|w| w.helper.as_ref()) {
            let watched = self.poller.add(helper, Source::Helper(token));
            watched.map_err(|e| from_io("launcher", &e, "no more to be watched", ""))?;
        }
        Ok(())
    }

    fn make_warm(&mut self, cell: &mut Cell, user_namespace: i32, inner_id: u32) -> Result<(), Failure> {
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
        let mut stub = Stub { setup: theirs.as_raw_fd(), keep, groups, script, role: Role::Warm };
        stub.sort();
        let map = Map { inside: AGENT_ID, outside: inner_id };
        nested::spawn(&self.proof, user_namespace, NAMESPACES, born_in, &stub, map, up.as_raw_fd())
            .map_err(|e| failure("fork", e, "the helper that makes the cell", namespace_hint(e)))?;
        // The warden and the maker.
        self.strays += 2;
        cell.setup = Some(ours);
        if let Some(w) = cell.warm() {
            w.helper = Some(helper);
        }
        Ok(())
    }

    /// News from the helpers.
    pub(super) fn handle_helper(&mut self, token: Token) {
        loop {
            let Some(helper) =
                self.cells.get_mut(&token).and_then(Cell::warm).and_then(|w| w.helper.as_ref())
            else {
                return;
            };
            let mut bytes = [0u8; NEWS_BYTES];
            let mut fds = [None];
            let news = match scm::recv(helper.as_fd(), &mut bytes, &mut fds, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return,
                Ok((NEWS_BYTES, _)) => News::decode(&bytes),
                _ => None,
            };
            let [pidfd] = fds;
            match news {
                Some(News::Made { pid }) => {
                    if let Some(pidfd) = pidfd {
                        self.adopt_first(token, Process { pid, pidfd });
                    }
                }
                Some(News::Mapped) => {
                    self.drop_helper(token);
                    let released = self.release(token);
                    self.fail_on_error(token, released);
                    self.finish_if_over(token);
                    return;
                }
                Some(News::Failed { stage, errno }) => {
                    self.drop_helper(token);
                    let e = Errno::from_raw_os_error(errno);
                    let f =
                        failure(stage.word(), e, "making the cell inside the template", namespace_hint(e));
                    self.fail(token, f);
                    return;
                }
                None => {
                    self.drop_helper(token);
                    let message = "the helpers that make the cell ended";
                    self.fail(token, failure("fork", Errno::CHILD, message, "try again"));
                    return;
                }
            }
        }
    }

    fn drop_helper(&mut self, token: Token) {
        if let Some(helper) = self.cells.get_mut(&token).and_then(Cell::warm).and_then(|w| w.helper.take()) {
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
            filter: self.filter.clone(),
            cwd: c_string(&cell.plan.cwd)?,
        };
        let mut fds = Vec::with_capacity(embryo::FDS);
        // Descriptors of namespaces, not of init: init's memory is a copy of the launcher's, and entering by a process
        // would mean being allowed to look into it.
        for name in NAMESPACE_FILES {
            let file = File::open(format!("/proc/{init}/ns/{name}"));
            fds.push(file.map_err(|e| from_io("namespaces", &e, "a namespace of the cell", ""))?.into());
        }
        let (outcome, told) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
                .map_err(|e| failure("launcher", e, "no pipe", ""))?;
        let Some(warm) = cell.warm() else { return Ok(()) };
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
        let is_ours =
            |pid: u32| parent_of(pid) == Some(own) && !self.cells.values().any(|c| c.owns(pid as i32));
        // A zombie still has its pid; a process that isn't ours, or is known already, is a lie.
        let genuine = known_pid.filter(|pid| is_ours(*pid));
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let ending = cell.killed || cell.failure.is_some();
        let Some(warm) = cell.warm().filter(|w| w.template == template && w.asked) else { return };
        warm.asked = false;
        match (reply.errno, pidfd, genuine) {
            (0, Some(pidfd), Some(pid)) => {
                if ending {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                }
                let watched = self.poller.add(&pidfd, Source::Embryo(token));
                warm.embryo = Some(Process { pid: pid as i32, pidfd });
                if let Err(e) = watched {
                    self.fail(token, from_io("launcher", &e, "no more to be watched", ""));
                }
                self.check_embryo(token);
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

    /// The embryo has said whether its walls stand.
    pub(super) fn handle_outcome(&mut self, token: Token) {
        let Some(warm) = self.cells.get_mut(&token).and_then(Cell::warm) else { return };
        let Some(outcome) = warm.outcome.take() else { return };
        let mut bytes = [0u8; OUTCOME_BYTES];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&outcome, &mut bytes));
        self.poller.remove(&outcome, Source::Outcome(token));
        let said = got.ok().and_then(|n| Outcome::decode(bytes.get(..n).unwrap_or_default()));
        match said {
            Some(Outcome { stage: 0, .. }) => {
                warm.walls_stand = true;
                self.check_embryo(token);
            }
            Some(Outcome { stage, errno }) => {
                let word = Stage::from_number(stage).map_or("embryo", Stage::word);
                let e = Errno::from_raw_os_error(errno);
                self.fail(
                    token,
                    failure(word, e, "the embryo couldn't put up its walls", "run `clove doctor`"),
                );
            }
            // It ended first. If the template has given it to us, its pidfd tells; else the template's answer does.
            None => {}
        }
    }

    /// Once it has come and says that its walls stand: looked at from outside, and let go.
    fn check_embryo(&mut self, token: Token) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.killed || cell.failure.is_some() || cell.state != State::Starting {
            return;
        }
        let (Some(init), group) = (cell.first.as_ref().map(|f| f.pid), cell.group.clone()) else { return };
        let uid = cell.uid;
        let Some(warm) = cell.warm().filter(|w| w.walls_stand) else { return };
        let Some(embryo) = &warm.embryo else { return };
        let pid = embryo.pid;
        let cgroups = group.map(|g| self.cgroups.paths(&g)).unwrap_or_default();
        let checked =
            super::verify::verify(&super::verify::Expected { pid, init, uid, cgroups }, &embryo.pidfd);
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
