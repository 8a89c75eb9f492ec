//! What stubs say on their setup sockets.

use super::Launcher;
use super::cell::{Failure, Kind, State};
use super::failures::{program_failure, step_hint};
use super::poller::Source;
use crate::protocol::{Event, Status, Token};
use clove_sys::report::{NO_STEP, REPORT_BYTES, Report, SKIPPED};
use clove_sys::scm;
use rustix::net::RecvFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

impl Launcher {
    /// Reads everything a stub has said.
    pub(super) fn handle_setup(&mut self, token: Token) {
        loop {
            let Some(setup) = self.cells.get(&token).and_then(|c| c.setup.as_ref()) else { return };
            let mut bytes = [0u8; REPORT_BYTES];
            let mut fds = [const { None }; 4];
            match scm::recv(setup.as_fd(), &mut bytes, &mut fds, RecvFlags::DONTWAIT) {
                Ok((REPORT_BYTES, _)) => {
                    if let Some(report) = Report::decode(&bytes) {
                        self.report(token, report, fds.into_iter().flatten().collect());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return,
                // The end: its pidfd tells the rest.
                _ => {
                    self.drop_setup(token);
                    return;
                }
            }
        }
    }

    pub(super) fn drop_setup(&mut self, token: Token) {
        if let Some(setup) = self.cells.get_mut(&token).and_then(|c| c.setup.take()) {
            self.poller.remove(&setup, Source::Setup(token));
        }
    }

    fn report(&mut self, token: Token, report: Report, fds: Vec<OwnedFd>) {
        match report {
            Report::Ready { skipped } => self.cell_ready(token, skipped, fds),
            Report::Started => self.program_started(token, fds),
            Report::Ended { status } => {
                if let Some(cell) = self.cells.get_mut(&token) {
                    cell.status = Some(status_of(status));
                }
            }
            Report::ScriptFailed { step, errno } => {
                let Some(cell) = self.cells.get(&token) else { return };
                let op = cell
                    .plan
                    .ops
                    .get(step as usize)
                    .map_or_else(|| format!("step {step}"), |p| p.op.to_string());
                let message = format!("{op}: {}", std::io::Error::from_raw_os_error(errno));
                let hint = step_hint(errno, &cell.policy.limits).to_owned();
                self.fail(token, Failure { stage: "walls".into(), errno, message, hint });
            }
            Report::ProgramFailed { stage, errno, found } => {
                let Some(cell) = self.cells.get(&token) else { return };
                let failure = program_failure(stage, errno, found, cell.argv(), &cell.policy.cwd);
                self.fail(token, failure);
            }
        }
    }

    fn cell_ready(&mut self, token: Token, skipped: [u16; SKIPPED], fds: Vec<OwnedFd>) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        let mut missing_walls = cell.plan.missing_walls.clone();
        let failed =
            skipped.iter().filter(|s| **s != NO_STEP).filter_map(|s| cell.plan.ops.get(usize::from(*s)));
        missing_walls.extend(failed.filter_map(|p| p.wall.clone()).filter(|w| !w.is_empty()));
        let warm = match &cell.kind {
            // Its own words will say when it is ready.
            Kind::Template(_) => {
                cell.state = State::Starting;
                if let Err(f) = self.start_template(token) {
                    self.fail(token, f);
                }
                return;
            }
            Kind::Cold { hold, .. } => {
                cell.state = if *hold { State::Ready } else { State::Starting };
                false
            }
            Kind::Warm(_) => {
                cell.state = State::Starting;
                true
            }
        };
        cell.scratch = fds.get(1).and_then(|fd| fd.try_clone().ok());
        let event = Event::CellReady {
            token,
            init_pid: cell.first.as_ref().map_or(0, |f| f.pid as u32),
            uid: cell.uid,
            missing_walls,
            missing_limits: cell.missing_limits.clone(),
        };
        let borrowed: Vec<_> = fds.iter().map(|f| f.as_fd()).collect();
        self.tell(&event, &borrowed);
        if warm && let Err(f) = self.ask_for_embryo(token) {
            self.fail(token, f);
        }
    }

    fn program_started(&mut self, token: Token, mut fds: Vec<OwnedFd>) {
        let Some(pidfd) = fds.pop() else { return };
        // Nothing there: it has ended already. Its status is on the way.
        let pid = pid_of(&pidfd).unwrap_or(0);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        cell.state = State::Running;
        cell.program = Some(pidfd);
        self.tell(&Event::Started { token, pid }, &[]);
    }
}

/// The pid behind a pidfd, as this process counts (pidfd_open(2), fdinfo). `None` when it has been reaped.
pub fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|l| l.strip_prefix("Pid:"))?.trim().parse::<i64>().ok()?;
    u32::try_from(pid).ok().filter(|p| *p > 0)
}

/// A wait(2) status.
pub fn status_of(status: i32) -> Status {
    match status & 0x7f {
        0 => Status::Code(status >> 8 & 0xff),
        signal => Status::Signal(signal),
    }
}
