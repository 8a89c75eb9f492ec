//! Making files as somebody else: the filesystem ids of one thread, changed for the length of a closure.
//!
//! A tmpfs that was mounted in an agent's user namespace takes new files only from ids that are mapped there
//! (EOVERFLOW else, user_namespaces(7)), and the kernel's own aren't.

use crate::clone::check;
use rustix::io::Errno;
use std::marker::PhantomData;

/// Runs `act` with these filesystem ids, on this thread only; the old ones are back afterwards, also after a panic.
/// Away from root the thread loses the capabilities over files meanwhile (capabilities(7), "effect of user ID
/// changes"). EPERM when this process may not take the ids.
pub fn with_fsuid<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> Result<T, Errno> {
    // The old ids come back in the reverse order of these two declarations.
    let _gid = Changed::to(libc::SYS_setfsgid, gid)?;
    let _uid = Changed::to(libc::SYS_setfsuid, uid)?;
    Ok(act())
}

/// One id that is to be put back. It belongs to the thread: not Send.
struct Changed {
    call: libc::c_long,
    back: u32,
    _here: PhantomData<*const ()>,
}

/// No such id: the calls change nothing then, and say the present one (setfsuid(2)).
const NOBODY_AT_ALL: u32 = u32::MAX;

impl Changed {
    fn to(call: libc::c_long, id: u32) -> Result<Changed, Errno> {
        if id == NOBODY_AT_ALL {
            return Err(Errno::INVAL);
        }
        let back = set(call, id)?;
        let changed = Changed { call, back, _here: PhantomData };
        // The call has no way to say that it refused, so the id is asked for.
        if set(call, NOBODY_AT_ALL)? == id { Ok(changed) } else { Err(Errno::PERM) }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = set(self.call, self.back);
        if set(self.call, NOBODY_AT_ALL) != Ok(self.back) {
            // A thread that goes on as an agent would fail in ways that nobody can explain. It can't come to this:
            // the old id is one of the process's own, which is always allowed.
            std::process::abort();
        }
    }
}

/// The raw call, which concerns this thread alone; says the id before.
fn set(call: libc::c_long, id: u32) -> Result<u32, Errno> {
    debug_assert!(call == libc::SYS_setfsuid || call == libc::SYS_setfsgid);
    // SAFETY: both calls take one number, touch no memory, and change only how this thread's file accesses are judged.
    check(unsafe { libc::syscall(call, id) }).map(|before| before as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_as_the_id_and_the_old_one_is_back() {
        let root = rustix::process::geteuid().is_root();
        let (uid, gid) = if root {
            (54321, 54322)
        } else {
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        };
        let dir = std::env::temp_dir().join(format!("clove-fsuid-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        let file = dir.join("f");
        with_fsuid(uid, gid, || std::fs::write(&file, b"x")).expect("ids").expect("written");
        let meta = std::fs::metadata(&file).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (uid, gid));
        let panicked = std::panic::catch_unwind(|| with_fsuid(uid, gid, || panic!("inside")));
        assert!(panicked.is_err());
        std::fs::write(dir.join("g"), b"x").expect("written");
        let meta = std::fs::metadata(dir.join("g")).expect("stat");
        assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn no_such_id() {
        assert_eq!(with_fsuid(u32::MAX, 0, || ()), Err(Errno::INVAL));
    }
}
