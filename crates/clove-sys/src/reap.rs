//! Finding children that have ended, without taking their status from whoever waits for them.

/// The pid of some child that has ended and hasn't been waited for.
pub fn peek_ended() -> Option<i32> {
    // SAFETY: an all-zero siginfo_t is valid; waitid fills it, and with WNOHANG leaves si_pid 0 when there is none.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let found = libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0 && info.si_pid() > 0;
        found.then(|| info.si_pid())
    }
}

/// Takes the status of one ended child and drops it.
pub fn discard(pid: i32) {
    // SAFETY: a null status is allowed (waitpid(2)).
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}
