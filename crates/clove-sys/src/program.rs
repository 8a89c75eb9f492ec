//! The last steps of a program's start, up to its exec.

use crate::clone::{check, last_errno};
use crate::landlock::Ruleset;
use crate::report::Stage;
use crate::seccomp::Instruction;
use crate::{privileges, seccomp, terminal};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::RawFd;

/// Strings as execve(2) takes them, null-terminated.
#[derive(Debug)]
pub struct StringArray {
    /// Own what `pointers` point to; a CString's bytes don't move with it.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    pub fn new(strings: Vec<CString>) -> StringArray {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        StringArray { _strings: strings, pointers }
    }
}

/// Where a program's first three descriptors come from. Numbers are 10 or higher, so that none is overwritten while
/// they are put in place.
#[derive(Clone, Copy, Debug)]
pub enum Stdio {
    Descriptors([RawFd; 3]),
    /// The terminal that the cell's script has opened.
    Terminal,
}

/// Limits, identity, filters and the command line, all prepared.
#[derive(Debug)]
pub struct Program {
    pub stdio: Stdio,
    /// Becomes descriptor 3.
    pub control: Option<RawFd>,
    pub limits: ResourceLimits,
    /// Capabilities that survive the exec (ambient), as a bit mask; all others are dropped. `None` beside an init, which
    /// has dropped them all before it forked this process (and with them the right to drop any).
    pub keep_capabilities: Option<u64>,
    pub landlock: Option<Ruleset>,
    pub filter: Vec<Instruction>,
    pub cwd: CString,
    /// Files to try in turn: one, or one for each folder of PATH.
    pub candidates: Vec<CString>,
    pub argv: StringArray,
    pub envp: StringArray,
}

/// With 0 no core file is written, but a handler that the host has in core_pattern runs nevertheless, as the host's root;
/// with 1 Linux does neither (fs/coredump.c takes it as the sign of a handler that crashes itself).
pub const NO_DUMP: u64 = 1;

/// setrlimit(2) values, hard and soft alike.
#[derive(Clone, Copy, Debug)]
pub struct ResourceLimits {
    pub nofile: u64,
}

impl ResourceLimits {
    /// NOFILE as given; no core dumps; no priority over others, whatever whoever started the kernel was allowed.
    pub fn apply(&self) -> Result<(), Errno> {
        for (resource, value) in [
            (libc::RLIMIT_NOFILE, self.nofile),
            (libc::RLIMIT_CORE, NO_DUMP),
            (libc::RLIMIT_RTPRIO, 0),
            (libc::RLIMIT_NICE, 0),
        ] {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: `limit` is a whole rlimit that outlives the call.
            check(unsafe { libc::setrlimit(resource, &limit) }.into())?;
        }
        Ok(())
    }
}

/// Why a program didn't start.
#[derive(Clone, Copy, Debug)]
pub struct NotStarted {
    pub stage: Stage,
    pub errno: Errno,
    /// The file exists; so its interpreter doesn't, when `errno` is ENOENT.
    pub found: bool,
}

impl Program {
    /// Turns this process into the program. Comes back only when that fails.
    pub fn become_it(&self, slave: Option<RawFd>) -> NotStarted {
        match self.prepare(slave) {
            Ok(()) => self.exec(),
            Err((stage, errno)) => NotStarted { stage, errno, found: false },
        }
    }

    fn prepare(&self, slave: Option<RawFd>) -> Result<(), (Stage, Errno)> {
        let at = |stage: Stage| move |errno: Errno| (stage, errno);
        privileges::reset_signals();
        rustix::process::setsid().map_err(at(Stage::Session))?;
        let stdio = match (self.stdio, slave) {
            (Stdio::Descriptors(fds), _) => fds,
            (Stdio::Terminal, Some(slave)) => {
                terminal::take_control(slave).map_err(at(Stage::Terminal))?;
                [slave; 3]
            }
            (Stdio::Terminal, None) => return Err((Stage::Terminal, Errno::NOTTY)),
        };
        for (fd, place) in stdio.into_iter().zip(0..) {
            place_descriptor(fd, place).map_err(at(Stage::Stdio))?;
        }
        let mut first_unwanted = 3;
        if let Some(control) = self.control {
            place_descriptor(control, 3).map_err(at(Stage::Stdio))?;
            first_unwanted = 4;
        }
        close_from(first_unwanted, true).map_err(at(Stage::Stdio))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        self.limits.apply().map_err(at(Stage::Limits))?;
        if let Some(keep) = self.keep_capabilities {
            privileges::keep_only(keep).map_err(at(Stage::Capabilities))?;
        }
        privileges::no_new_privs().map_err(at(Stage::NoNewPrivs))?;
        rustix::process::chdir(self.cwd.as_c_str()).map_err(at(Stage::Folder))?;
        if let Some(landlock) = &self.landlock {
            landlock.restrict().map_err(at(Stage::Landlock))?;
        }
        if !self.filter.is_empty() {
            seccomp::install(&self.filter).map_err(at(Stage::Seccomp))?;
        }
        Ok(())
    }

    /// Tries the candidates as execvp(3) does, but never falls back to a shell.
    fn exec(&self) -> NotStarted {
        let mut worst = NotStarted { stage: Stage::Exec, errno: Errno::NOENT, found: false };
        for file in &self.candidates {
            // SAFETY: the file is a C string, and both arrays are null-terminated arrays of C strings that `self`
            // owns.
            unsafe { libc::execve(file.as_ptr(), self.argv.pointers.as_ptr(), self.envp.pointers.as_ptr()) };
            let errno = last_errno();
            let found = rustix::fs::access(file.as_c_str(), rustix::fs::Access::EXISTS).is_ok();
            match errno {
                Errno::NOENT | Errno::NOTDIR if !found => {}
                Errno::ACCESS => worst = NotStarted { stage: Stage::Exec, errno, found },
                _ => return NotStarted { stage: Stage::Exec, errno, found },
            }
        }
        worst
    }
}

/// dup2, with the copy left open over an exec.
pub(crate) fn place_descriptor(fd: RawFd, place: RawFd) -> Result<(), Errno> {
    if fd == place {
        // SAFETY: plain numbers; clears close-on-exec.
        return check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: plain numbers; what was open at `place` is meant to go.
    check(unsafe { libc::dup2(fd, place) }.into()).map(drop)
}

/// Closes every descriptor from `first` on, or marks it close-on-exec.
pub(crate) fn close_from(first: RawFd, only_on_exec: bool) -> Result<(), Errno> {
    close_between(first as u32, u32::MAX, only_on_exec)
}

pub(crate) fn close_between(first: u32, last: u32, only_on_exec: bool) -> Result<(), Errno> {
    const CLOEXEC: libc::c_uint = libc::CLOSE_RANGE_CLOEXEC;
    let flags = if only_on_exec { CLOEXEC } else { 0 };
    // SAFETY: plain numbers. Called only in processes that go on to exec or end, with the descriptors that they
    // still need left out of the range.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}
