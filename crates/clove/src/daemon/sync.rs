//! The thread that waits for the disk: one fdatasync for everything that was written meanwhile (group commit).

use super::drivers::{Message, Postbox};
use clove_journal::SyncHandle;
use std::sync::mpsc;

/// Asks for durability up to a sequence number.
pub struct Syncer {
    wanted: mpsc::Sender<u64>,
    /// A request is under way.
    pub busy: bool,
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
        Ok(Syncer { wanted, busy: false })
    }

    /// Asks, unless a request is under way: the next one then covers this too.
    pub fn request(&mut self, seq: u64) {
        if !self.busy {
            self.busy = true;
            let _ = self.wanted.send(seq);
        }
    }
}
