//! Forking the launcher off the daemon, before the daemon has threads.

use crate::clone::{SingleThreaded, exit_now};
use std::io;

/// Forks with libc's fork (so its own bookkeeping stays right); the child runs `body`, which never returns.
/// Fails when the process already has several threads.
pub fn fork_launcher<F: FnOnce() -> i32>(body: F) -> io::Result<i32> {
    if SingleThreaded::prove().is_none() {
        return Err(io::Error::other("the launcher must be forked before any thread exists"));
    }
    // SAFETY: there is one thread (checked above), so no lock is held by another and the child may go on as a
    // normal process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            exit_now(code)
        }
        pid => Ok(pid),
    }
}

/// Closes every descriptor that the fork has copied but the first three and `keep`: a copy of the kernel's end of the
/// socket would keep that open for ever, and a lock or a pipe of the caller's would stay held.
pub fn close_all_but(keep: i32) {
    let keep = keep.max(3) as u32;
    // The owners of what is closed lie in stack frames that the child never returns to, and never drops.
    if keep > 3 {
        let _ = crate::program::close_between(3, keep - 1, false);
    }
    let _ = crate::program::close_between(keep + 1, u32::MAX, false);
}

/// What the launcher does first: a session of its own (Ctrl-C on the kernel's terminal isn't meant for it), no
/// supplementary groups (stubs would inherit them), SIGPIPE ignored, memory closed to others, orphans come to it.
pub fn settle() -> Result<(), rustix::io::Errno> {
    let _ = rustix::process::setsid();
    // SAFETY: SIG_IGN is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::privileges::clear_groups()?;
    crate::privileges::set_dumpable(false)?;
    // Some descriptors for each live agent.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::chdir("/")
}

/// Opens /dev/null until no number below 10 is free, so that descriptors which stubs put in place (0 to 3) never
/// collide with one that they still need. Gives back one more, for use.
pub fn occupy_low_descriptors() -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    use std::os::fd::{AsRawFd, IntoRawFd};
    loop {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
        if null.as_raw_fd() >= 10 {
            return Ok(null);
        }
        // Stays open for the rest of this process's life.
        let _ = null.into_raw_fd();
    }
}
