//! The thread that waits for the disk: one fdatasync for everything that was written meanwhile (group commit).

use super::drivers::{Message, Postbox};
use super::shell::Shell;
use clove_journal::SyncHandle;
use std::collections::VecDeque;
use std::sync::mpsc;

/// What is to happen once something is on the disk.
type Later = Box<dyn FnOnce(&mut Shell)>;

/// Asks for durability up to a sequence number.
pub struct Syncer {
    wanted: mpsc::Sender<u64>,
    /// A request is under way.
    pub busy: bool,
    /// Wait for the records of this turn, whose numbers aren't known yet.
    fresh: Vec<Later>,
    /// Wait for a record, in order.
    later: VecDeque<(u64, Later)>,
}

impl Syncer {
    /// Starts the thread.
    pub fn start(handle: SyncHandle, postbox: Postbox) -> std::io::Result<Syncer> {
        let (wanted, requests) = mpsc::channel::<u64>();
        std::thread::Builder::new().name("sync".into()).stack_size(256 << 10).spawn(move || {
            while let Ok(first) = requests.recv() {
                let seq = requests.try_iter().fold(first, u64::max);
                match handle.sync_to(seq) {
                    Ok(durable) => postbox.post(Message::Synced(durable)),
                    Err(e) => {
                        postbox.post(Message::SyncFailed(e.to_string()));
                        return;
                    }
                }
            }
        })?;
        Ok(Syncer { wanted, busy: false, fresh: Vec::new(), later: VecDeque::new() })
    }

    /// Asks, unless a request is under way: the next one then covers this too.
    pub fn request(&mut self, seq: u64) {
        if !self.busy {
            self.busy = true;
            let _ = self.wanted.send(seq);
        }
    }

    /// Has `act` wait until everything that this turn of the loop journals is on the disk: for what can't be taken
    /// back, or is seen by somebody, as a loss of power may take the records again.
    pub fn once_durable(&mut self, act: impl FnOnce(&mut Shell) + 'static) {
        self.fresh.push(Box::new(act));
    }

    /// At the end of a turn: `head` is its last record.
    pub fn number(&mut self, head: u64) {
        self.later.extend(self.fresh.drain(..).map(|act| (head, act)));
    }

    /// Something waits.
    pub fn has_later(&self) -> bool {
        !(self.fresh.is_empty() && self.later.is_empty())
    }

    /// Nothing becomes durable any more.
    pub fn give_up(&mut self) {
        self.fresh.clear();
        self.later.clear();
    }

    /// The next that may happen.
    pub fn due(&mut self, durable: u64) -> Option<Later> {
        if self.later.front()?.0 > durable {
            return None;
        }
        self.later.pop_front().map(|(_, act)| act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::drivers::Inbox;
    use clove_journal::{Journal, Options};

    fn syncer(dir: &std::path::Path) -> (Syncer, Inbox) {
        let (journal, _) = Journal::open(dir, Options::default()).expect("journal");
        let (postbox, inbox) = Inbox::new().expect("inbox");
        (Syncer::start(journal.sync_handle(), postbox).expect("thread"), inbox)
    }

    #[test]
    fn what_waits_for_the_disk_waits_for_the_records_of_its_turn() {
        let dir = tempfile::tempdir().expect("folder");
        let (mut s, _inbox) = syncer(dir.path());
        s.once_durable(|_| ());
        assert!(s.has_later() && s.due(u64::MAX).is_none(), "its turn isn't over");
        s.number(7);
        s.once_durable(|_| ());
        s.number(9);
        assert!(s.due(6).is_none(), "one record is missing");
        assert!(s.due(8).is_some() && s.due(8).is_none(), "the first, not the second");
        assert!(s.has_later());
        assert!(s.due(9).is_some() && !s.has_later());
    }

    #[test]
    fn nothing_happens_for_what_never_becomes_durable() {
        let dir = tempfile::tempdir().expect("folder");
        let (mut s, _inbox) = syncer(dir.path());
        s.once_durable(|_| ());
        s.number(7);
        s.once_durable(|_| ());
        s.give_up();
        s.number(8);
        assert!(!s.has_later() && s.due(u64::MAX).is_none());
    }
}
