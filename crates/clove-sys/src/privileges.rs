//! Giving up privileges for good: capability sets, securebits, no_new_privs, dumpability.

use crate::clone::check;
use rustix::io::Errno;

/// CAP_SYS_ADMIN, the one capability a template keeps (in its own user namespace): setns(2) needs it.
pub const CAP_SYS_ADMIN: u64 = 1 << 21;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;
// linux/securebits.h: bit n is the rule, bit n+1 its lock.
const NOROOT: u64 = 0b11;
const NO_SETUID_FIXUP: u64 = 0b11 << 2;
const KEEP_CAPS_LOCKED: u64 = 0b10 << 4;
const NO_AMBIENT_RAISE: u64 = 0b11 << 6;

fn prctl(option: i32, a: u64, b: u64) -> Result<libc::c_long, Errno> {
    // SAFETY: every option used in this file takes plain numbers; none has the kernel write to memory of ours.
    check(unsafe { libc::prctl(option, a, b, 0u64, 0u64) }.into())
}

/// Leaves exactly the capabilities in `keep` (a bit mask) in all five sets; with 0 nothing can ever come back.
pub fn keep_only(keep: u64) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for cap in 0..64u64 {
        if keep & (1 << cap) == 0 {
            match prctl(libc::PR_CAPBSET_DROP, cap, 0) {
                Ok(_) => {}
                // Past the last capability that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(e) => return Err(e),
            }
        }
    }
    let ambient = if keep == 0 { NO_AMBIENT_RAISE } else { 0 };
    prctl(libc::PR_SET_SECUREBITS, NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | ambient, 0)?;
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| {
        let bits = (keep >> shift) as u32;
        CapData { effective: bits, permitted: bits, inheritable: bits }
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structs, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) })?;
    for cap in (0..64u64).filter(|c| keep & (1 << c) != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, cap)?;
    }
    Ok(())
}

/// No exec can gain privileges any more (prctl(2), PR_SET_NO_NEW_PRIVS).
pub fn no_new_privs() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Whether others of the same uid may look into this process's memory.
pub fn set_dumpable(on: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on), 0).map(drop)
}

/// SIGKILL for this process when the thread that is its parent ends. A later change of ids clears it.
pub fn die_with_parent() -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).map(drop)
}

/// Real, effective and saved ids; supplementary groups are left as they are, as in a namespace with setgroups denied
/// nobody can change them.
pub fn become_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // The raw calls: libc's wrappers would signal the other threads of the process that was copied.
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// This process (of one thread) as another effective uid, until it is dropped. Its real, saved and filesystem ids stay,
/// so nobody of that uid may signal it or look into it (kill(2), ptrace(2)). Capabilities that it has only as root are
/// gone meanwhile.
#[derive(Debug)]
pub(crate) struct Disguise {
    back: u32,
    _here: std::marker::PhantomData<*const ()>,
}

/// Leaves an id as it is (setresuid(2)).
const UNCHANGED: u32 = u32::MAX;

impl Disguise {
    pub(crate) fn as_uid(uid: u32) -> Result<Disguise, Errno> {
        let back = rustix::process::geteuid().as_raw();
        set_effective(uid)?;
        let disguise = Disguise { back, _here: std::marker::PhantomData };
        // SAFETY: takes a number; concerns this thread alone. The effective uid took the filesystem uid along; cgroup
        // files, for one, are opened by that.
        unsafe { libc::syscall(libc::SYS_setfsuid, back) };
        Ok(disguise)
    }
}

impl Drop for Disguise {
    fn drop(&mut self) {
        if set_effective(self.back).is_err() {
            // It can't come to this: the old id is still the real and the saved one. As somebody else it must not go on.
            std::process::abort();
        }
    }
}

/// The raw call: libc's wrapper would signal other threads, of which there are none.
fn set_effective(uid: u32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, uid, UNCHANGED) }).map(drop)
}

/// Empties the supplementary groups. Must come before setgroups is denied in the user namespace.
pub fn clear_groups() -> Result<(), Errno> {
    // SAFETY: a list of length 0 is never read.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<u32>()) }).map(drop)
}

/// Every signal at its default and none blocked, as a program expects to start.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: SIG_DFL is a valid disposition for each signal; numbers that libc keeps for itself give EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux, and sigprocmask only reads it.
    unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &empty, std::ptr::null_mut());
    }
}
