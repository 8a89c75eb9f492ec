//! Watches that data directory and socket stay where they were put.
//!
//! A tidy hand (systemd-tmpfiles, `rm -r /run/clove-*`) takes away sockets of kernels that run: the door is made anew. A
//! data directory that is moved or removed takes the journal along: whatever was acknowledged from then on would be
//! lost to those who look for it, so the kernel stops.

use super::bootstrap::listen;
use super::shell::{KIND_FRONT_DOOR, Shell};
use super::sockets::DOOR;
use clove_client::paths::make_runtime_dir_of;
use rustix::event::epoll;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Between two looks when nothing was heard: a folder above may have been moved, which inotify(7) doesn't tell.
const LOOK_EVERY_MS: u64 = 20_000;

/// A path, and what lay there.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Device and inode.
    id: Option<(u64, u64)>,
}

impl Place {
    fn of(path: PathBuf) -> Place {
        let id = id_of(&path);
        Place { path, id }
    }

    fn is_kept(&self) -> bool {
        id_of(&self.path) == self.id
    }
}

fn id_of(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|m| (m.dev(), m.ino()))
}

/// The places, and who tells of changes.
#[derive(Debug)]
pub struct HomeWatch {
    /// None when the host has no more to give (fs.inotify.max_user_instances): then there are the looks.
    inotify: Option<OwnedFd>,
    data_dir: Place,
    journal: Place,
    socket: Place,
    looked_ms: u64,
    /// Its loss was said, and couldn't be mended yet.
    said: bool,
}

impl HomeWatch {
    /// Both are there.
    pub fn new(data_dir: &Path, socket: &Path) -> HomeWatch {
        let mut home = HomeWatch {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok(),
            data_dir: Place::of(data_dir.to_owned()),
            journal: Place::of(data_dir.join("journal")),
            socket: Place::of(socket.to_owned()),
            looked_ms: 0,
            said: false,
        };
        // A folder that somebody has open tells nothing of its own removal; the one above it does. The kernel itself
        // removes next to nothing here.
        home.watch(data_dir, WatchFlags::MOVE_SELF | WatchFlags::MOVED_FROM | WatchFlags::DELETE);
        home.watch_door();
        home
    }

    /// For the loop to wait on.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    fn watch(&mut self, path: &Path, what: WatchFlags) {
        if let Some(fd) = &self.inotify {
            let _ = inotify::add_watch(fd, path, what | WatchFlags::ONLYDIR);
        }
    }

    fn watch_door(&mut self) {
        let flags =
            WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        if let Some(folder) = self.socket.path.parent().map(Path::to_owned) {
            self.watch(&folder, flags);
        }
    }

    /// Takes in what was told; what it was about is seen by looking.
    fn drain(&self) {
        let Some(fd) = &self.inotify else { return };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut space);
        while reader.next().is_ok() {}
    }
}

impl Shell {
    /// Something moved below the data directory or the socket's folder.
    pub fn on_home(&mut self) {
        self.home.drain();
        self.home.looked_ms = 0;
    }

    /// Looks, when something was told or it is time again. The loop wakes at least every half minute.
    pub fn check_home(&mut self, now: u64) {
        if now < self.home.looked_ms || self.stopping.is_some() {
            return;
        }
        self.home.looked_ms = now + LOOK_EVERY_MS;
        if !(self.home.data_dir.is_kept() && self.home.journal.is_kept()) {
            let why = format!("{} was moved or removed while the kernel ran", self.data_dir.display());
            return self.break_down(&why);
        }
        if !self.home.socket.is_kept() {
            match self.make_door_anew() {
                Ok(()) => say!("{} was taken away, and is made anew", self.socket.display()),
                Err(why) if !self.home.said => {
                    self.home.said = true;
                    say!("{} was taken away, and can't be made anew: {why}", self.socket.display());
                }
                Err(_) => {}
            }
        }
    }

    /// Connections that stand are untouched.
    fn make_door_anew(&mut self) -> Result<(), String> {
        make_runtime_dir_of(&self.socket).map_err(|e| e.to_string())?;
        let door = listen(&self.socket).map_err(|e| format!("{e:#}"))?;
        epoll::add(&self.epoll, &door, epoll::EventData::new_u64(KIND_FRONT_DOOR), DOOR)
            .map_err(|e| e.to_string())?;
        self.front_door = door;
        self.home.socket = Place::of(self.socket.clone());
        self.home.said = false;
        self.home.watch_door();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_lay_there() {
        let t = tempfile::tempdir().expect("tempdir");
        let path = t.path().join("a");
        std::fs::create_dir(&path).expect("mkdir");
        let place = Place::of(path.clone());
        assert!(place.is_kept());
        std::fs::rename(&path, t.path().join("b")).expect("mv");
        assert!(!place.is_kept());
        std::fs::create_dir(&path).expect("mkdir");
        assert!(!place.is_kept(), "another of the same name");
        std::fs::remove_dir(&path).expect("rmdir");
        std::fs::rename(t.path().join("b"), &path).expect("mv back");
        assert!(place.is_kept());
    }
}
