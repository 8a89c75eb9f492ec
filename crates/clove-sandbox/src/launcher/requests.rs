//! What the kernel asks for.

use super::Launcher;
use super::cell::{Cell, Failure, State};
use crate::protocol::{Event, Request, Token};
use clove_sys::stub::START;
use rustix::net::SendFlags;
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::{AsFd, OwnedFd};

impl Launcher {
    pub(super) fn request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Spawn { token, cell, argv, hold } => {
                self.begin(token, |l| l.spawn_cold(token, cell, argv, hold, fds));
            }
            Request::Template { token, cell, argv } => {
                self.begin(token, |l| l.spawn_template(token, cell, argv, fds))
            }
            Request::Embryo { token, template, cell } => {
                self.begin(token, |l| l.spawn_warm(token, template, cell, fds));
            }
            Request::Start { token } => self.start(token),
            Request::Kill { token } => self.kill(token),
            Request::Signal { token, signal } => self.signal(token, signal),
            Request::SetLimits { token, limits } => self.set_limits(token, limits),
            Request::Freeze { token } => self.freeze(token, true),
            Request::Thaw { token } => self.freeze(token, false),
            Request::Measure { token } => self.measure(token),
            Request::Shutdown => self.leaving = true,
        }
    }

    /// Starts a spawn; what fails half-way is cleared away by the path for all ends.
    fn begin(&mut self, token: Token, spawn: impl FnOnce(&mut Self) -> Result<(), Failure>) {
        if self.cells.contains_key(&token) {
            return self.tell_failed(token, reused_token());
        }
        if let Err(f) = spawn(self) {
            if self.cells.contains_key(&token) {
                self.fail(token, f);
            } else {
                self.tell_failed(token, f);
            }
        }
    }

    pub(super) fn tell_failed(&mut self, token: Token, f: Failure) {
        let Failure { stage, errno, message, hint } = f;
        self.tell(&Event::SpawnFailed { token, stage, errno, message, hint }, &[]);
    }

    fn start(&mut self, token: Token) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.state != State::Ready {
            return;
        }
        if let Some(setup) = &cell.setup {
            cell.state = State::Starting;
            // A stub that is gone is told by its pidfd.
            let _ = clove_sys::scm::send(setup.as_fd(), &[START], &[], SendFlags::DONTWAIT);
        }
    }

    /// Never blocks; the end comes by the pidfds.
    fn kill(&mut self, token: Token) {
        if let Some(cell) = self.cells.get_mut(&token) {
            cell.killed = true;
            self.end_processes(token);
        }
    }

    /// SIGKILL to everything there is of a cell now.
    pub(super) fn end_processes(&mut self, token: Token) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        self.ending.insert(token);
        if let Some(group) = &cell.group {
            self.cgroups.kill(group);
        }
        if let Some(beside) = cell.beside_init() {
            let _ = pidfd_send_signal(&beside.pidfd, Signal::KILL);
        }
        // A template's agents live on, and with them its init.
        let init_stays = !cell.is_agent() && (cell.beside_init().is_some() || cell.status.is_some());
        if let Some(first) = cell.first.as_ref().filter(|_| !init_stays) {
            let _ = pidfd_send_signal(&first.pidfd, Signal::KILL);
        }
        self.finish_if_over(token);
    }

    /// The cell can't come to be: remembers why, and ends what there is of it.
    pub(super) fn fail(&mut self, token: Token, f: Failure) {
        if let Some(cell) = self.cells.get_mut(&token) {
            cell.failure.get_or_insert(f);
            self.end_processes(token);
        }
    }

    fn signal(&mut self, token: Token, number: i32) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let Some(signal) = Signal::from_named_raw(number) else { return };
        if let Some(program) = &cell.program {
            let _ = pidfd_send_signal(program, signal);
        } else if let Some(beside) = cell.beside_init() {
            let _ = pidfd_send_signal(&beside.pidfd, signal);
        }
    }

    fn set_limits(&mut self, token: Token, limits: clove_abi::Limits) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let Some(group) = &cell.group else { return };
        match self.cgroups.set_limits(group, &limits) {
            Ok(()) => cell.policy.limits = limits,
            Err(e) => super::say(&format!("new limits for {}: {e}", cell.policy.label)),
        }
    }

    fn freeze(&mut self, token: Token, frozen: bool) {
        let Some(group) = self.cells.get(&token).and_then(|c| c.group.as_ref()) else { return };
        if let Err(e) = self.cgroups.freeze(group, frozen) {
            super::say(&format!("freezing {}: {e}", group.0));
        }
    }

    fn measure(&mut self, token: Token) {
        let Some(group) = self.cells.get(&token).and_then(|c: &Cell| c.group.as_ref()) else { return };
        let (usage, now) = (self.cgroups.usage(group), self.cgroups.now(group));
        let event = Event::Usage { token, usage, memory_bytes: now.memory_bytes, pids: now.pids };
        self.tell(&event, &[]);
    }

    /// v1: somebody in the group ran out of memory. The kernel may kill only one process; the agent dies whole.
    pub(super) fn handle_oom(&mut self, token: Token) {
        if let Some(cell) = self.cells.get_mut(&token) {
            cell.out_of_memory = true;
            if let Some(oom) = cell.oom.take() {
                self.poller.remove(&oom, super::poller::Source::Oom(token));
            }
            self.end_processes(token);
        }
    }
}

fn reused_token() -> Failure {
    Failure {
        stage: "request".into(),
        errno: libc::EEXIST,
        message: "this token is in use".into(),
        hint: "this is a bug in CloveOS".into(),
    }
}
