//! Templates: confined processes that have loaded a library set, and fork agents into cells on request.

use super::Launcher;
use super::cell::{Cell, Failure, Kind, Process, State, Template};
use super::failures::{failure, from_io, namespace_hint, wrong_descriptors};
use super::ground::{candidates, environment, setup_pair, strings, write_maps};
use super::poller::Source;
use crate::compile::{self, c_string};
use crate::plan::{AGENT_ID, CellKind};
use crate::protocol::{CellPolicy, Event, Token};
use crate::seccomp;
use crate::uids::{TEMPLATE_RANGE, TemplateUids};
use clove_sys::embryo::ForkReply;
use clove_sys::program::{Program, ResourceLimits, Stdio};
use clove_sys::stub::{Role, Stub};
use clove_sys::{clone, privileges, scm};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use serde::Deserialize;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// No PID namespace: its agents' must be below its own (setns(2)), and they shall outlive it.
const NAMESPACES: u64 = clone::NEWUSER | clone::NEWNS | clone::NEWNET | clone::NEWIPC | clone::NEWUTS;
/// A traceback that is longer is cut by the host module.
const WORD_BYTES: usize = 128 << 10;

/// How long a template whose socket has ended may take to end itself.
const GRACE: Duration = Duration::from_secs(2);

/// What a template host says about itself.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Word {
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
        let [stdout, stderr] = fds.as_slice() else { return Err(wrong_descriptors(2, fds.len())) };
        let stdio = Stdio::Descriptors([self.null.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]);
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
            user_namespace: None,
            first_id,
            uids: TemplateUids::default(),
            ready: false,
            failed: false,
            queue: VecDeque::new(),
        };
        let kind = Kind::Template(Box::new(template));
        let mut cell = Cell::new(token, policy, plan, kind, first_id + AGENT_ID);
        let made = self.make_template(&mut cell, stdio, &theirs, first_id);
        self.cells.insert(token, cell);
        made?;
        if let Some(control) =
            self.cells.get_mut(&token).and_then(Cell::template).and_then(|t| t.control.as_ref())
        {
            let watched = self.poller.add(control, Source::Control(token));
            watched.map_err(|e| from_io("launcher", &e, "no more to be watched", ""))?;
        }
        self.watch_first(token).and_then(|()| self.release(token))
    }

    fn make_template(
        &mut self,
        cell: &mut Cell,
        stdio: Stdio,
        control: &OwnedFd,
        first_id: u32,
    ) -> Result<(), Failure> {
        self.make_group(cell)?;
        let (policy, plan) = (&cell.policy, &cell.plan);
        let trees = self.open_trees(plan, policy, cell.uid)?;
        let program = Program {
            stdio,
            control: Some(control.as_raw_fd()),
            limits: ResourceLimits { nofile: plan.nofile },
            keep_capabilities: Some(privileges::CAP_SYS_ADMIN),
            // Its agents put Landlock on themselves: under it, nobody can enter a mount namespace's root anew.
            landlock: None,
            filter: seccomp::template_filter(),
            cwd: c_string(&plan.cwd)?,
            candidates: candidates(policy, cell.argv())?,
            argv: strings(cell.argv().iter().cloned())?,
            envp: environment(policy)?,
        };
        let (ours, theirs) = setup_pair()?;
        let mut keep = trees.numbers.clone();
        keep.push(control.as_raw_fd());
        if let Stdio::Descriptors(fds) = stdio {
            keep.extend(fds);
        }
        let script = compile::script(plan, &trees.numbers)?;
        let (doors, born_in) = self.doors(cell, true)?;
        let groups = doors.iter().map(|d| d.as_raw_fd()).collect();
        let mut stub =
            Stub { setup: theirs.as_raw_fd(), keep, groups, script, role: Role::Template { program } };
        stub.sort();
        let child = clone::spawn(&self.proof, NAMESPACES, born_in.as_ref().map(|d| d.as_fd()), || stub.run())
            .map_err(|e| failure("namespaces", e, "clone3 with new namespaces", namespace_hint(e)))?;
        let pid = child.pid;
        cell.first = Some(Process { pid, pidfd: child.pidfd });
        cell.setup = Some(ours);
        write_maps(pid, 0, first_id, TEMPLATE_RANGE)?;
        let user = std::fs::File::open(format!("/proc/{pid}/ns/user"))
            .map_err(|e| from_io("namespaces", &e, "the template's user namespace", ""))?;
        if let Some(t) = cell.template() {
            t.user_namespace = Some(user.into());
        }
        Ok(())
    }

    /// Everything the template has said: about itself in JSON, about embryos in fixed records.
    pub(super) fn handle_control(&mut self, token: Token) {
        let mut bytes = vec![0u8; WORD_BYTES];
        loop {
            let Some(template) = self.cells.get_mut(&token).and_then(Cell::template) else { return };
            let Some(control) = &template.control else { return };
            let mut fds = [const { None }; 2];
            match scm::recv(control.as_fd(), &mut bytes, &mut fds, RecvFlags::DONTWAIT) {
                Ok((n, _)) if n > 0 => {
                    let record = bytes.get(..n).unwrap_or_default();
                    match ForkReply::decode(record) {
                        Some(reply) => self.handle_fork_reply(token, reply, fds.into_iter().flatten().next()),
                        None => self.handle_word(token, record.to_vec()),
                    }
                    self.flush_requests(token);
                }
                Err(Errno::AGAIN) => return,
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
        let pid = cell.first.as_ref().map_or(0, |f| f.pid as u32);
        let Some(template) = cell.template() else { return };
        match word {
            Ok(Word::Ready { threads, .. }) if threads > 1 => {
                let message =
                    format!("it holds {threads} threads after its setup; a forked copy would have only one");
                self.refuse_template(token, message, String::new());
            }
            Ok(Word::Ready { rss_bytes, notes, .. }) if !template.ready => {
                template.ready = true;
                cell.state = State::Running;
                self.tell(&Event::TemplateReady { token, pid, rss_bytes, notes }, &[]);
            }
            Ok(Word::Ready { .. }) => {}
            Ok(Word::Failed { message, traceback }) => self.refuse_template(token, message, traceback),
            Err(e) => {
                let message = format!("its host module said something that isn't understood: {e}");
                self.refuse_template(token, message, String::new());
            }
        }
    }

    fn refuse_template(&mut self, token: Token, message: String, traceback: String) {
        if let Some(t) = self.cells.get_mut(&token).and_then(Cell::template)
            && !t.failed
        {
            t.failed = true;
            self.tell(&Event::TemplateFailed { token, message, traceback }, &[]);
            self.end_processes(token);
        }
    }

    /// Its control socket has ended: no embryo that it was asked for will come.
    fn lose_template(&mut self, token: Token) {
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
