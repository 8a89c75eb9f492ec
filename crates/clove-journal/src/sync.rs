//! Making written records durable from another thread.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::disk::Disk;
use crate::head::Head;
use crate::io_failure::IoFailure;
use crate::layout::Layout;
use crate::seal::Seal;

/// What the appending thread and the others share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) disk: Arc<dyn Disk>,
    progress: Mutex<Progress>,
    /// One thread syncs at a time; those that wait find their record done (group commit).
    turn: Mutex<()>,
    durable_seq: AtomicU64,
    poison: OnceLock<String>,
    /// How many bytes had been appended since open when the newest checkpoint was taken.
    pub(crate) checkpoint_position: AtomicU64,
    /// One thread writes checkpoints or prunes at a time.
    pub(crate) checkpoint_turn: Mutex<()>,
}

#[derive(Debug)]
struct Progress {
    /// What write(2) has returned for.
    written: Head,
    durable: Head,
    /// Segments that aren't both sealed and durable, oldest first; the last is the current one.
    segments: VecDeque<OpenSegment>,
}

#[derive(Clone, Debug)]
struct OpenSegment {
    path: PathBuf,
    file: Arc<File>,
    name_is_durable: bool,
    has_new_bytes: bool,
    seal: Option<Seal>,
}

impl Shared {
    /// `durable` is all there is, and the current segment's name is durable, as recovery leaves them.
    pub(crate) fn new(
        layout: Layout,
        disk: Arc<dyn Disk>,
        durable: Head,
        path: PathBuf,
        file: Arc<File>,
    ) -> Shared {
        let current = OpenSegment { path, file, name_is_durable: true, has_new_bytes: false, seal: None };
        Shared {
            layout,
            disk,
            progress: Mutex::new(Progress { written: durable, durable, segments: [current].into() }),
            turn: Mutex::new(()),
            durable_seq: AtomicU64::new(durable.seq),
            poison: OnceLock::new(),
            checkpoint_position: AtomicU64::new(0),
            checkpoint_turn: Mutex::new(()),
        }
    }

    /// Everything up to `head` has been written.
    pub(crate) fn wrote(&self, head: Head) {
        let mut progress = locked(&self.progress);
        progress.written = head;
        if let Some(current) = progress.segments.back_mut() {
            current.has_new_bytes = true;
        }
    }

    /// The current segment is full and the next one has been created.
    pub(crate) fn rolled(&self, seal: Seal, path: PathBuf, file: Arc<File>) {
        let mut progress = locked(&self.progress);
        if let Some(current) = progress.segments.back_mut() {
            current.has_new_bytes = true;
            current.seal = Some(seal);
        }
        let next = OpenSegment { path, file, name_is_durable: false, has_new_bytes: true, seal: None };
        progress.segments.push_back(next);
    }

    pub(crate) fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    pub(crate) fn written(&self) -> Head {
        locked(&self.progress).written
    }

    pub(crate) fn durable(&self) -> Head {
        locked(&self.progress).durable
    }

    pub(crate) fn poison(&self, cause: &impl ToString) {
        // The first cause is the one to look at; later ones follow from it.
        let _ = self.poison.set(cause.to_string());
    }

    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    fn sync_to(&self, seq: u64) -> Result<u64, SyncErrorKind> {
        if self.durable_seq() >= seq {
            return Ok(self.durable_seq());
        }
        let _turn = locked(&self.turn);
        if self.durable_seq() >= seq {
            return Ok(self.durable_seq());
        }
        if let Some(cause) = self.poisoned() {
            return Err(SyncErrorKind::Poisoned { cause: cause.to_owned() });
        }
        let (work, target) = {
            let mut progress = locked(&self.progress);
            let work: Vec<OpenSegment> = progress.segments.iter().cloned().collect();
            // Bytes written from here on belong to the next sync, also when this one happens to take them along.
            progress.segments.iter_mut().for_each(|segment| segment.has_new_bytes = false);
            (work, progress.written)
        };
        if seq > target.seq {
            return Err(SyncErrorKind::NotWritten { asked_seq: seq, written_seq: target.seq });
        }
        self.make_durable(&work, target).map_err(|failure| {
            // After a failed fdatasync Linux marks the pages clean: a second call would succeed and prove nothing.
            self.poison(&failure);
            SyncErrorKind::Io(failure)
        })?;
        Ok(target.seq)
    }

    fn make_durable(&self, work: &[OpenSegment], target: Head) -> Result<(), IoFailure> {
        if work.iter().any(|segment| !segment.name_is_durable) {
            let dir = &self.layout.dir;
            self.disk.sync_dir(dir).map_err(IoFailure::of("make durable", dir))?;
        }
        // Oldest first: a later record that is durable must mean that all before it are.
        for segment in work.iter().filter(|segment| segment.has_new_bytes) {
            let synced = self.disk.sync_data(&segment.file, &segment.path);
            synced.map_err(IoFailure::of("make durable", &segment.path))?;
        }
        locked(&self.progress).durable = target;
        self.durable_seq.store(target.seq, Ordering::Release);
        for seal in work.iter().filter_map(|segment| segment.seal.as_ref()) {
            seal.store(&self.layout.seal(seal.first_seq), &*self.disk)?;
        }
        let mut progress = locked(&self.progress);
        for done in work {
            if done.seal.is_some() {
                progress.segments.pop_front();
            } else if let Some(current) = progress.segments.front_mut() {
                current.name_is_durable = true;
            }
        }
        Ok(())
    }
}

/// A panic of another thread leaves these values consistent: each is changed in one statement or by one owner.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes records durable; clone it into the thread that may block.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    pub(crate) shared: Arc<Shared>,
}

impl SyncHandle {
    /// Make everything up to `seq`, and whatever else has been written by now, durable. Gives the sequence number that
    /// is durable, at least `seq`. Blocks for an fdatasync(2) (more when a segment became full); several callers share
    /// one. A failure is final: the journal takes nothing more until the process starts anew.
    pub fn sync_to(&self, seq: u64) -> Result<u64, SyncError> {
        self.shared.sync_to(seq).map_err(|kind| SyncError { kind })
    }

    /// Make everything that has been written durable.
    pub fn sync_all(&self) -> Result<u64, SyncError> {
        self.sync_to(self.shared.written().seq)
    }

    /// The last durable record; the one to sign.
    pub fn durable_head(&self) -> Head {
        self.shared.durable()
    }
}

/// Why records didn't become durable.
#[derive(Debug, thiserror::Error)]
#[error("records could not be made durable: {kind}")]
pub struct SyncError {
    /// What happened.
    #[source]
    pub kind: SyncErrorKind,
}

/// What happened when syncing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncErrorKind {
    #[error("{0}; check the disk, then start again: recovery writes the undurable part anew")]
    Io(IoFailure),
    #[error("the journal has stopped because of an earlier failure ({cause}); start again after mending it")]
    Poisoned { cause: String },
    #[error("record {asked_seq} hasn't been written yet (the last is {written_seq}); flush first")]
    NotWritten { asked_seq: u64, written_seq: u64 },
}
