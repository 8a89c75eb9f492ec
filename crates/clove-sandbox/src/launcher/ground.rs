//! What every kind of cell needs before its first process: a group with limits, opened mounts, a setup socket.

use super::Launcher;
use super::cell::{Cell, Failure};
use super::failures::{failure, from_io};
use super::poller::Source;
use crate::cgroup::{Doors, Group};
use crate::compile::c_string;
use crate::plan::{Plan, PlanError};
use crate::protocol::{CellPolicy, Token};
use crate::sources::{self, Owners};
use clove_sys::program::StringArray;
use clove_sys::stub::GO;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// Mount trees, and their numbers as a script wants them.
pub struct Trees {
    _owned: Vec<OwnedFd>,
    pub numbers: Vec<RawFd>,
}

impl Launcher {
    /// Makes the group, or says which limits it can't have.
    pub(super) fn make_group(&mut self, cell: &mut Cell) -> Result<(), Failure> {
        let missing: Vec<String> = self
            .cgroups
            .missing()
            .into_iter()
            // No quota was asked for, and weights matter only between agents.
            .filter(|m| m != "cpu" || cell.policy.limits.cpu_milli > 0)
            .collect();
        if !missing.is_empty() && !cell.policy.allow_degraded {
            return Err(Failure {
                stage: "limits".into(),
                errno: libc::ENOTSUP,
                message: format!("this host can't enforce the limit of {}", missing.join(", ")),
                hint: "run `clove doctor` for the remedy, or allow it with allow_degraded = true".into(),
            });
        }
        cell.missing_limits = missing;
        let group = Group(format!("{}.{}-{}", cell.policy.label, std::process::id(), cell.token));
        self.cgroups.create(&group, &cell.policy.limits)?;
        if let Some(event) = self.cgroups.watch_oom(&group) {
            let watched = self.poller.add(&event, Source::Oom(cell.token));
            watched.map_err(|e| from_io("launcher", &e, "watching for out-of-memory", ""))?;
            cell.oom = Some(event);
        }
        cell.group = Some(group);
        Ok(())
    }

    pub(super) fn open_trees(
        &mut self,
        plan: &Plan,
        policy: &CellPolicy,
        host_id: u32,
    ) -> Result<Trees, Failure> {
        let owners =
            Owners { operator: (policy.operator_uid, policy.operator_gid), agent: (host_id, host_id) };
        let owned = sources::open_all(&plan.mounts, &self.stage, &mut self.idmaps, &self.proof, owners)?;
        let numbers = owned.iter().map(|t| t.as_raw_fd()).collect();
        Ok(Trees { _owned: owned, numbers })
    }

    /// The ways into the cell's groups. With `born`, the v2 group is left to CLONE_INTO_CGROUP; else it is entered like
    /// the others (which makes the process wait, so that the launcher doesn't have to).
    pub(super) fn doors(&self, cell: &Cell, born: bool) -> Result<(Vec<OwnedFd>, Option<OwnedFd>), Failure> {
        let Some(group) = &cell.group else { return Ok((Vec::new(), None)) };
        let Doors { mut tasks, v2 } = self.cgroups.doors(group)?;
        Ok(match v2 {
            Some((folder, _)) if born => (tasks, Some(folder)),
            Some((_, procs)) => {
                tasks.push(procs);
                (tasks, None)
            }
            None => (tasks, None),
        })
    }

    /// Tells the first process to go on.
    pub(super) fn release(&mut self, token: Token) -> Result<(), Failure> {
        let Some(cell) = self.cells.get(&token) else { return Ok(()) };
        let Some(setup) = &cell.setup else { return Ok(()) };
        clove_sys::scm::send(setup.as_fd(), &[GO], &[], SendFlags::DONTWAIT)
            .map(drop)
            .map_err(|e| failure("launcher", e, "the first process can't be told to go on", ""))
    }
}

/// (the launcher's, nonblocking; the stub's, blocking)
pub fn setup_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let pair = || -> Result<_, Errno> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((ours, theirs))
    };
    let hint = "raise the limit of open files (ulimit -n) for the kernel";
    pair().map_err(|e| failure("launcher", e, "no socket pair", hint))
}

/// The files that may be meant by the program's name, as execvp(3) looks for them.
pub fn candidates(policy: &CellPolicy, argv: &[String]) -> Result<Vec<std::ffi::CString>, PlanError> {
    let Some(name) = argv.first() else { return Ok(Vec::new()) };
    if name.contains('/') {
        return Ok(vec![c_string(name)?]);
    }
    let path = policy.env.iter().rev().find(|(k, _)| k == "PATH");
    let path = path.map_or("/usr/local/bin:/usr/bin:/bin", |(_, v)| v.as_str());
    path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| c_string(&format!("{dir}/{name}"))).collect()
}

pub fn strings(items: impl Iterator<Item = String>) -> Result<StringArray, PlanError> {
    Ok(StringArray::new(items.map(|s| c_string(&s)).collect::<Result<_, _>>()?))
}

pub fn environment(policy: &CellPolicy) -> Result<StringArray, PlanError> {
    strings(policy.env.iter().map(|(k, v)| format!("{k}={v}")))
}

/// A descriptor of one of the namespaces of a process of ours: `name` as in /proc/PID/ns.
pub fn namespace_of(pid: i32, name: &str) -> Result<OwnedFd, Failure> {
    let file = std::fs::File::open(format!("/proc/{pid}/ns/{name}"));
    file.map(OwnedFd::from).map_err(|e| from_io("namespaces", &e, "a namespace of the cell", ""))
}

/// How much sooner than the host's own processes an agent's are ended when the whole machine is out of memory, in
/// thousandths of it (proc_pid_oom_score_adj(5)).
const FIRST_TO_GO: &str = "500";

/// Agents have limits, and all of them together fit; but templates and the host's own programs come on top. Written by a
/// launcher with CAP_SYS_RESOURCE, nobody inside can take it back.
pub fn goes_first(pid: i32) {
    // A host that refuses is as before.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), FIRST_TO_GO);
}

/// The maps of a user namespace whose parent is the launcher's: `inside` first id inside, `outside` on the host.
pub fn write_maps(pid: i32, inside: u32, outside: u32, count: u32) -> Result<(), Failure> {
    let line = format!("{inside} {outside} {count}");
    for (file, content) in [("setgroups", "deny"), ("gid_map", &line), ("uid_map", &line)] {
        std::fs::write(format!("/proc/{pid}/{file}"), content).map_err(|e| {
            let message = format!("writing {file} of the new user namespace");
            from_io("uid_map", &e, &message, "the kernel must run as root")
        })?;
    }
    Ok(())
}
