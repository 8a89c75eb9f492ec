//! Making the cell of a cold agent: everything up to the word GO.

use super::cell::{Cell, Failure, Kind, Process};
use super::failures::{failure, namespace_hint};
use super::ground::{candidates, environment, goes_first, setup_pair, strings, write_maps};
use super::poller::Source;
use super::{Launcher, NAMESPACES};
use crate::compile::{self, c_string};
use crate::plan::{AGENT_ID, CellKind};
use crate::protocol::{CellPolicy, Token};
use clove_sys::clone;
use clove_sys::program::{Program, ResourceLimits, Stdio};
use clove_sys::stub::{Role, Stub};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

impl Launcher {
    pub(super) fn spawn_cold(
        &mut self,
        token: Token,
        policy: CellPolicy,
        argv: Vec<String>,
        hold: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        crate::plan::check_argv(&argv)?;
        let plan = crate::plan::plan(CellKind::Agent, &policy, &self.host)?;
        let stdio = stdio(&policy, &fds)?;
        let hint = "wait until other agents have ended";
        let uid =
            self.uids.take().ok_or_else(|| failure("uids", Errno::AGAIN, "no host uid is free", hint))?;
        // In the table from the start: whatever fails from here on is cleared away by the one path for all ends.
        let mut cell = Cell::new(token, policy, plan, Kind::Cold { argv, hold }, uid);
        let made = self.make_cold(&mut cell, hold, stdio);
        self.cells.insert(token, cell);
        made.and_then(|()| self.watch_first(token)).and_then(|()| self.release(token))
    }

    fn make_cold(&mut self, cell: &mut Cell, hold: bool, stdio: Stdio) -> Result<(), Failure> {
        self.make_group(cell)?;
        let (policy, plan) = (&cell.policy, &cell.plan);
        let trees = self.open_trees(plan, policy, cell.uid)?;
        let program = Program {
            stdio,
            control: None,
            limits: ResourceLimits { nofile: plan.nofile },
            keep_capabilities: None,
            landlock: compile::landlock(plan)?,
            filter: self.filters.of(policy.profile),
            cwd: c_string(&plan.cwd)?,
            candidates: candidates(policy, cell.argv())?,
            argv: strings(cell.argv().iter().cloned())?,
            envp: environment(policy)?,
        };
        let (ours, theirs) = setup_pair()?;
        let mut keep = trees.numbers.clone();
        if let Stdio::Descriptors(fds) = stdio {
            keep.extend(fds);
        }
        let script = compile::script(plan, &trees.numbers)?;
        let (doors, born_in) = self.doors(cell, true)?;
        let groups = doors.iter().map(|d| d.as_raw_fd()).collect();
        let mut stub = Stub {
            setup: theirs.as_raw_fd(),
            keep,
            groups,
            script,
            role: Role::Cold { program: Box::new(program), hold },
        };
        stub.sort();
        let born_in = born_in.as_ref().map(|d| d.as_fd());
        let child = clone::spawn_owned(&self.proof, cell.uid, NAMESPACES, born_in, || stub.run())
            .map_err(|e| failure("namespaces", e, "clone3 with new namespaces", namespace_hint(e)))?;
        let pid = child.pid;
        cell.first = Some(Process { pid, pidfd: child.pidfd });
        cell.setup = Some(ours);
        goes_first(pid);
        write_maps(pid, AGENT_ID, cell.uid, 1)
    }

    /// The first process's end and words are seen from here on.
    pub(super) fn watch_first(&mut self, token: Token) -> Result<(), Failure> {
        let Some(cell) = self.cells.get(&token) else { return Ok(()) };
        let first = cell.first.as_ref().map(|f| self.poller.add(&f.pidfd, Source::First(token)));
        let setup = cell.setup.as_ref().map(|s| self.poller.add(s, Source::Setup(token)));
        for watched in [first, setup].into_iter().flatten() {
            let hint = "raise the limit of open files (ulimit -n) for the kernel";
            watched.map_err(|e| super::failures::from_io("launcher", &e, "no more to be watched", hint))?;
        }
        Ok(())
    }
}

fn stdio(policy: &CellPolicy, fds: &[OwnedFd]) -> Result<Stdio, Failure> {
    if policy.tty.is_some() {
        return Ok(Stdio::Terminal);
    }
    match fds {
        [stdin, stdout, stderr] => {
            Ok(Stdio::Descriptors([stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]))
        }
        _ => Err(super::failures::wrong_descriptors(3, fds.len())),
    }
}
