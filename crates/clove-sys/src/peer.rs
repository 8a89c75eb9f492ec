//! The process at the other end of a unix socket, without a race for its pid.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SO_PEERPIDFD` of asm-generic/socket.h (Linux 6.5); libc doesn't have it everywhere.
const SO_PEERPIDFD: libc::c_int = 77;

/// A pidfd of the process that connected (unix(7)).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.5.
pub fn pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd = MaybeUninit::<libc::c_int>::uninit();
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `fd` has room for the `len` bytes that the call may write, and `socket` is open for its whole duration.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, fd.as_mut_ptr().cast(), &mut len)
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it wrote a descriptor that is new and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.assume_init()) })
}

/// Whether the process behind a pidfd still lives (signal 0, pidfd_send_signal(2)).
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: no memory is passed; signal 0 only checks.
    let r = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, std::ptr::null::<u8>(), 0)
    };
    r == 0
}
