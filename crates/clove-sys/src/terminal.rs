//! Pseudo-terminals of a cell's own devpts.

use crate::clone::check;
use rustix::io::Errno;
use std::os::fd::RawFd;

/// Opens a pair in the devpts at /dev/pts of the calling process's root: (master, slave).
pub(crate) fn open_pair(rows: u16, columns: u16) -> Result<(RawFd, RawFd), Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let master = check(unsafe { libc::open(c"/dev/pts/ptmx".as_ptr(), flags) }.into())? as RawFd;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &unlock) }.into())?;
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(master, libc::TIOCSWINSZ, &size) }.into())?;
    // SAFETY: TIOCGPTPEER takes open flags as its argument and gives a new descriptor.
    let slave = check(unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) }.into())? as RawFd;
    Ok((master, slave))
}

/// Makes `slave` the controlling terminal of this session.
pub(crate) fn take_control(slave: RawFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes a plain number.
    check(unsafe { libc::ioctl(slave, libc::TIOCSCTTY, 0) }.into()).map(drop)
}
