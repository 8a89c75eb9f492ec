//! Descriptors that a parent process left to this one under a number it was told.

use std::os::fd::{FromRawFd, OwnedFd};

/// Takes a descriptor over by its number, and makes it close-on-exec. `None` when it isn't open, or is one of the
/// standard three. Call it once for each number: a second call would make a second owner.
pub fn take(number: i32) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: fcntl on any number is harmless; it fails with EBADF when nothing is open there.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: the descriptor is open (checked above) and came with exec, so that nothing in this program owns it; the
    // caller promises to take each number once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above the standard three but `keep`: a background process must not hold its caller's pipes
/// open. Call it first thing, before this program has opened anything.
pub fn close_others(keep: Option<i32>) {
    let keep = keep.and_then(|k| u32::try_from(k).ok()).filter(|k| *k > 2);
    let ranges = match keep {
        Some(k) => [(3, k - 1), (k + 1, u32::MAX)],
        None => [(3, u32::MAX), (u32::MAX, u32::MAX)],
    };
    for (first, last) in ranges {
        if first <= last {
            // SAFETY: by the function's contract nothing in this program owns a descriptor in the range yet.
            let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}
