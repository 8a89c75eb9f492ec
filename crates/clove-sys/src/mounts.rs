//! The mount calls that rustix lacks, plus detached trees ready to be moved into a cell.

use crate::clone::{check, last_errno};
use linux_raw_sys::general as raw;
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub const RDONLY: u64 = raw::MOUNT_ATTR_RDONLY as u64;
pub const NOSUID: u64 = raw::MOUNT_ATTR_NOSUID as u64;
pub const NODEV: u64 = raw::MOUNT_ATTR_NODEV as u64;
pub const NOEXEC: u64 = raw::MOUNT_ATTR_NOEXEC as u64;

/// open_tree(2) with OPEN_TREE_CLONE|AT_RECURSIVE of what `source` (an O_PATH descriptor) names: a detached copy of
/// the mount tree there.
pub fn clone_tree(source: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags =
        raw::OPEN_TREE_CLONE | raw::OPEN_TREE_CLOEXEC | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as u32;
    // SAFETY: an empty path with AT_EMPTY_PATH names the borrowed descriptor itself, which is open for this call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// mount_setattr(2) on a detached tree and everything below it; with `idmap`, file owners are seen through that user
/// namespace.
pub fn set_tree_attributes(
    tree: BorrowedFd<'_>,
    set: u64,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set | if idmap.is_some() { u64::from(raw::MOUNT_ATTR_IDMAP) } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    setattr(tree.as_raw_fd(), c"", (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as u32, &attr)
}

/// mount_setattr(2) on the mount at `path`; used inside a cell, on mounts of its own.
pub(crate) fn set_path_attributes(path: &CStr, set: u64, recursive: bool) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    setattr(libc::AT_FDCWD, path, if recursive { libc::AT_RECURSIVE as u32 } else { 0 }, &attr)
}

fn setattr(dir: RawFd, path: &CStr, flags: u32, attr: &libc::mount_attr) -> Result<(), Errno> {
    // SAFETY: `path` is a C string and `attr` a whole mount_attr of the size given; both outlive the call.
    let r = unsafe {
        libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, attr, size_of::<libc::mount_attr>())
    };
    check(r).map(drop)
}

/// move_mount(2): attaches the detached tree `tree` at `target`.
pub(crate) fn attach(tree: RawFd, target: &CStr) -> Result<(), Errno> {
    const F_EMPTY_PATH: u32 = raw::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: both paths are C strings; a descriptor that isn't a detached tree gives an error and nothing else.
    let r = unsafe {
        libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), F_EMPTY_PATH)
    };
    check(r).map(drop)
}

/// mount(2).
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<(), Errno> {
    // SAFETY: all five are C strings or plain flags and outlive the call; the kernel copies what it needs.
    let r =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(r.into()).map(drop)
}

/// pivot_root(".", ".") and unmounting what was there (pivot_root(2), "pivot_root(., .)").
pub(crate) fn pivot_here() -> Result<(), Errno> {
    // SAFETY: both paths are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path is a C string; the old root is now stacked on the new one at ".", and is what is detached.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    rustix::process::chdir(c"/")
}

/// unshare(2) of the cgroup namespace alone: its root becomes the cgroups that the process is in now.
pub(crate) fn unshare_cgroup() -> Result<(), Errno> {
    // SAFETY: only this process's own view changes.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into()).map(drop)
}

/// unshare(2) of the mount namespace, with everything in it made a slave of what it was: mounts of the host still
/// come in, none goes out.
pub fn private_mounts() -> Result<(), Errno> {
    // SAFETY: only this process's own view changes.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    mount(c"none", c"/", c"", libc::MS_SLAVE | libc::MS_REC, c"")
}

/// setns(2) by a namespace's descriptor.
pub(crate) fn join(ns: RawFd, kind: i32) -> Result<(), Errno> {
    // SAFETY: only this process's own membership changes; a descriptor that isn't a namespace gives EINVAL.
    if unsafe { libc::setns(ns, kind) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// A user namespace that maps `inside` to `outside` (one id each for users and groups), for idmapped mounts: it lives
/// as long as the descriptor.
pub fn idmap_namespace(
    proof: &crate::clone::SingleThreaded,
    inside: (u32, u32),
    outside: (u32, u32),
) -> Result<OwnedFd, Errno> {
    let child = crate::clone::spawn(proof, crate::clone::NEWUSER, None, || {
        loop {
            // SAFETY: pause has no preconditions; the parent ends this process by SIGKILL.
            unsafe { libc::pause() };
        }
    })?;
    let made = write_map(child.pid, inside, outside);
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    made
}

fn write_map(pid: i32, inside: (u32, u32), outside: (u32, u32)) -> Result<OwnedFd, Errno> {
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{} {} 1", inside.1, outside.1)).map_err(io)?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{} {} 1", inside.0, outside.0)).map_err(io)?;
    std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).map_err(io)
}

#[cfg(test)]
mod tests {
    #[test]
    fn mount_attr_is_the_size_the_kernel_knows() {
        assert_eq!(size_of::<libc::mount_attr>(), 32); // MOUNT_ATTR_SIZE_VER0
        assert_eq!(size_of::<libc::mount_attr>(), size_of::<linux_raw_sys::general::mount_attr>());
    }
}
