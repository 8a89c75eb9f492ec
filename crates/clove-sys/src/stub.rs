//! The first process of a cell: builds the walls from inside, then is its init (PID 1).

use crate::clone::{check, spawn_from_stub};
use crate::privileges;
use crate::program::{NotStarted, Program, close_between};
use crate::report::{Report, Stage};
use crate::scm::{self, borrow};
use crate::script::{Opened, Script};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsRawFd, RawFd};

/// What the stub does once its walls stand.
#[derive(Debug)]
pub enum Role {
    /// Init; forks and execs the program as PID 2. With `hold`, when the launcher says so.
    Cold { program: Box<Program>, hold: bool },
    /// Init; somebody else will put the program beside it: a template an embryo, the launcher a template.
    Empty,
}

/// Everything a stub needs, prepared before the clone.
#[derive(Debug)]
pub struct Stub {
    /// Its end of the socket pair with the launcher: blocking, close-on-exec.
    pub setup: RawFd,
    /// Descriptors that it needs besides `setup`; all others are closed at once.
    pub keep: Vec<RawFd>,
    /// Files of control groups that it enters first, by `join_group`.
    pub groups: Vec<RawFd>,
    pub script: Script,
    pub role: Role,
}

/// A placeholder, and the first number above them.
const LOW_NULL: RawFd = 9;
const FIRST_FREE: u32 = 10;

/// The launcher's words on the setup socket.
pub const GO: u8 = b'G';
pub const START: u8 = b'S';

impl Stub {
    /// Closes what isn't needed, in the order the kernel wants ranges. Call `sort` on the parent's side first.
    pub fn sort(&mut self) {
        self.keep.push(self.setup);
        self.keep.extend(&self.groups);
        self.keep.sort_unstable();
        self.keep.dedup();
    }

    /// The whole life of the stub. Runs in a fresh clone; the result is its exit code.
    pub fn run(&self) -> i32 {
        // The memory is a copy of the launcher's, which knows every agent's environment: nobody may look into it.
        let hidden = privileges::set_dumpable(false);
        privileges::reset_signals();
        if hidden.is_err() || self.close_the_rest().is_err() || !self.told(GO) {
            return 1;
        }
        for group in &self.groups {
            if let Err(errno) = join_group(*group) {
                self.say_not_started(NotStarted { stage: Stage::Groups, errno, found: false });
                return 1;
            }
        }
        let mut opened = Opened::default();
        match self.script.run(&mut opened) {
            Ok(skipped) => {
                if !self.say_ready(&opened, skipped) {
                    return 1;
                }
            }
            Err(failed) => {
                self.say(&Report::ScriptFailed { step: failed.step, errno: failed.errno.raw_os_error() });
                return 1;
            }
        }
        match &self.role {
            Role::Cold { program, hold } => {
                if *hold && !self.told(START) {
                    return 1;
                }
                self.be_init(Some((program, &opened)))
            }
            Role::Empty => self.be_init(None),
        }
    }

    /// The launcher holds 3 to 9 open on /dev/null (`occupy_low_descriptors`); so does the stub, with 0 to 2 as well,
    /// so that nothing it opens gets a number at which it later puts a program's descriptors.
    fn close_the_rest(&self) -> Result<(), Errno> {
        for place in 0..3 {
            crate::program::place_descriptor(LOW_NULL, place)?;
        }
        let mut next = FIRST_FREE;
        for fd in &self.keep {
            let fd = *fd as u32;
            if fd > next {
                close_between(next, fd - 1, false)?;
            }
            next = fd + 1;
        }
        close_between(next, u32::MAX, false)
    }

    /// Waits for one word; false when the launcher is gone or says something else.
    fn told(&self, word: u8) -> bool {
        let mut byte = [0u8];
        matches!(scm::recv(borrow(self.setup), &mut byte, &mut [], RecvFlags::empty()), Ok((1, _)))
            && byte[0] == word
    }

    /// The launcher has ended. Asked right after `die_with_parent`, which says nothing about a death before it.
    fn is_left_alone(&self) -> bool {
        // It has nothing more to say here, and keeps its end of the socket for as long as it lives.
        scm::is_left_alone(borrow(self.setup))
    }

    fn say(&self, report: &Report) -> bool {
        scm::send(borrow(self.setup), &report.encode(), &[], SendFlags::empty()).is_ok()
    }

    fn say_ready(&self, opened: &Opened, skipped: [u16; crate::report::SKIPPED]) -> bool {
        let mut fds = [borrow(self.setup); 3];
        let mut count = 0;
        for fd in [opened.listener, opened.scratch, opened.master].into_iter().flatten() {
            fds[count] = borrow(fd);
            count += 1;
        }
        let sent = scm::send(
            borrow(self.setup),
            &Report::Ready { skipped }.encode(),
            &fds[..count],
            SendFlags::empty(),
        );
        for fd in [opened.listener, opened.scratch, opened.master].into_iter().flatten() {
            close(fd);
        }
        sent.is_ok()
    }

    fn say_not_started(&self, n: NotStarted) -> bool {
        self.say(&Report::ProgramFailed { stage: n.stage, errno: n.errno.raw_os_error(), found: n.found })
    }

    fn be_init(&self, program: Option<(&Program, &Opened)>) -> i32 {
        // Whatever init still could do, it can't after this; the program inherits it.
        if let Err(errno) = privileges::keep_only(0) {
            self.say_not_started(NotStarted { stage: Stage::Capabilities, errno, found: false });
            return 1;
        }
        if let Err(errno) = privileges::no_new_privs().and_then(|()| privileges::die_with_parent()) {
            self.say_not_started(NotStarted { stage: Stage::NoNewPrivs, errno, found: false });
            return 1;
        }
        if self.is_left_alone() {
            return 1;
        }
        let child = match program {
            None => None,
            Some((program, opened)) => match self.start(program, opened) {
                Ok(pid) => Some(pid),
                Err(failed) => {
                    self.say_not_started(failed);
                    return 127;
                }
            },
        };
        // Nothing is held but the setup socket: a pipe of the program's must see its end when the program ends.
        let setup = self.setup as u32;
        let _ = close_between(0, setup.saturating_sub(1), false);
        let _ = close_between(setup + 1, u32::MAX, false);
        self.reap(child)
    }

    /// Forks PID 2 and waits until its exec has succeeded or failed.
    fn start(&self, program: &Program, opened: &Opened) -> Result<i32, NotStarted> {
        let fork = |errno| NotStarted { stage: Stage::Fork, errno, found: false };
        let mut ends = [-1; 2];
        // SAFETY: pipe2 fills two descriptors, for which there is room.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into()).map_err(fork)?;
        let [reader, writer] = ends;
        let child = spawn_from_stub(0, || {
            let n = program.become_it(opened.slave);
            let mut record = [0u8; 12];
            record[..4].copy_from_slice(&(n.stage as u32).to_le_bytes());
            record[4..8].copy_from_slice(&n.errno.raw_os_error().to_le_bytes());
            record[8] = n.found.into();
            let _ = rustix::io::write(borrow(writer), &record);
            127
        })
        .map_err(fork)?;
        close(writer);
        let mut record = [0u8; 12];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(borrow(reader), &mut record));
        close(reader);
        if got == Ok(12) {
            let number =
                |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
            return Err(NotStarted {
                stage: Stage::from_number(number(0)).unwrap_or(Stage::Exec),
                errno: Errno::from_raw_os_error(number(4) as i32),
                found: record[8] != 0,
            });
        }
        let pidfd = borrow(child.pidfd.as_raw_fd());
        scm::send(borrow(self.setup), &Report::Started.encode(), &[pidfd], SendFlags::empty())
            .map_err(fork)?;
        Ok(child.pid)
    }

    /// Reaps everything that ends in the namespace, until the program does; then the kernel kills what is left.
    fn reap(&self, program: Option<i32>) -> i32 {
        // Blocked, a SIGCHLD waits for sigwaitinfo, and none is lost between the two calls; unblocked it would be
        // dropped, as init has no handler.
        // SAFETY: an all-zero sigset_t is a valid empty set, and the calls only read and write that set.
        let child_ended = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
            set
        };
        loop {
            let mut status = 0;
            // SAFETY: waitpid fills the one int that it is given.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid > 0 {
                if Some(pid) == program {
                    self.say(&Report::Ended { status });
                    return 0;
                }
            } else {
                // Children that are still running, or (warm) none yet: orphans come here.
                // SAFETY: waits for the set made above; a null siginfo is allowed.
                unsafe { libc::sigwaitinfo(&child_ended, std::ptr::null_mut()) };
            }
        }
    }
}

/// Enters the control group whose `tasks` (v1) or `cgroup.procs` (v2) file is `fd`; the right to do so is the opener's.
///
/// A process that moves itself alone ("0" to `tasks`) is the one move for which the kernel doesn't stop every fork on
/// the machine and wait for an RCU grace period (cgroup_procs_write_start): 20 us instead of 5 to 15 ms.
pub(crate) fn join_group(fd: RawFd) -> Result<(), Errno> {
    rustix::io::write(borrow(fd), b"0").map(drop)
}

fn close(fd: RawFd) {
    // SAFETY: the callers own `fd` and don't use it afterwards.
    unsafe { libc::close(fd) };
}
