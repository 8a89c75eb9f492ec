//! Messages with descriptors over unix sockets, without allocation.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// The most descriptors that one message of ours carries.
pub const MAX_FDS: usize = 24;

/// The most that any message can carry (SCM_MAX_FD of net/scm.h), so that none is closed unseen in recvmsg.
const MOST_IN_A_MESSAGE: usize = 253;

/// Sends `bytes` with `fds` in one message. The number of bytes taken is returned (less than all on a full stream).
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL)
    })
}

/// Receives one message (or as much of a stream as there is). Descriptors come close-on-exec; they go into `fds` in
/// order, and more than fit there are closed. Returns the bytes, and how many descriptors came; (0, _) is the end.
pub fn recv(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut [Option<OwnedFd>],
    flags: RecvFlags,
) -> Result<(usize, usize), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_IN_A_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut count = 0;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            for fd in received {
                if let Some(slot) = fds.get_mut(count) {
                    *slot = Some(fd);
                }
                count += 1;
            }
        }
    }
    Ok((got.bytes, count))
}

/// The other end of this socket, on which nothing is sent any more, has been closed.
pub(crate) fn is_left_alone(socket: BorrowedFd<'_>) -> bool {
    recv(socket, &mut [0u8], &mut [], RecvFlags::DONTWAIT) != Err(Errno::AGAIN)
}

/// Borrows a descriptor by number, for code between a clone and an exec, where the number was prepared beforehand.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    debug_assert!(fd >= 0);
    // SAFETY: callers in this crate pass numbers of descriptors that they hold open for the rest of the process's
    // life (a stub closes nothing that it was given by number before it is done with it), and never -1.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
