//! A cell's making as a list of prepared steps, carried out by the stub with no allocation.

use crate::clone::check;
use crate::report::{NO_STEP, SKIPPED};
use crate::{loopback, mounts, privileges, terminal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{IntoRawFd, RawFd};

/// One thing to do. Paths before `Pivot` are relative to the new root (the working folder); after it they are absolute.
#[derive(Debug)]
pub enum Step {
    /// Nothing of what is mounted here is seen outside any more, nor the other way round.
    MakePrivate,
    Mount {
        kind: CString,
        target: CString,
        flags: u64,
        data: CString,
    },
    Enter {
        path: CString,
    },
    /// Existing folders are fine.
    MakeFolder {
        path: CString,
        mode: u32,
    },
    /// An empty file, to mount a file on.
    MakeFile {
        path: CString,
    },
    MakeLink {
        to: CString,
        path: CString,
    },
    WriteFile {
        path: CString,
        content: Vec<u8>,
        mode: u32,
    },
    /// Attaches a detached mount tree.
    Attach {
        tree: RawFd,
        target: CString,
    },
    Bind {
        source: CString,
        target: CString,
    },
    /// mount_setattr flags on one mount.
    SetAttributes {
        target: CString,
        set: u64,
        recursive: bool,
    },
    /// Opens the folder that is passed out as the scratch folder.
    OpenScratch {
        path: CString,
    },
    Pivot,
    /// Makes the cgroups that the process is in now the root of what it sees.
    OwnCgroups,
    BecomeIds {
        uid: u32,
        gid: u32,
    },
    RaiseLoopback,
    Hostname {
        name: CString,
    },
    /// Binds and listens; passed out as the listener. The path must be short (108 bytes, unix(7)).
    Listen {
        path: CString,
    },
    OpenTerminal {
        rows: u16,
        columns: u16,
    },
    /// Writes a kernel setting of one of the cell's own namespaces.
    Setting {
        path: CString,
        value: CString,
    },
}

/// A step, and whether the cell can stand without it.
#[derive(Debug)]
pub struct Line {
    pub step: Step,
    pub optional: bool,
}

#[derive(Debug, Default)]
pub struct Script {
    pub lines: Vec<Line>,
}

/// What the steps have opened.
#[derive(Debug, Default)]
pub struct Opened {
    pub listener: Option<RawFd>,
    pub scratch: Option<RawFd>,
    pub master: Option<RawFd>,
    pub slave: Option<RawFd>,
}

/// The step that failed, by its index, and why.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    pub step: u32,
    pub errno: Errno,
}

impl Script {
    /// Runs all steps in order. Gives back the indices of optional steps that failed.
    pub fn run(&self, opened: &mut Opened) -> Result<[u16; SKIPPED], Failed> {
        let mut skipped = [NO_STEP; SKIPPED];
        let mut places = skipped.iter_mut();
        for (index, line) in self.lines.iter().enumerate() {
            match line.step.run(opened) {
                Ok(()) => {}
                Err(_) if line.optional => {
                    if let Some(place) = places.next() {
                        *place = index as u16;
                    }
                }
                Err(errno) => return Err(Failed { step: index as u32, errno }),
            }
        }
        Ok(skipped)
    }
}

impl Step {
    fn run(&self, opened: &mut Opened) -> Result<(), Errno> {
        match self {
            Step::MakePrivate => mounts::mount(c"none", c"/", c"", libc::MS_PRIVATE | libc::MS_REC, c""),
            Step::Mount { kind, target, flags, data } => mounts::mount(kind, target, kind, *flags, data),
            Step::Enter { path } => rustix::process::chdir(path.as_c_str()),
            Step::MakeFolder { path, mode } => {
                match rustix::fs::mkdirat(rustix::fs::CWD, path.as_c_str(), Mode::from_raw_mode(*mode)) {
                    Err(Errno::EXIST) => Ok(()),
                    // The umask of whoever started the kernel has no say here.
                    Ok(()) => rustix::fs::chmodat(
                        rustix::fs::CWD,
                        path.as_c_str(),
                        Mode::from_raw_mode(*mode),
                        rustix::fs::AtFlags::empty(),
                    ),
                    Err(e) => Err(e),
                }
            }
            Step::MakeFile { path } => match write_file(path, &[], 0o444, OFlags::EXCL) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            },
            Step::MakeLink { to, path } => {
                rustix::fs::symlinkat(to.as_c_str(), rustix::fs::CWD, path.as_c_str())
            }
            Step::WriteFile { path, content, mode } => write_file(path, content, *mode, OFlags::TRUNC),
            Step::Attach { tree, target } => mounts::attach(*tree, target),
            Step::Bind { source, target } => mounts::mount(source, target, c"", libc::MS_BIND, c""),
            Step::SetAttributes { target, set, recursive } => {
                mounts::set_path_attributes(target, *set, *recursive)
            }
            Step::OpenScratch { path } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                opened.scratch = Some(rustix::fs::open(path.as_c_str(), flags, Mode::empty())?.into_raw_fd());
                Ok(())
            }
            Step::Pivot => mounts::pivot_here(),
            Step::OwnCgroups => mounts::unshare_cgroup(),
            Step::BecomeIds { uid, gid } => privileges::become_ids(*uid, *gid),
            Step::RaiseLoopback => loopback::raise(),
            Step::Hostname { name } => rustix::system::sethostname(name.to_bytes()),
            Step::Listen { path } => {
                opened.listener = Some(listen(path)?);
                Ok(())
            }
            Step::OpenTerminal { rows, columns } => {
                let (master, slave) = terminal::open_pair(*rows, *columns)?;
                opened.master = Some(master);
                opened.slave = Some(slave);
                Ok(())
            }
            Step::Setting { path, value } => {
                let file =
                    rustix::fs::open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                rustix::io::write(&file, value.to_bytes()).map(drop)
            }
        }
    }
}

fn write_file(path: &CString, content: &[u8], mode: u32, extra: OFlags) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
    let file = rustix::fs::open(path.as_c_str(), flags, Mode::from_raw_mode(mode))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    let mut rest = content;
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest)?;
        rest = rest.get(n..).unwrap_or_default();
    }
    Ok(())
}

fn listen(path: &CString) -> Result<RawFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let socket = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())? as RawFd;
    // SAFETY: an all-zero sockaddr_un is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(Errno::NAMETOOLONG);
    }
    for (slot, byte) in address.sun_path.iter_mut().zip(bytes) {
        *slot = *byte as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_un of the length given, and outlives the call.
    let bound = unsafe { libc::bind(socket, (&raw const address).cast(), length) };
    check(bound.into())?;
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::chmodat(rustix::fs::CWD, path.as_c_str(), mode, rustix::fs::AtFlags::empty())?;
    // SAFETY: plain numbers.
    check(unsafe { libc::listen(socket, 128) }.into())?;
    Ok(socket)
}
