//! clone3(2) as a fork: the child runs a closure on a copy of this process and never returns.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// The child's parent is the caller's parent, which therefore gets to wait for it.
pub const PARENT: u64 = libc::CLONE_PARENT as u64;

/// Proof that the process had one thread when it was made: a child made by clone3 has only the calling thread, so a
/// lock held by another one at that moment would stay locked for ever.
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks into /proc/self/task. `None` when there are more threads than one, or no /proc.
    pub fn prove() -> Option<SingleThreaded> {
        (std::fs::read_dir("/proc/self/task").ok()?.count() == 1).then_some(SingleThreaded(()))
    }
}

/// A child that was made with a pidfd.
#[derive(Debug)]
pub struct Child {
    /// In the PID namespace of the caller.
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Forks with `flags` (namespaces, `PARENT`; the pidfd is always asked for), into the v2 control group that `group` (an
/// open folder) names. The child runs `body` and ends with the code that it returns.
pub fn spawn<F: FnOnce() -> i32>(
    _proof: &SingleThreaded,
    flags: u64,
    group: Option<BorrowedFd<'_>>,
    body: F,
) -> Result<Child, Errno> {
    match raw_fork(flags, group) {
        Err(e) => Err(e),
        Ok(Forked::Child) => exit_now(body()),
        Ok(Forked::Parent { pid, pidfd }) => Ok(Child { pid, pidfd }),
    }
}

/// `spawn` whose new user namespace belongs to the uid `owner` instead of this process's: what is made in it (inotify
/// instances, pending signals, message queues, further namespaces) counts against the owner's limits in the namespaces
/// above (user_namespaces(7), namespaces' ucounts), so that no agent can use up root's.
///
/// Any process of the owner's uid in this process's user namespace has all capabilities in the new one; so there must be
/// none. EPERM when this process may not take the uid.
pub fn spawn_owned<F: FnOnce() -> i32>(
    _proof: &SingleThreaded,
    owner: u32,
    flags: u64,
    group: Option<BorrowedFd<'_>>,
    body: F,
) -> Result<Child, Errno> {
    let disguise = crate::privileges::Disguise::as_uid(owner)?;
    match raw_fork(flags | NEWUSER, group) {
        Ok(Forked::Child) => exit_now(body()),
        forked => {
            drop(disguise);
            match forked? {
                Forked::Parent { pid, pidfd } => Ok(Child { pid, pidfd }),
                Forked::Child => exit_now(1),
            }
        }
    }
}

/// `spawn` for code that itself is the child of a `spawn`, and so has one thread by construction. The same rule holds
/// for `body`: no allocation, no lock.
pub(crate) fn spawn_from_stub<F: FnOnce() -> i32>(flags: u64, body: F) -> Result<Child, Errno> {
    spawn(&SingleThreaded(()), flags, None, body)
}

pub(crate) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

fn raw_fork(flags: u64, group: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    let mut pidfd: RawFd = -1;
    let into = if group.is_some() { linux_raw_sys::general::CLONE_INTO_CGROUP } else { 0 };
    let args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | into,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the signal is inherited and must be given as 0 (clone(2), EINVAL).
        exit_signal: if flags & PARENT != 0 { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a whole clone_args of the size given. There is no CLONE_VM, so the child has its own copy of
    // the address space and goes on on its own copy of this stack; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    forked(pid, pidfd)
}

fn forked(pid: libc::c_long, pidfd: RawFd) -> Result<Forked, Errno> {
    match pid {
        0 => Ok(Forked::Child),
        p if p > 0 => {
            // SAFETY: the kernel has just put a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: p as i32, pidfd })
        }
        _ => Err(last_errno()),
    }
}

/// A sibling: a fork whose parent is this process's parent. By clone(2), not clone3, whose flags lie in memory where a
/// seccomp filter can't see them: so a template's filter can refuse it new namespaces.
///
/// With a `tid_address`, the child's thread id is kept true there, as libc's own fork does.
pub(crate) fn fork_sibling(tid_address: *mut libc::c_int) -> Result<Forked, Errno> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
    if !tid_address.is_null() {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // The last two change places between architectures (clone(2), "C library/kernel differences").
    let (fourth, fifth) = match cfg!(target_arch = "x86_64") {
        true => (tid_address as u64, 0u64),
        false => (0, tid_address as u64),
    };
    // SAFETY: there is no CLONE_VM, so the child goes on on its own copy of this stack (stack 0 says so). `pidfd` takes
    // the place of parent_tid with CLONE_PIDFD and outlives the call; `tid_address` is null, or belongs to this thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as u64, 0u64, &raw mut pidfd, fourth, fifth) };
    forked(pid, pidfd)
}

/// Ends without running destructors or exit handlers, which belong to the process that was copied.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Turns the libc convention (-1 and errno) into a result.
pub(crate) fn check(r: libc::c_long) -> Result<libc::c_long, Errno> {
    if r < 0 { Err(last_errno()) } else { Ok(r) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn clone_into_cgroup_is_not_taken_from_libc() {
        // facts.md: libc's constant is 0 on glibc. Nobody here may come to use it unseen.
        assert_eq!(linux_raw_sys::general::CLONE_INTO_CGROUP, 0x2_0000_0000);
        assert_eq!(u64::from(linux_raw_sys::general::CLONE_NEWUSER), super::NEWUSER);
        assert_eq!(u64::from(linux_raw_sys::general::CLONE_PARENT), super::PARENT);
    }
}
