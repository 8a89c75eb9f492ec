//! Raising `lo`, the only interface that a cell has.

use crate::clone::check;
use rustix::io::Errno;

/// Needs CAP_NET_ADMIN in the user namespace that owns this network namespace.
pub fn raise() -> Result<(), Errno> {
    // SAFETY: plain numbers; the result is checked and closed below.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: an all-zero ifreq is valid (every field is a number or an array of numbers).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let done = check(unsafe { libc::ioctl(socket as i32, libc::SIOCSIFFLAGS, &request) }.into());
    // SAFETY: the descriptor was made above and is used by nobody else.
    unsafe { libc::close(socket as i32) };
    done.map(drop)
}
