//! Ends: reaping, the last measurements, and giving back what a cell held.

use super::Launcher;
use super::cell::{Cell, Failure, Kind, Process, Retired, State};
use super::poller::Source;
use crate::protocol::{Event, Status, Token};
use clove_abi::certificate::Usage;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, pidfd_send_signal, waitid,
};
use std::os::fd::AsFd;

impl Launcher {
    /// The init of a cell has ended, and with it everything in its PID namespace.
    pub(super) fn handle_first_ended(&mut self, token: Token) {
        // What it said last may still wait in its socket.
        self.handle_setup(token);
        let Some(cell) = self.cells.get_mut(&token) else { return self.handle_retired_ended(token) };
        let Some(status) = cell.first.as_ref().and_then(reap) else { return };
        cell.first_status = Some(status);
        if let Some(first) = cell.first.take() {
            self.poller.remove(&first.pidfd, Source::First(token));
        }
        self.drop_setup(token);
        self.finish_if_over(token);
    }

    /// A template or an embryo has ended. An embryo's init isn't needed any more.
    pub(super) fn handle_beside_ended(&mut self, token: Token) {
        let Some(status) = self.cells.get(&token).and_then(Cell::beside_init).and_then(reap) else { return };
        // What a template said last may still wait in its socket; and the end of its helper's, in that one.
        self.handle_control(token);
        // Also when something that it has left behind keeps its socket open.
        self.lose_template(token);
        self.handle_helper(token);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let ended = match &mut cell.kind {
            Kind::Cold { .. } => None,
            Kind::Template(t) => t.process.take(),
            Kind::Warm(w) => w.embryo.take(),
        };
        cell.status.get_or_insert(status);
        self.ending.insert(token);
        if let Some(first) = cell.first.as_ref().filter(|_| matches!(cell.kind, Kind::Warm(_))) {
            let _ = pidfd_send_signal(&first.pidfd, Signal::KILL);
        }
        if let Some(ended) = ended {
            self.poller.remove(&ended.pidfd, Source::Beside(token));
        }
        self.finish_if_over(token);
    }

    /// Tells the kernel and clears away, once nothing of the cell is left.
    pub(super) fn finish_if_over(&mut self, token: Token) {
        if self.cells.get(&token).is_some_and(Cell::is_over)
            && let Some(cell) = self.cells.remove(&token)
        {
            self.ending.remove(&token);
            self.finish(cell);
        }
    }

    fn finish(&mut self, mut cell: Cell) {
        let token = cell.token;
        let usage = self.last_usage(&mut cell);
        self.give_back(&mut cell);
        let first_status = cell.first_status.unwrap_or(Status::Signal(libc::SIGKILL));
        let status_seen = cell.status.unwrap_or(first_status);
        let unfinished = matches!(cell.state, State::Building | State::Starting);
        if let Kind::Template(t) = &cell.kind
            && !t.ready
            && !t.failed
            && !cell.killed
            && cell.failure.is_none()
        {
            let when = match t.doing.as_str() {
                "" => "before it had begun to load".to_owned(),
                what => format!("in the middle of {what}"),
            };
            // Whoever is killed for want of memory shows no more than the signal.
            let how = if cell.out_of_memory || usage.oom_kills > 0 {
                format!(
                    "it needed more memory than {} MiB, all that agents may have here",
                    cell.policy.limits.memory_bytes >> 20
                )
            } else {
                describe(status_seen)
            };
            let message = format!("its process ended {when} ({how})");
            self.tell(&Event::TemplateFailed { token, message, traceback: String::new() }, &[]);
        }
        match cell.failure {
            Some(f) if !cell.killed => self.tell_failed(token, f),
            None if unfinished && !cell.killed && cell.is_agent() => {
                let f = if cell.out_of_memory || usage.oom_kills > 0 {
                    Failure {
                        stage: "init".into(),
                        errno: libc::ENOMEM,
                        message: "the memory limit is too small to start it".into(),
                        hint: "give it more memory".into(),
                    }
                } else {
                    Failure {
                        stage: "init".into(),
                        errno: 0,
                        message: format!("it ended while it was being made ({})", describe(status_seen)),
                        hint: "somebody on the host may have killed it: try again".into(),
                    }
                };
                self.tell_failed(token, f);
            }
            _ => self.tell(&Event::Exited { token, status: status_seen, usage }, &[]),
        }
    }

    /// Read before the group goes.
    fn last_usage(&mut self, cell: &mut Cell) -> Usage {
        let mut usage = cell.group.as_ref().map(|g| self.cgroups.usage(g)).unwrap_or_default();
        usage.disk_full = cell.scratch.as_ref().is_some_and(|s| is_full(s.as_fd()));
        if cell.out_of_memory {
            usage.oom_kills = usage.oom_kills.max(1);
        }
        usage
    }

    fn give_back(&mut self, cell: &mut Cell) {
        let token = cell.token;
        if let Some(oom) = cell.oom.take() {
            self.poller.remove(&oom, Source::Oom(token));
        }
        if let Some(group) = cell.group.take() {
            self.removals.push(group);
            self.retry_removals();
        }
        match &mut cell.kind {
            Kind::Cold { .. } => self.uids.give_back(cell.uid),
            Kind::Template(t) => {
                if let Some(control) = t.control.take() {
                    self.poller.remove(&control, Source::Control(token));
                }
                let init = cell.first.take();
                self.retired.push(Retired { token, first_id: t.first_id, init, is_ending: false });
            }
            Kind::Warm(w) => {
                if let Some(outcome) = w.outcome.take() {
                    self.poller.remove(&outcome, Source::Outcome(token));
                }
                let (template, inner) = (w.template, w.inner_id);
                if let Some(t) = self.cells.get_mut(&template).and_then(Cell::template) {
                    t.uids.give_back(inner);
                }
            }
        }
        self.free_retired();
    }

    /// When the last agent of a template has ended too, its init may go; and then its ids are free again.
    fn free_retired(&mut self) {
        let (cells, uids) = (&self.cells, &mut self.uids);
        self.retired.retain_mut(|r| {
            let in_use = cells.values().any(|c| matches!(&c.kind, Kind::Warm(w) if w.template == r.token));
            match &r.init {
                _ if in_use => true,
                Some(init) => {
                    let _ = pidfd_send_signal(&init.pidfd, Signal::KILL);
                    r.is_ending = true;
                    true
                }
                None => {
                    uids.give_back_range(r.first_id);
                    false
                }
            }
        });
    }

    fn handle_retired_ended(&mut self, token: Token) {
        let Some(retired) = self.retired.iter_mut().find(|r| r.token == token) else { return };
        if retired.init.as_ref().and_then(reap).is_none() {
            return;
        }
        if let Some(init) = retired.init.take() {
            self.poller.remove(&init.pidfd, Source::First(token));
        }
        self.free_retired();
    }

    /// A child that is waited for by its pidfd.
    pub(super) fn owns(&self, pid: i32) -> bool {
        self.cells.values().any(|c| c.owns(pid))
            || self.retired.iter().any(|r| r.init.as_ref().is_some_and(|i| i.pid == pid))
    }

    /// rmdir of a group is refused for a short while after its last process has ended; and a template may have left
    /// processes in its group.
    pub(super) fn retry_removals(&mut self) {
        let cgroups = &self.cgroups;
        self.removals.retain(|g| {
            if cgroups.remove(g) {
                return false;
            }
            if !cgroups.kill(g) {
                for pid in cgroups.processes(g).into_iter().filter_map(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            true
        });
    }

    /// What nobody tells of: groups that can be removed now, children that have ended. As long as there is something to
    /// wait for, it is looked for again, less and less often.
    pub(super) fn sweep(&mut self) {
        if !self.removals.is_empty() {
            self.retry_removals();
        }
        self.reap_strays();
        let quiet = self.removals.is_empty() && !self.may_be_held_up();
        self.sweep_wait = match quiet {
            true => None,
            false => Some(self.sweep_wait.map_or(FIRST_WAIT, |w| (w * 2).min(LAST_WAIT))),
        };
    }

    /// Somebody's end has been begun. The init of a PID namespace waits for all that is in it, and a template may have put
    /// children of the launcher there that the launcher wasn't told of.
    fn may_be_held_up(&self) -> bool {
        !self.ending.is_empty() || self.retired.iter().any(|r| r.is_ending)
    }

    /// Helpers, and what templates have left behind, come to the launcher when they end.
    fn reap_strays(&mut self) {
        while self.strays > 0 || !self.removals.is_empty() || self.may_be_held_up() {
            let Some(pid) = clove_sys::reap::peek_ended() else { return };
            if self.owns(pid) {
                // Its own pidfd brings it up next; the strays behind it wait for that.
                return;
            }
            clove_sys::reap::discard(pid);
            self.strays = self.strays.saturating_sub(1);
        }
    }

    /// On the way out: everything dies with its init; nobody is left to be told.
    pub(super) fn kill_everything(&mut self) {
        for cell in self.cells.values() {
            if let Some(group) = &cell.group {
                self.cgroups.kill(group);
            }
            for process in [cell.first.as_ref(), cell.beside_init()].into_iter().flatten() {
                let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
            }
        }
        for init in self.retired.iter().filter_map(|r| r.init.as_ref()) {
            let _ = pidfd_send_signal(&init.pidfd, Signal::KILL);
        }
        // Whatever is a child of this process, known or not: a template may have forked an embryo that nobody has
        // been told of yet, and the init of its cell can't end before that is reaped (pid_namespaces(7)).
        let deadline = std::time::Instant::now() + LAST_REAPING;
        let mut pause = std::time::Duration::from_micros(200);
        while std::time::Instant::now() < deadline {
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(FIRST_WAIT);
                }
                // No children are left.
                Err(_) => break,
            }
        }
        for cell in std::mem::take(&mut self.cells).into_values() {
            self.removals.extend(cell.group);
        }
        // The kernel's books know these agents as gone; what can't be removed now goes at the next start.
        for _ in 0..50 {
            self.retry_removals();
            if self.removals.is_empty() {
                self.cgroups.remove_folder();
                return;
            }
            std::thread::sleep(FIRST_WAIT);
        }
    }
}

const FIRST_WAIT: std::time::Duration = std::time::Duration::from_millis(5);
const LAST_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
/// How long the launcher stays to reap what it has killed.
const LAST_REAPING: std::time::Duration = std::time::Duration::from_secs(5);

/// `None` when it hasn't ended. One that ended before the launcher knew it as a cell's may have been reaped as a stray:
/// its status is lost, but it has ended (and only a SIGKILL of ours comes that early).
fn reap(process: &Process) -> Option<Status> {
    match waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(ended) => ended.map(|s| status(&s)),
        Err(rustix::io::Errno::INTR) => None,
        Err(_) => Some(Status::Signal(libc::SIGKILL)),
    }
}

fn status(s: &WaitIdStatus) -> Status {
    match (s.exit_status(), s.terminating_signal()) {
        (Some(code), _) => Status::Code(code),
        (None, Some(signal)) => Status::Signal(signal),
        (None, None) => Status::Signal(libc::SIGKILL),
    }
}

fn describe(status: Status) -> String {
    match status {
        Status::Code(code) => format!("exit code {code}"),
        Status::Signal(libc::SIGSEGV) => "SIGSEGV: a crash in native code".to_owned(),
        Status::Signal(libc::SIGABRT) => "SIGABRT: its own abort()".to_owned(),
        Status::Signal(libc::SIGKILL) => "SIGKILL: killed, or out of memory".to_owned(),
        Status::Signal(signal) => format!("signal {signal}"),
    }
}

/// Less than a page, or no inode, is free.
fn is_full(scratch: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fstatvfs(scratch).is_ok_and(|s| s.f_bavail == 0 || s.f_favail == 0)
}
