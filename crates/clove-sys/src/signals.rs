//! Signals as something to read (signalfd(2)), so that no handler ever runs.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread, and those it starts from now on, and returns a descriptor that
/// becomes readable when one comes. With `heed_ignored`, one that is ignored (by nohup(1), by a shell for what it runs
/// in the background) stays so; else it is watched as well, as a blocked signal is queued whatever becomes of it. Call it
/// before any thread exists.
///
/// SIGXFSZ is blocked too: a file that may not grow any more (RLIMIT_FSIZE) is an error of its write then, not the end.
pub fn watch_terminate(heed_ignored: bool) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given; the other calls then work on an initialised set that
    // lives on this stack; signalfd returns a new descriptor, which nobody else owns.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            if !(heed_ignored && is_ignored(signal)) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ);
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action, sigaction only fills in the present one, which has room on this stack and is read only
    // when the call succeeded.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
