//! Landlock: an extra wall that a process puts around itself (landlock(7)).

use crate::clone::check;
use linux_raw_sys::landlock as raw;
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::RawFd;

/// One folder or file, and what may be done below it.
#[derive(Debug)]
pub struct Rule {
    pub path: CString,
    pub writable: bool,
}

/// What a process may touch; everything else is refused. Made for one ABI version.
#[derive(Debug)]
pub struct Ruleset {
    pub abi: u32,
    pub rules: Vec<Rule>,
}

const FS_V1: u64 = (1 << 13) - 1;
const FS_REFER: u64 = raw::LANDLOCK_ACCESS_FS_REFER as u64;
const FS_TRUNCATE: u64 = raw::LANDLOCK_ACCESS_FS_TRUNCATE as u64;
/// Leaving out IOCTL_DEV: terminals need their ioctls, and seccomp refuses the dangerous ones by number.
const READ: u64 = (raw::LANDLOCK_ACCESS_FS_EXECUTE
    | raw::LANDLOCK_ACCESS_FS_READ_FILE
    | raw::LANDLOCK_ACCESS_FS_READ_DIR) as u64;
/// The rights that make sense on something that isn't a folder; others give EINVAL there.
const FILE_RIGHTS: u64 = (raw::LANDLOCK_ACCESS_FS_EXECUTE
    | raw::LANDLOCK_ACCESS_FS_WRITE_FILE
    | raw::LANDLOCK_ACCESS_FS_READ_FILE
    | raw::LANDLOCK_ACCESS_FS_TRUNCATE) as u64;
const MAKE_DEVICES: u64 = (raw::LANDLOCK_ACCESS_FS_MAKE_CHAR | raw::LANDLOCK_ACCESS_FS_MAKE_BLOCK) as u64;

/// The highest version that this kernel has; `None` without Landlock.
pub fn abi() -> Option<u32> {
    // SAFETY: with a null pointer, size 0 and this flag the call only returns the version.
    let r = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            raw::LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(r).ok().filter(|v| *v > 0)
}

fn handled(abi: u32) -> u64 {
    FS_V1 | if abi >= 2 { FS_REFER } else { 0 } | if abi >= 3 { FS_TRUNCATE } else { 0 }
}

impl Ruleset {
    /// Puts it on this process. Needs no_new_privs. Paths that don't exist are passed over. Allocates nothing.
    pub fn restrict(&self) -> Result<(), Errno> {
        let handled = handled(self.abi);
        // The struct has grown with the versions: what an old kernel doesn't know must not be passed.
        let scoped = if self.abi >= 6 {
            u64::from(raw::LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | raw::LANDLOCK_SCOPE_SIGNAL)
        } else {
            0
        };
        let attr = [handled, 0, scoped];
        let size = match self.abi {
            0..=3 => 8usize,
            4..=5 => 16,
            _ => 24,
        };
        // SAFETY: the kernel reads `size` bytes, at most the 24 of the array.
        let set =
            check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attr.as_ptr(), size, 0u32) })?;
        let set = set as RawFd;
        let done = self.fill(set, handled);
        // SAFETY: plain numbers; the ruleset was made above.
        let done =
            done.and_then(|()| check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, set, 0u32) }));
        // SAFETY: the descriptor was made above and is used by nobody else.
        unsafe { libc::close(set) };
        done.map(drop)
    }

    fn fill(&self, set: RawFd, handled: u64) -> Result<(), Errno> {
        for rule in &self.rules {
            // SAFETY: the path is a C string.
            let fd = unsafe { libc::open(rule.path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
            if fd < 0 {
                continue;
            }
            let mut allowed = if rule.writable { handled & !MAKE_DEVICES } else { READ };
            // SAFETY: an all-zero stat is valid, and fstat fills it.
            let is_folder = unsafe {
                let mut stat: libc::stat = std::mem::zeroed();
                libc::fstat(fd, &mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            };
            if !is_folder {
                allowed &= FILE_RIGHTS;
            }
            let beneath =
                raw::landlock_path_beneath_attr { allowed_access: allowed & handled, parent_fd: fd };
            const PATH_BENEATH: u32 = raw::landlock_rule_type::LANDLOCK_RULE_PATH_BENEATH as u32;
            // SAFETY: the kernel reads one path_beneath attribute, which outlives the call.
            let added = unsafe {
                libc::syscall(libc::SYS_landlock_add_rule, set, PATH_BENEATH, &raw const beneath, 0u32)
            };
            let added = check(added);
            // SAFETY: the descriptor was opened above.
            unsafe { libc::close(fd) };
            added?;
        }
        Ok(())
    }
}
