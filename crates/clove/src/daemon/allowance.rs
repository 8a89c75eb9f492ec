//! How much a party may make the kernel hold: frames that aren't whole yet, bytes on their way to the disk, answers that
//! nobody reads.
//!
//! Bytes carry their [`Lease`] wherever they go; it ends with them, on whatever thread that is. Small frames need none:
//! what a connection can hold of those is bounded by itself (`connection.rs`).

use super::connection::Party;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes held for one party: the largest frame and half as much again.
pub const MOST_OF_ONE: usize = 128 << 20;
/// Bytes held for all of them.
pub const MOST_OF_ALL: usize = 512 << 20;
/// Jobs of one party that wait for a driver or are done by one.
pub const MOST_JOBS: usize = 4;

/// Why there is none just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Because of what the party itself has: nobody else is to blame.
    Own,
    /// Because of what all have together.
    Shared,
}

/// The books.
#[derive(Default)]
pub struct Allowance {
    accounts: HashMap<Party, Arc<Account>>,
    total: Arc<Total>,
}

#[derive(Debug, Default)]
struct Total {
    held: AtomicUsize,
    /// Something has been given back since this was last looked at.
    released: AtomicBool,
}

/// One party's.
#[derive(Debug)]
pub struct Account {
    held: AtomicUsize,
    jobs: AtomicUsize,
    total: Arc<Total>,
}

/// So many bytes are accounted for until this is dropped.
#[derive(Debug)]
pub struct Lease {
    bytes: usize,
    account: Arc<Account>,
}

/// One of a party's places at the drivers.
#[derive(Debug)]
pub struct Place {
    account: Arc<Account>,
}

/// What a call holds from its header on.
#[derive(Debug, Default)]
pub struct Hold {
    /// Its own bytes.
    pub frame: Option<Lease>,
    /// Those that its answer may have.
    pub answer: Option<Lease>,
    pub place: Option<Place>,
}

impl Allowance {
    /// A party's account; the same one as long as anything refers to it.
    pub fn account(&mut self, party: Party) -> Arc<Account> {
        if self.accounts.len() > 1_024 {
            self.accounts.retain(|_, a| Arc::strong_count(a) > 1);
        }
        let total = &self.total;
        let new = || {
            Arc::new(Account { held: AtomicUsize::new(0), jobs: AtomicUsize::new(0), total: total.clone() })
        };
        self.accounts.entry(party).or_insert_with(new).clone()
    }

    /// Whether something has been given back since the last time.
    pub fn was_released(&self) -> bool {
        self.total.released.swap(false, Ordering::AcqRel)
    }
}

impl Account {
    /// Bytes held for this party.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// It has all that one may have: nothing more is taken from it.
    pub fn is_full(&self) -> bool {
        self.held() >= MOST_OF_ONE
    }

    /// All of what a call needs, or nothing. `is_next` says that nobody waits for shared bytes in front of it.
    ///
    /// # Errors
    /// Who has to give something back first.
    pub fn hold(
        self: &Arc<Account>,
        frame: usize,
        answer: usize,
        place: bool,
        is_next: bool,
    ) -> Result<Hold, Short> {
        let bytes = frame + answer;
        if place && self.jobs.load(Ordering::Acquire) >= MOST_JOBS {
            return Err(Short::Own);
        }
        if bytes > 0 && self.held() + bytes > MOST_OF_ONE {
            return Err(Short::Own);
        }
        // Only the loop takes, so what was there is still there; other threads only give back.
        if bytes > 0 && (!is_next || self.total.held.load(Ordering::Acquire) + bytes > MOST_OF_ALL) {
            return Err(Short::Shared);
        }
        let lease = |n: usize| (n > 0).then(|| self.owe(n));
        Ok(Hold {
            frame: lease(frame),
            answer: lease(answer),
            place: place.then(|| {
                self.jobs.fetch_add(1, Ordering::AcqRel);
                Place { account: self.clone() }
            }),
        })
    }

    /// Accounts for bytes that are there already, whatever the bounds.
    pub fn owe(self: &Arc<Account>, bytes: usize) -> Lease {
        let mut lease = Lease { bytes: 0, account: self.clone() };
        lease.resize(bytes);
        lease
    }
}

impl Lease {
    /// From now on it is so many.
    pub fn resize(&mut self, bytes: usize) {
        let (a, t) = (&self.account.held, &self.account.total);
        if bytes >= self.bytes {
            a.fetch_add(bytes - self.bytes, Ordering::AcqRel);
            t.held.fetch_add(bytes - self.bytes, Ordering::AcqRel);
        } else {
            a.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
            t.held.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
            t.released.store(true, Ordering::Release);
        }
        self.bytes = bytes;
    }

    /// How many it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.resize(0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.jobs.fetch_sub(1, Ordering::AcqRel);
        self.account.total.released.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_party_is_bounded_and_so_are_all() {
        let mut all = Allowance::default();
        let a = all.account(Party::Cell(1));
        let first = a.hold(80 << 20, 0, false, true).expect("there is enough");
        assert_eq!(a.hold(80 << 20, 0, false, true).expect_err("its own"), Short::Own);
        let mut others = Vec::new();
        for n in 2..7 {
            others.push(all.account(Party::Cell(n)).hold(80 << 20, 0, false, true).expect("there is enough"));
        }
        let late = all.account(Party::Cell(9));
        assert_eq!(late.hold(80 << 20, 0, false, true).expect_err("all"), Short::Shared);
        assert!(!all.was_released());
        drop(first);
        assert!(all.was_released() && !all.was_released());
        // Not before those who have waited for longer.
        assert_eq!(late.hold(80 << 20, 0, false, false).expect_err("in line"), Short::Shared);
        assert!(late.hold(80 << 20, 0, false, true).is_ok());
        assert!(late.hold(0, 0, false, false).is_ok(), "what needs nothing waits for nobody");
        drop(others);
        assert_eq!(all.total.held.load(Ordering::Acquire), 0);
    }

    #[test]
    fn places_come_back_from_other_threads() {
        let mut all = Allowance::default();
        let a = all.account(Party::Process(1));
        let held: Vec<Hold> = (0..MOST_JOBS).map(|_| a.hold(1, 2, true, true).expect("a place")).collect();
        assert_eq!(a.held(), 3 * MOST_JOBS);
        assert_eq!(a.hold(0, 0, true, true).expect_err("no place"), Short::Own);
        std::thread::spawn(move || drop(held)).join().expect("dropped");
        assert!(all.was_released() && a.held() == 0);
        assert!(a.hold(0, 0, true, true).is_ok());
    }

    #[test]
    fn what_is_owed_may_be_too_much() {
        let mut all = Allowance::default();
        let a = all.account(Party::Process(1));
        let mut lease = a.owe(MOST_OF_ALL * 2);
        assert!(a.is_full());
        lease.resize(5);
        assert!(!a.is_full() && all.was_released() && a.held() == 5);
        let same = all.account(Party::Process(1));
        assert_eq!(same.held(), 5);
    }
}
