//! Installing a compiled seccomp filter on this process.

use crate::clone::check;
use rustix::io::Errno;

/// One BPF instruction as the kernel takes it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Adds `filter` to those of this thread. Needs no_new_privs, or CAP_SYS_ADMIN in its user namespace.
pub fn install(filter: &[Instruction]) -> Result<(), Errno> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: `program` describes exactly the slice, with the layout of sock_fprog; the kernel copies and checks it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u64, &program) })
        .map(drop)
}
