//! Host uids for agents: one block per launcher, taken under a host-wide lock, and leases within it.

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;

const BLOCKS: &str = "/run/clove/uid-blocks";
const FIRST: u32 = 0x1000_0000;
const BLOCK: u32 = 0x0100_0000;
const COUNT: u32 = 64;
/// Cold agents' uids lie in the first part of a block, templates' ranges in the rest.
const COLD: u32 = 0x0010_0000;
/// Ids in a template's own user namespace.
pub const TEMPLATE_RANGE: u32 = 0x0001_0000;
/// The first of the ids inside a template's range that its agents get (below are its own).
const FIRST_IN_TEMPLATE: u32 = 2000;

/// A numbered pool that gives the lowest free number.
#[derive(Debug, Default)]
struct Pool {
    used: std::collections::BTreeSet<u32>,
}

impl Pool {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut free = 0;
        for n in &self.used {
            if *n != free {
                break;
            }
            free += 1;
        }
        (free < count).then(|| {
            self.used.insert(free);
            free
        })
    }
}

/// The launcher's block.
#[derive(Debug)]
pub struct Uids {
    base: u32,
    cold: Pool,
    templates: Pool,
    /// Holds the lock as long as this launcher lives.
    _lock: OwnedFd,
}

/// The ids of one template's agents.
#[derive(Debug, Default)]
pub struct TemplateUids {
    pool: Pool,
}

impl Uids {
    /// Takes the first block that no other launcher on this host has.
    pub fn claim() -> io::Result<Uids> {
        std::fs::create_dir_all(BLOCKS)?;
        for n in 0..COUNT {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(format!("{BLOCKS}/{n}"), flags, Mode::from_raw_mode(0o600))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let (cold, templates) = (Pool::default(), Pool::default());
                    return Ok(Uids { base: FIRST + n * BLOCK, cold, templates, _lock: file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(io::Error::other(format!("all {COUNT} uid blocks in {BLOCKS} are in use")))
    }

    /// A uid (and gid) that no other live agent on this host has.
    pub fn take(&mut self) -> Option<u32> {
        self.cold.take(COLD).map(|n| self.base + n)
    }

    pub fn give_back(&mut self, uid: u32) {
        self.cold.used.remove(&(uid - self.base));
    }

    /// The first id of a range of `TEMPLATE_RANGE`.
    pub fn take_range(&mut self) -> Option<u32> {
        let ranges = (BLOCK - COLD) / TEMPLATE_RANGE;
        self.templates.take(ranges).map(|n| self.base + COLD + n * TEMPLATE_RANGE)
    }

    pub fn give_back_range(&mut self, first: u32) {
        self.templates.used.remove(&((first - self.base - COLD) / TEMPLATE_RANGE));
    }
}

impl TemplateUids {
    /// An id within the template's namespace.
    pub fn take(&mut self) -> Option<u32> {
        self.pool.take(TEMPLATE_RANGE - FIRST_IN_TEMPLATE).map(|n| n + FIRST_IN_TEMPLATE)
    }

    pub fn give_back(&mut self, id: u32) {
        self.pool.used.remove(&(id - FIRST_IN_TEMPLATE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given_and_none_twice() {
        let mut p = Pool::default();
        assert_eq!([p.take(3), p.take(3), p.take(3), p.take(3)], [Some(0), Some(1), Some(2), None]);
        p.used.remove(&1);
        assert_eq!(p.take(3), Some(1));
    }

    #[test]
    fn a_template_range_stays_in_its_block() {
        let last = FIRST + (COUNT - 1) * BLOCK;
        assert!(last.checked_add(BLOCK).is_some());
        assert_eq!(BLOCK % TEMPLATE_RANGE, 0);
        let mut t = TemplateUids::default();
        assert_eq!(t.take(), Some(2000));
        t.give_back(2000);
        assert_eq!(t.take(), Some(2000));
    }
}
