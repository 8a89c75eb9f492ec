//! Making processes inside a template's cell, as children of the launcher: the template itself, and the first processes
//! of its agents' cells.
//!
//! A template's cell has an init of ours that makes its walls and then only holds its namespaces. The `usher` enters
//! them and starts the template's program there. So the template counts processes from its own PID namespace on: it can
//! neither see, count, open nor name any process but its own, its agents and their inits.
//!
//! An agent's cell lies inside the template's user and PID namespace. Two short-lived helpers are needed. The user namespace's creator must have an id that is mapped in the parent
//! namespace (clone(2), EPERM), so it must have become the template's root; but what it makes is hidden from others
//! (not dumpable), and so its map files belong to the host's root, and can be opened only by a process that still has
//! that id, while the map may be written only from inside the template's namespace. Hence the `warden` (host root's
//! id, template's namespace) writes the map, and the `maker` (template's root) clones.

use crate::clone::{self, Child, SingleThreaded, check, spawn_from_stub};
use crate::program::{NotStarted, Program};
use crate::report::Stage;
use crate::scm::{self, borrow};
use crate::stub::Stub;
use crate::{mounts, privileges};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::fmt::Write;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// What the helpers tell the launcher on `up` (SOCK_SEQPACKET).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The process exists. Descriptor: its pidfd.
    Made,
    /// Its uid and gid maps are written.
    Mapped,
    Failed {
        stage: Stage,
        errno: i32,
        /// As in `NotStarted`.
        found: bool,
    },
}

pub const NEWS_BYTES: usize = 12;

impl News {
    fn encode(self) -> [u8; NEWS_BYTES] {
        let words = match self {
            News::Made => [1, 0, 0],
            News::Mapped => [2, 0, 0],
            News::Failed { stage, errno, found } => [3, stage as u32 | u32::from(found) << 16, errno as u32],
        };
        let mut out = [0; NEWS_BYTES];
        for (at, w) in out.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&w.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<News> {
        let bytes: &[u8; NEWS_BYTES] = bytes.try_into().ok()?;
        let word = |i: usize| {
            u32::from_le_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]])
        };
        Some(match word(0) {
            1 => News::Made,
            2 => News::Mapped,
            3 => News::Failed {
                stage: Stage::from_number(word(1) & 0xffff)?,
                errno: word(2) as i32,
                found: word(1) >> 16 != 0,
            },
            _ => return None,
        })
    }
}

/// The one line of a map: `inside outside 1`, outside as the template's namespace counts.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    pub inside: u32,
    pub outside: u32,
}

/// The template's namespaces in which its agents' cells are made.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    pub user: RawFd,
    pub pid: RawFd,
}

/// Starts the warden, whose pidfd is returned; it makes the rest. `namespaces` are the flags for the cell, `group` the v2
/// control group in which all of them are born.
pub fn spawn(
    proof: &SingleThreaded,
    home: Home,
    namespaces: u64,
    group: Option<BorrowedFd<'_>>,
    stub: &Stub,
    map: Map,
    up: RawFd,
) -> Result<Child, Errno> {
    clone::spawn(proof, 0, group, || match warden(home, namespaces, stub, map, up) {
        Ok(()) => i32::from(!say(up, News::Mapped)),
        Err((stage, errno)) => {
            say_failed(up, stage, errno);
            1
        }
    })
}

fn say(up: RawFd, news: News) -> bool {
    scm::send(borrow(up), &news.encode(), &[], SendFlags::empty()).is_ok()
}

fn say_failed(up: RawFd, stage: Stage, errno: Errno) {
    say(up, News::Failed { stage, errno: errno.raw_os_error(), found: false });
}

fn say_made(up: RawFd, child: &Child) -> Result<(), Errno> {
    let pidfd = borrow(child.pidfd.as_raw_fd());
    scm::send(borrow(up), &News::Made.encode(), &[pidfd], SendFlags::empty()).map(drop)
}

fn warden(home: Home, namespaces: u64, stub: &Stub, map: Map, up: RawFd) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    privileges::set_dumpable(false).map_err(at(Stage::Namespaces))?;
    mounts::join(home.user, libc::CLONE_NEWUSER).map_err(at(Stage::Namespaces))?;
    // For the maker: a new PID namespace lies below the one that its maker is in.
    mounts::join(home.pid, libc::CLONE_NEWPID).map_err(at(Stage::Namespaces))?;
    let mut ends = [-1; 2];
    // SAFETY: pipe2 fills two descriptors, for which there is room.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into()).map_err(at(Stage::Fork))?;
    let [reader, writer] = ends;
    spawn_from_stub(clone::PARENT, || maker(namespaces, stub, up, writer)).map_err(at(Stage::Fork))?;
    // SAFETY: the descriptor was made above; the maker has its own copy.
    unsafe { libc::close(writer) };
    let mut pid = [0u8; 4];
    if rustix::io::retry_on_intr(|| rustix::io::read(borrow(reader), &mut pid)) != Ok(4) {
        return Err((Stage::Fork, Errno::CHILD));
    }
    let pid = i32::from_le_bytes(pid);
    for (file, content) in [("setgroups", None), ("gid_map", Some(map)), ("uid_map", Some(map))] {
        write_proc(pid, file, content).map_err(at(Stage::Map))?;
    }
    Ok(())
}

fn maker(namespaces: u64, stub: &Stub, up: RawFd, to_warden: RawFd) -> i32 {
    let made = privileges::become_ids(0, 0).map_err(|e| (Stage::Ids, e)).and_then(|()| {
        spawn_from_stub(namespaces | clone::PARENT, || stub.run()).map_err(|e| (Stage::Namespaces, e))
    });
    match made {
        Err((stage, errno)) => {
            say_failed(up, stage, errno);
            1
        }
        Ok(child) => {
            // The launcher first: whatever happens next, it must be able to kill what was made.
            let told = say_made(up, &child).and_then(|()| {
                // `child.pid` is its number in the template's PID namespace; /proc here is still the launcher's.
                let pid = pid_outside(child.pidfd.as_raw_fd())?;
                rustix::io::write(borrow(to_warden), &pid.to_le_bytes())
            });
            i32::from(told.is_err())
        }
    }
}

/// The pid behind a pidfd as /proc counts, which needn't be this process's own way (proc_pid_fdinfo(5)).
fn pid_outside(pidfd: RawFd) -> Result<i32, Errno> {
    let path = Text::of(format_args!("/proc/self/fdinfo/{pidfd}"))?;
    let file = rustix::fs::open(path.as_bytes(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = [0u8; 512];
    let n = rustix::io::read(&file, &mut bytes)?;
    number_after(bytes.get(..n).unwrap_or_default(), b"\nPid:").ok_or(Errno::SRCH)
}

fn number_after(text: &[u8], key: &[u8]) -> Option<i32> {
    let at = text.windows(key.len()).position(|w| w == key)?;
    let digits = text.get(at + key.len()..)?.trim_ascii_start();
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// The way into a template's cell for its program.
#[derive(Debug)]
pub struct Entry<'a> {
    /// (descriptor, CLONE_NEW...), in the order in which they are entered: the user namespace first.
    pub namespaces: &'a [(RawFd, i32)],
    /// Files of control groups, by `join_group`.
    pub groups: &'a [RawFd],
    pub uid: u32,
    pub gid: u32,
    pub program: &'a Program,
}

/// Starts the usher, whose pidfd is returned; it starts the program. News: `Made`, and `Failed` when the program couldn't
/// be started after all. The end of `up` without that says that it runs (close-on-exec).
pub fn spawn_program(
    proof: &SingleThreaded,
    group: Option<BorrowedFd<'_>>,
    entry: &Entry<'_>,
    up: RawFd,
) -> Result<Child, Errno> {
    clone::spawn(proof, 0, group, || match usher(entry, up) {
        Ok(()) => 0,
        Err((stage, errno)) => {
            say_failed(up, stage, errno);
            1
        }
    })
}

fn usher(entry: &Entry<'_>, up: RawFd) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    privileges::set_dumpable(false).map_err(at(Stage::Namespaces))?;
    for group in entry.groups {
        crate::stub::join_group(*group).map_err(at(Stage::Groups))?;
    }
    for (fd, kind) in entry.namespaces {
        mounts::join(*fd, *kind).map_err(at(Stage::Namespaces))?;
    }
    let child = spawn_from_stub(clone::PARENT, || newcomer(entry, up)).map_err(at(Stage::Fork))?;
    say_made(up, &child).map_err(at(Stage::Fork))
}

/// In the template's PID namespace: the program, soon.
fn newcomer(entry: &Entry<'_>, up: RawFd) -> i32 {
    let failed = |stage: Stage| move |errno: Errno| NotStarted { stage, errno, found: false };
    let ready = mounts::unshare_cgroup()
        .map_err(failed(Stage::Namespaces))
        .and_then(|()| privileges::become_ids(entry.uid, entry.gid).map_err(failed(Stage::Ids)))
        .and_then(|()| privileges::die_with_parent().map_err(failed(Stage::Session)));
    let failed = match ready {
        // The launcher died before that could be seen to.
        Ok(()) if scm::is_left_alone(borrow(up)) => return 1,
        Ok(()) => entry.program.become_it(None),
        Err(n) => n,
    };
    say(up, News::Failed { stage: failed.stage, errno: failed.errno.raw_os_error(), found: failed.found });
    127
}

/// A short text made without allocation.
struct Text {
    bytes: [u8; 64],
    len: usize,
}

impl Text {
    fn of(arguments: std::fmt::Arguments<'_>) -> Result<Text, Errno> {
        let mut text = Text { bytes: [0; 64], len: 0 };
        text.write_fmt(arguments).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(text)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

fn write_proc(pid: i32, file: &str, map: Option<Map>) -> Result<(), Errno> {
    let path = Text::of(format_args!("/proc/{pid}/{file}"))?;
    let content = match map {
        Some(m) => Text::of(format_args!("{} {} 1", m.inside, m.outside))?,
        None => Text::of(format_args!("deny"))?,
    };
    let file = rustix::fs::open(path.as_bytes(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_survive_the_wire() {
        let failed = |found| News::Failed { stage: Stage::Map, errno: 1, found };
        for n in [News::Made, News::Mapped, failed(false), failed(true)] {
            assert_eq!(News::decode(&n.encode()), Some(n));
        }
        assert_eq!(News::decode(&[0; NEWS_BYTES]), None);
    }

    #[test]
    fn a_pid_is_found_in_fdinfo() {
        let text = b"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nPid:\t4711\nNSpid:\t4711\t2\n";
        assert_eq!(number_after(text, b"\nPid:"), Some(4711));
        assert_eq!(number_after(b"\nPid:\t-1\n", b"\nPid:"), None);
        assert_eq!(number_after(b"\nPid:", b"\nPid:"), None);
        let child =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        let own = pid_outside(child.expect("a pidfd").as_raw_fd());
        assert_eq!(own.ok(), Some(rustix::process::getpid().as_raw_nonzero().get()));
    }

    #[test]
    fn short_texts_refuse_to_overflow() {
        assert_eq!(Text::of(format_args!("/proc/{}/uid_map", 12)).map(|t| t.len).ok(), Some(16));
        assert!(Text::of(format_args!("{:100}", 1)).is_err());
    }
}
