//! Touching an agent's files as the agent: its tmpfs has no place for files of the host's root (EOVERFLOW), and what a
//! hostile agent has laid out there must not be walked with root's rights.

/// Runs `f` with this thread's file-system ids (setfsuid(2)) set to `id`; the capabilities to pass by permissions go
/// with them, and both come back afterwards. Other threads aren't affected.
pub fn with_file_ids<T>(id: u32, f: impl FnOnce() -> T) -> T {
    struct Back {
        uid: libc::c_long,
        gid: libc::c_long,
    }
    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: plain numbers, and the ids that this thread had before; uid first, as it brings back the rights.
            unsafe {
                libc::syscall(libc::SYS_setfsuid, self.uid);
                libc::syscall(libc::SYS_setfsgid, self.gid);
            }
        }
    }
    // SAFETY: plain numbers. The raw calls change this thread only, and give back what was set before.
    let gid = unsafe { libc::syscall(libc::SYS_setfsgid, id) };
    // SAFETY: as above.
    let uid = unsafe { libc::syscall(libc::SYS_setfsuid, id) };
    let _back = Back { uid, gid };
    f()
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_are_made_as_somebody_else_and_the_rights_come_back() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("clove-fsids-{}", std::process::id()));
        super::with_file_ids(4711, || std::fs::write(&path, "x")).expect("written as 4711");
        let m = std::fs::metadata(&path).expect("there");
        assert_eq!((m.uid(), m.gid()), (4711, 4711));
        std::fs::remove_file(&path).expect("root again");
    }
}
