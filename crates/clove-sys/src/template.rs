//! The C function with which a template host (Python, through ctypes) serves fork requests.

use crate::clone::{Forked, exit_now, fork_sibling};
use crate::embryo::*;
use crate::program::{close_between, place_descriptor};
use crate::report::Stage;
use crate::scm::{self, borrow};
use crate::{mounts, privileges, seccomp};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// A function of the interpreter's C API.
pub type Hook = Option<extern "C" fn()>;

/// Room for a filter, and paths of every mount.
const REQUEST_BYTES: usize = 192 << 10;
/// The embryo's end of the report socket, until it is closed.
const REPORT_PLACE: RawFd = 4;

/// Waits for one request on `control_fd` (SOCK_SEQPACKET, blocking) and forks an embryo into the cell that came with
/// it, as a child of this process's parent.
///
/// Returns 0 in the embryo (its walls stand; descriptor 3 is its syscall socket), 1 in the template (call again), -1 at
/// the end of the socket, and minus an errno when the request is unreadable. A fork that fails is told to the launcher
/// and returns 1.
///
/// The hooks are PyOS_BeforeFork, PyOS_AfterFork_Child and PyOS_AfterFork_Parent, or null. The caller has one thread and
/// holds the interpreter lock (`ctypes.PyDLL`).
///
/// # Safety
/// The hooks must be null or functions that may be called around a fork.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clove_template_serve(
    control_fd: RawFd,
    before_fork: Hook,
    after_fork_child: Hook,
    after_fork_parent: Hook,
) -> i32 {
    let mut bytes = vec![0u8; REQUEST_BYTES];
    let mut owned = [const { None }; scm::MAX_FDS];
    let (length, count) = match scm::recv(borrow(control_fd), &mut bytes, &mut owned, RecvFlags::empty()) {
        Ok((0, _)) | Err(Errno::CONNRESET) => return -1,
        Ok(got) => got,
        Err(e) => return -e.raw_os_error(),
    };
    let Some(request) = bytes.get(..length).and_then(ForkRequest::decode) else {
        return -libc::EPROTO;
    };
    if count < FDS {
        return -libc::EBADMSG;
    }
    let fds: Vec<RawFd> = owned.iter().flatten().map(|fd: &OwnedFd| fd.as_raw_fd()).collect();
    let token = request.token;
    let tell = |reply: ForkReply, pidfd: &[std::os::fd::BorrowedFd<'_>]| {
        // A launcher that is gone shows as the end of the socket at the next call.
        let _ = scm::send(borrow(control_fd), &reply.encode(), pidfd, SendFlags::empty());
    };
    // The child starts in the cell's PID namespace. There is no way back to the launcher's for later children (that
    // would need a capability over it), and no need: the next request names the next cell.
    if let Err(e) = mounts::join(fds[FD_PID], libc::CLONE_NEWPID) {
        tell(ForkReply { token, errno: e.raw_os_error(), pid: 0 }, &[]);
        return 1;
    }
    call(before_fork);
    let forked = fork_sibling(tid_address());
    match forked {
        Ok(Forked::Child) => {
            // From here on they are closed by number, all at once.
            std::mem::forget(owned);
            let outcome = enter_cell(&request, &fds);
            let record = match outcome {
                Ok(()) => Outcome { stage: 0, errno: 0 },
                Err((stage, errno)) => Outcome { stage: stage as u32, errno: errno.raw_os_error() },
            };
            let report = if outcome.is_ok() { REPORT_PLACE } else { fds[FD_REPORT] };
            if outcome.is_ok() {
                // Before the report, so that what fork hooks start or open is there to be seen.
                call(after_fork_child);
            }
            let told = rustix::io::write(borrow(report), &record.encode());
            if outcome.is_err() || told.is_err() || !is_let_go(report) {
                // Half a wall is no wall.
                exit_now(126);
            }
            let _ = close_between(REPORT_PLACE as u32, REPORT_PLACE as u32, false);
            0
        }
        Ok(Forked::Parent { pid, pidfd }) => {
            call(after_fork_parent);
            tell(ForkReply { token, errno: 0, pid }, &[pidfd.as_fd()]);
            1
        }
        Err(e) => {
            call(after_fork_parent);
            tell(ForkReply { token, errno: e.raw_os_error(), pid: 0 }, &[]);
            1
        }
    }
}

/// Stands still until the launcher has looked at it from outside.
fn is_let_go(report: RawFd) -> bool {
    let mut word = [0u8];
    rustix::io::retry_on_intr(|| rustix::io::read(borrow(report), &mut word)) == Ok(1) && word[0] == GO
}

fn call(hook: Hook) {
    if let Some(f) = hook {
        f();
    }
}

/// Where libc keeps this thread's id (PR_GET_TID_ADDRESS), so that it stays true in the child.
fn tid_address() -> *mut libc::c_int {
    match rustix::thread::get_clear_child_tid_address() {
        Ok(Some(address)) => address.as_ptr().cast(),
        _ => std::ptr::null_mut(),
    }
}

/// The embryo's way from a copy of the template to an isolated process.
fn enter_cell(request: &ForkRequest, fds: &[RawFd]) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    for group in fds.iter().skip(FDS) {
        crate::stub::join_group(*group).map_err(at(Stage::Groups))?;
    }
    // The user namespace first: joining it gives the capabilities over the others.
    for (fd, kind) in [
        (FD_USER, libc::CLONE_NEWUSER),
        (FD_MNT, libc::CLONE_NEWNS),
        (FD_NET, libc::CLONE_NEWNET),
        (FD_IPC, libc::CLONE_NEWIPC),
        (FD_UTS, libc::CLONE_NEWUTS),
        (FD_CGROUP, libc::CLONE_NEWCGROUP),
    ] {
        mounts::join(fds[fd], kind).map_err(at(Stage::Namespaces))?;
    }
    privileges::become_ids(request.uid, request.gid).map_err(at(Stage::Ids))?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(at(Stage::Stdio))?;
    let places = [
        (null.as_raw_fd(), 0),
        (fds[FD_STDOUT], 1),
        (fds[FD_STDERR], 2),
        (fds[FD_SYSCALLS], 3),
        (fds[FD_REPORT], REPORT_PLACE),
    ];
    for (fd, place) in places {
        place_descriptor(fd, place).map_err(at(Stage::Stdio))?;
    }
    // Closed below, by number, with everything else.
    std::mem::forget(null);
    close_between(REPORT_PLACE as u32 + 1, u32::MAX, false).map_err(at(Stage::Stdio))?;
    rustix::process::setsid().map_err(at(Stage::Session))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    request.limits.apply().map_err(at(Stage::Limits))?;
    privileges::keep_only(0).map_err(at(Stage::Capabilities))?;
    // Changed ids have made it undumpable, and its own /proc files root's: a program may look at itself.
    privileges::set_dumpable(true).map_err(at(Stage::Capabilities))?;
    privileges::no_new_privs().map_err(at(Stage::NoNewPrivs))?;
    rustix::process::chdir(request.cwd.as_c_str()).map_err(at(Stage::Folder))?;
    if let Some(landlock) = &request.landlock {
        landlock.restrict().map_err(at(Stage::Landlock))?;
    }
    seccomp::install(&request.filter).map_err(at(Stage::Seccomp))
}
