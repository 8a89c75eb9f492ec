//! Templates: confined processes that have loaded a library set, and fork agents into cells on request.

use super::cell::{Cell, Failure, Kind, Process, State, Template};
use super::failures::{failure, from_io, namespace_hint, wrong_descriptors};
use super::ground::{candidates, environment, goes_first, namespace_of, setup_pair, strings, write_maps};
use super::poller::Source;
use super::{Launcher, NAMESPACES, verify};
use crate::compile::{self, c_string};
use crate::plan::{AGENT_ID, CellKind};
use crate::protocol::{CellPolicy, Event, Token};
use crate::seccomp;
use crate::uids::{TEMPLATE_RANGE, TemplateUids};
use clove_sys::embryo::ForkReply;
use clove_sys::nested::{self, Entry};
use clove_sys::program::{Program, ResourceLimits, Stdio};
use clove_sys::stub::{Role, Stub};
use clove_sys::{clone, privileges, scm};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, pidfd_send_signal};
use serde::Deserialize;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A traceback that is longer is cut by the host module.
const WORD_BYTES: usize = 128 << 10;

/// How long a template whose socket has ended may take to end itself.
const GRACE: Duration = Duration::from_secs(2);

/// What a template says that it has begun is passed on so often, and in so many characters.
const MOST_TOLD: u32 = 1000;
const MOST_SHOWN: usize = 200;

/// Records taken from one template in a turn: one that talks without end doesn't hold up the others.
const RECORDS_PER_TURN: usize = 32;

/// The namespaces that its program enters, in this order: the user namespace gives the rights over the others.
const ENTERED: [(&str, i32); 6] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
];

/// What a template host says about itself.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Word {
    /// What it has begun: an import, the script, setup.
    Doing {
        #[serde(default)]
        what: String,
    },
    Ready {
        #[serde(default)]
        threads: u64,
        #[serde(default)]
        rss_bytes: u64,
        #[serde(default)]
        notes: Vec<String>,
    },
    Failed {
        #[serde(default)]
        message: String,
        #[serde(default)]
        traceback: String,
    },
}

impl Launcher {
    pub(super) fn spawn_template(
        &mut self,
        token: Token,
        policy: CellPolicy,
        argv: Vec<String>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        crate::plan::check_argv(&argv)?;
        let count = fds.len();
        let Ok([stdout, stderr]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(wrong_descriptors(2, count));
        };
        let plan = crate::plan::plan(CellKind::Template, &policy, &self.host)?;
        let hint = "stop templates that aren't needed any more";
        let first_id = self
            .uids
            .take_range()
            .ok_or_else(|| failure("uids", Errno::AGAIN, "no range of host uids is free", hint))?;
        let (control, theirs) = setup_pair()?;
        let template = Template {
            argv,
            control: Some(control),
            process: None,
            fds: Some([theirs, stdout, stderr]),
            home: None,
            heard: Instant::now(),
            first_id,
            uids: TemplateUids::default(),
            ready: false,
            failed: false,
            doing: String::new(),
            told: 0,
            queue: VecDeque::new(),
        };
        let kind = Kind::Template(Box::new(template));
        let mut cell = Cell::new(token, policy, plan, kind, first_id + AGENT_ID);
        let made = self.make_template_cell(&mut cell, first_id);
        self.cells.insert(token, cell);
        made.and_then(|()| self.watch_first(token)).and_then(|()| self.release(token))
    }

    /// The cell's init, which makes the walls. It stays out of the template's group: it outlives the template.
    fn make_template_cell(&mut self, cell: &mut Cell, first_id: u32) -> Result<(), Failure> {
        self.make_group(cell)?;
        let plan = &cell.plan;
        let trees = self.open_trees(plan, &cell.policy, cell.uid)?;
        let (ours, theirs) = setup_pair()?;
        let script = compile::script(plan, &trees.numbers)?;
        let keep = trees.numbers.clone();
        let mut stub =
            Stub { setup: theirs.as_raw_fd(), keep, groups: Vec::new(), script, role: Role::Empty };
        stub.sort();
        let child = clone::spawn_owned(&self.proof, cell.uid, NAMESPACES, None, || stub.run())
            .map_err(|e| failure("namespaces", e, "clone3 with new namespaces", namespace_hint(e)))?;
        let pid = child.pid;
        cell.first = Some(Process { pid, pidfd: child.pidfd });
        cell.setup = Some(ours);
        write_maps(pid, 0, first_id, TEMPLATE_RANGE)?;
        let open = |name: &str| namespace_of(pid, name);
        let home = (open("user")?, open("pid")?);
        if let Some(t) = cell.template() {
            t.home = Some(home);
        }
        Ok(())
    }

    /// The cell stands: its program enters it.
    pub(super) fn start_template(&mut self, token: Token) -> Result<(), Failure> {
        let Some(cell) = self.cells.get(&token) else { return Ok(()) };
        let (doors, born_in) = self.doors(cell, true)?;
        let (Some(init), Kind::Template(t)) = (cell.first.as_ref().map(|f| f.pid), &cell.kind) else {
            return Ok(());
        };
        let Some([control, stdout, stderr]) = &t.fds else { return Ok(()) };
        let (policy, plan) = (&cell.policy, &cell.plan);
        let program = Program {
            stdio: Stdio::Descriptors([self.null.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]),
            control: Some(control.as_raw_fd()),
            limits: ResourceLimits { nofile: plan.nofile },
            keep_capabilities: Some(privileges::CAP_SYS_ADMIN),
            // Its agents put Landlock on themselves: under it, nobody can enter a mount namespace's root anew.
            landlock: None,
            filter: seccomp::template_filter(policy.profile),
            cwd: c_string(&plan.cwd)?,
            candidates: candidates(policy, cell.argv())?,
            argv: strings(cell.argv().iter().cloned())?,
            envp: environment(policy)?,
        };
        let (helper, up) = setup_pair()?;
        let mut opened = Vec::with_capacity(ENTERED.len());
        for (name, kind) in ENTERED {
            opened.push((namespace_of(init, name)?, kind));
        }
        let namespaces: Vec<_> = opened.iter().map(|(fd, kind)| (fd.as_raw_fd(), *kind)).collect();
        let groups: Vec<_> = doors.iter().map(|d| d.as_raw_fd()).collect();
        let entry = Entry {
            namespaces: &namespaces,
            groups: &groups,
            uid: AGENT_ID,
            gid: AGENT_ID,
            program: &program,
        };
        let born_in = born_in.as_ref().map(|d| d.as_fd());
        nested::spawn_program(&self.proof, born_in, &entry, up.as_raw_fd())
            .map_err(|e| failure("fork", e, "the helper that starts the template", namespace_hint(e)))?;
        self.strays += 1;
        let Some(cell) = self.cells.get_mut(&token) else { return Ok(()) };
        if let Some(t) = cell.template() {
            t.fds = None;
        }
        self.watch_helper(token, helper)
    }

    /// Its program exists; it may not have got to its exec. What it says is listened to from here on.
    pub(super) fn adopt_template(&mut self, token: Token, process: Process) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.killed || cell.failure.is_some() {
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
        }
        // And with it all that it forks.
        goes_first(process.pid);
        let mut watched = self.poller.add(&process.pidfd, Source::Beside(token));
        if let Some(t) = cell.template() {
            t.process = Some(process);
            if let (Ok(()), Some(control)) = (&watched, &t.control) {
                watched = self.poller.add(control, Source::Control(token));
            }
        }
        if let Err(e) = watched {
            self.fail(token, from_io("launcher", &e, "no more to be watched", ""));
        }
    }

    /// What the template has said: about itself in JSON, about embryos in fixed records. The poller comes back for what
    /// one turn leaves.
    pub(super) fn handle_control(&mut self, token: Token) {
        let mut bytes = vec![0u8; WORD_BYTES];
        let mut reset = false;
        for _ in 0..RECORDS_PER_TURN {
            let Some(template) = self.cells.get_mut(&token).and_then(Cell::template) else { return };
            let Some(control) = &template.control else { return };
            let mut fds = [const { None }; 2];
            match scm::recv(control.as_fd(), &mut bytes, &mut fds, RecvFlags::DONTWAIT) {
                Ok((n, came)) if n > 0 => {
                    template.heard = Instant::now();
                    let record = bytes.get(..n).unwrap_or_default();
                    let reply = ForkReply::decode(record);
                    match reply {
                        _ if came > usize::from(reply.is_some()) => {
                            let message = format!("it sent {came} descriptors that nobody had asked for");
                            self.refuse_template(token, message, String::new());
                        }
                        Some(reply) => self.handle_fork_reply(token, reply, fds.into_iter().flatten().next()),
                        None => self.handle_word(token, record.to_vec()),
                    }
                    self.flush_requests(token);
                }
                Err(Errno::AGAIN) => return,
                // It ended without having read all that it was sent (unix(7)). What it said before comes next.
                Err(Errno::CONNRESET) if !reset => reset = true,
                _ => {
                    self.lose_template(token);
                    return;
                }
            }
        }
    }

    fn handle_word(&mut self, token: Token, record: Vec<u8>) {
        let word = serde_json::from_slice::<Word>(&record);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let group = cell.group.clone();
        let Some(template) = cell.template() else { return };
        let pid = template.process.as_ref().map_or(0, |p| p.pid);
        match word {
            Ok(Word::Ready { threads, rss_bytes, notes }) if !template.ready && !template.failed => {
                // What it says about itself is for honest ones; what is seen from outside is for the others.
                let seen = threads.max(verify::threads_of(pid));
                let others = group.map(|g| self.cgroups.processes(&g)).unwrap_or_default();
                let others = others.into_iter().filter(|p| *p != pid).count();
                if seen > 1 {
                    let message =
                        format!("it holds {seen} threads after its setup; a forked copy would have only one");
                    return self.refuse_template(token, message, String::new());
                }
                if others > 0 {
                    let (what, run) = if others == 1 { ("process", "runs") } else { ("processes", "run") };
                    let message = format!(
                        "{others} {what} that it has started still {run} after its setup; start what is needed in the task"
                    );
                    return self.refuse_template(token, message, String::new());
                }
                if let Some(cell) = self.cells.get_mut(&token) {
                    cell.state = State::Running;
                    if let Some(t) = cell.template() {
                        t.ready = true;
                    }
                }
                self.tell(&Event::TemplateReady { token, pid: pid as u32, rss_bytes, notes }, &[]);
            }
            Ok(Word::Ready { .. }) => {}
            Ok(Word::Doing { what }) => {
                if !template.ready && !template.failed && template.told < MOST_TOLD {
                    template.told += 1;
                    template.doing = what.chars().take(MOST_SHOWN).collect();
                    let what = template.doing.clone();
                    self.tell(&Event::TemplateDoing { token, what }, &[]);
                }
            }
            Ok(Word::Failed { message, traceback }) => self.refuse_template(token, message, traceback),
            Err(e) => {
                let message = format!("its host module said something that isn't understood: {e}");
                self.refuse_template(token, message, String::new());
            }
        }
    }

    pub(super) fn refuse_template(&mut self, token: Token, message: String, traceback: String) {
        if let Some(t) = self.cells.get_mut(&token).and_then(Cell::template)
            && !t.failed
        {
            t.failed = true;
            self.tell(&Event::TemplateFailed { token, message, traceback }, &[]);
            self.end_processes(token);
        }
    }

    /// Its control socket has ended, or it has: no embryo that it was asked for will come.
    pub(super) fn lose_template(&mut self, token: Token) {
        let Some(t) = self.cells.get_mut(&token).and_then(Cell::template) else { return };
        t.queue.clear();
        if let Some(control) = t.control.take() {
            self.poller.remove(&control, Source::Control(token));
        }
        let waiting: Vec<Token> = self
            .cells
            .values_mut()
            .filter_map(|c| {
                let token_of_cell = c.token;
                c.warm().filter(|w| w.template == token && w.asked).map(|w| {
                    w.asked = false;
                    token_of_cell
                })
            })
            .collect();
        for cell in waiting {
            self.strays += 1;
            self.fail(cell, template_gone());
        }
        // An interpreter on its way out closes its sockets before it ends: its exit code is worth the wait.
        self.late.push((Instant::now() + GRACE, token));
    }

    /// Ends templates that have lost their socket and didn't end by themselves. Gives the time to the next.
    pub(super) fn end_late_templates(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let (due, waiting) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= now);
        self.late = waiting;
        let due: Vec<(Instant, Token)> = due;
        for (_, token) in due {
            self.end_processes(token);
        }
        self.late.retain(|(_, token)| self.cells.contains_key(token));
        self.late.iter().map(|(at, _)| at.saturating_duration_since(now)).min()
    }

    /// Sends a request, or queues it when the template is behind.
    pub(super) fn send_to_template(
        &mut self,
        token: Token,
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let template = self.cells.get_mut(&token).and_then(Cell::template).filter(|t| t.control.is_some());
        let Some(template) = template else { return Err(template_gone()) };
        if template.queue.is_empty() {
            template.heard = Instant::now();
        }
        template.queue.push_back((bytes, fds));
        self.flush_requests(token);
        Ok(())
    }

    /// A full socket empties when the template answers, and each answer comes by here again.
    fn flush_requests(&mut self, token: Token) {
        let Some(template) = self.cells.get_mut(&token).and_then(Cell::template) else { return };
        let Some(control) = &template.control else { return };
        while let Some((bytes, fds)) = template.queue.front() {
            let borrowed: Vec<_> = fds.iter().map(|f| f.as_fd()).collect();
            match scm::send(control.as_fd(), bytes, &borrowed, SendFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return,
                // Also on other errors: the socket's end is told by itself, and fails what waits.
                _ => {
                    template.queue.pop_front();
                }
            }
        }
    }
}

pub fn template_gone() -> Failure {
    Failure {
        stage: "template".into(),
        errno: libc::ESRCH,
        message: "the template is gone".into(),
        hint: "it is built anew when the next agent needs it".into(),
    }
}
