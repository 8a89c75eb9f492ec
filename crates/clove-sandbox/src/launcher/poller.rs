//! epoll, with what each descriptor means.

use crate::protocol::Token;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What has become readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Kernel,
    /// A stub's setup socket.
    Setup(Token),
    /// The pidfd of a cell's first process, its init: it has ended.
    First(Token),
    /// The pidfd of a template or an embryo: it has ended.
    Beside(Token),
    /// The socket of helpers that make a process inside a template's namespaces.
    Helper(Token),
    /// A template's control socket.
    Control(Token),
    /// The socket on which an embryo tells that its walls stand.
    Outcome(Token),
    /// The group is out of memory.
    Oom(Token),
}

pub struct Poller {
    epoll: OwnedFd,
    sources: BTreeMap<u64, Source>,
    ids: BTreeMap<Source, u64>,
    next: u64,
    watching_writes: bool,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, sources: BTreeMap::new(), ids: BTreeMap::new(), next: 0, watching_writes: false })
    }

    pub fn add(&mut self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let id = self.next;
        self.next += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(id), EventFlags::IN)?;
        self.sources.insert(id, source);
        self.ids.insert(source, id);
        Ok(())
    }

    /// Before the descriptor is closed: a copy of it in some other process would keep the registration alive.
    pub fn remove(&mut self, fd: impl AsFd, source: Source) {
        let _ = epoll::delete(&self.epoll, fd);
        if let Some(id) = self.ids.remove(&source) {
            self.sources.remove(&id);
        }
    }

    /// Waits until something happens, or `at_most` is over. `link` is watched for writability too while `want_write`.
    pub fn wait(
        &mut self,
        want_write: bool,
        link: impl AsFd,
        at_most: Option<Duration>,
    ) -> io::Result<Vec<Source>> {
        if want_write != self.watching_writes
            && let Some(id) = self.ids.get(&Source::Kernel)
        {
            let flags = if want_write { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, link, EventData::new_u64(*id), flags)?;
            self.watching_writes = want_write;
        }
        let timeout =
            at_most.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(events.iter().filter_map(|e| self.sources.get(&e.data.u64()).copied()).collect())
    }
}
