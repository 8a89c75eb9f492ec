//! Making a cell's first process inside a template's user namespace, as a child of the launcher.
//!
//! Two short-lived helpers are needed. The user namespace's creator must have an id that is mapped in the parent
//! namespace (clone(2), EPERM), so it must have become the template's root; but what it makes is hidden from others
//! (not dumpable), and so its map files belong to the host's root, and can be opened only by a process that still has
//! that id, while the map may be written only from inside the template's namespace. Hence the `warden` (host root's
//! id, template's namespace) writes the map, and the `maker` (template's root) clones.

use crate::clone::{self, Child, SingleThreaded, check, spawn_from_stub};
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
    /// The cell's first process exists. Descriptor: its pidfd.
    Made {
        pid: i32,
    },
    /// Its uid and gid maps are written.
    Mapped,
    Failed {
        stage: Stage,
        errno: i32,
    },
}

pub const NEWS_BYTES: usize = 12;

impl News {
    fn encode(self) -> [u8; NEWS_BYTES] {
        let words = match self {
            News::Made { pid } => [1, pid as u32, 0],
            News::Mapped => [2, 0, 0],
            News::Failed { stage, errno } => [3, stage as u32, errno as u32],
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
            1 => News::Made { pid: word(1) as i32 },
            2 => News::Mapped,
            3 => News::Failed { stage: Stage::from_number(word(1))?, errno: word(2) as i32 },
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

/// Starts the warden, whose pidfd is returned; it makes the rest. `namespaces` are the flags for the cell, `group` the v2
/// control group in which all of them are born.
pub fn spawn(
    proof: &SingleThreaded,
    template_user_namespace: RawFd,
    namespaces: u64,
    group: Option<BorrowedFd<'_>>,
    stub: &Stub,
    map: Map,
    up: RawFd,
) -> Result<Child, Errno> {
    clone::spawn(proof, 0, group, || {
        let say = |news: News| scm::send(borrow(up), &news.encode(), &[], SendFlags::empty()).is_ok();
        match warden(template_user_namespace, namespaces, stub, map, up) {
            Ok(()) => i32::from(!say(News::Mapped)),
            Err((stage, errno)) => {
                say(News::Failed { stage, errno: errno.raw_os_error() });
                1
            }
        }
    })
}

fn warden(user: RawFd, namespaces: u64, stub: &Stub, map: Map, up: RawFd) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    privileges::set_dumpable(false).map_err(at(Stage::Namespaces))?;
    mounts::join(user, libc::CLONE_NEWUSER).map_err(at(Stage::Namespaces))?;
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
            let news = News::Failed { stage, errno: errno.raw_os_error() };
            let _ = scm::send(borrow(up), &news.encode(), &[], SendFlags::empty());
            1
        }
        Ok(child) => {
            let news = News::Made { pid: child.pid }.encode();
            // The launcher first: whatever happens next, it must be able to kill what was made.
            let told = scm::send(borrow(up), &news, &[borrow(child.pidfd.as_raw_fd())], SendFlags::empty());
            let told = told.and_then(|_| rustix::io::write(borrow(to_warden), &child.pid.to_le_bytes()));
            i32::from(told.is_err())
        }
    }
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
        for n in [News::Made { pid: 77 }, News::Mapped, News::Failed { stage: Stage::Map, errno: 1 }] {
            assert_eq!(News::decode(&n.encode()), Some(n));
        }
        assert_eq!(News::decode(&[0; NEWS_BYTES]), None);
    }

    #[test]
    fn short_texts_refuse_to_overflow() {
        assert_eq!(Text::of(format_args!("/proc/{}/uid_map", 12)).map(|t| t.len).ok(), Some(16));
        assert!(Text::of(format_args!("{:100}", 1)).is_err());
    }
}
