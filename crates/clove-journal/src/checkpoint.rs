//! The owner's whole state at one record, kept so that recovery needn't begin at record 1.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::chain::ChainHash;
use crate::disk::{replace_file, sync_parent};
use crate::format::{CHECKPOINT_MAGIC, CHECKPOINT_PRELUDE_BYTES, FormatVersion, array_at, u16_at, u64_at};
use crate::io_failure::IoFailure;
use crate::read_error::{ReadError, ReadErrorKind};
use crate::recovery;
use crate::retention::{self, PruneError, Pruned};
use crate::sync::{Shared, SyncError, SyncHandle, locked};

/// Two are kept, so that one may be damaged.
const KEPT: usize = 2;

/// A checkpoint as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last record whose outcome it contains.
    pub seq: u64,
    /// The hash of that record.
    pub chain_hash: ChainHash,
    /// The owner's bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checkpoint {{ seq: {}, bytes: {} of them }}", self.seq, self.bytes.len())
    }
}

/// The place in the journal that a checkpoint stands for; from [`Journal::checkpoint_mark`](crate::Journal::checkpoint_mark).
#[derive(Clone, Copy, Debug)]
pub struct CheckpointMark {
    /// The last record whose outcome the state contains.
    pub seq: u64,
    /// The hash of that record.
    pub chain_hash: ChainHash,
    pub(crate) position: u64,
}

/// Writes checkpoints and prunes what they make unnecessary; clone it into a thread that may block.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    pub(crate) shared: Arc<Shared>,
    pub(crate) size_cap_bytes: u64,
}

impl Checkpoints {
    /// Write the state at `mark` durably and drop all but the last two checkpoints. The records up to `mark` are made
    /// durable first: a checkpoint must never know more than the journal. They must have been flushed.
    pub fn write(&self, mark: &CheckpointMark, bytes: &[u8]) -> Result<(), CheckpointError> {
        let _turn = locked(&self.shared.checkpoint_turn);
        let layout = &self.shared.layout;
        let failed = |kind| CheckpointError { seq: mark.seq, kind };
        let handle = SyncHandle { shared: Arc::clone(&self.shared) };
        handle.sync_to(mark.seq).map_err(|error| failed(CheckpointErrorKind::Sync(error)))?;
        let io = |failure| failed(CheckpointErrorKind::Io(failure));
        let disk = &*self.shared.disk;
        replace_file(disk, &layout.checkpoint(mark.seq), &encode(mark, bytes)).map_err(io)?;
        self.shared.checkpoint_position.fetch_max(mark.position, Ordering::AcqRel);
        let kept = layout.checkpoints().map_err(io)?;
        for &old in kept.iter().rev().skip(KEPT) {
            let path = layout.checkpoint(old);
            disk.remove(&path).map_err(|error| io(IoFailure::new("remove", &path, error)))?;
        }
        sync_parent(disk, &layout.checkpoint(mark.seq)).map_err(io)
    }

    /// The newest intact checkpoint, for whoever has to catch up with a journal that is in use.
    pub fn newest(&self) -> Result<Option<Checkpoint>, ReadError> {
        let _turn = locked(&self.shared.checkpoint_turn);
        recovery::newest_intact_checkpoint(&self.shared.layout, &mut Vec::new())
    }

    /// Delete whole sealed segments that end before `before_seq` and that the older kept checkpoint contains, oldest
    /// first, until the segments together are within the size cap. Their seals stay.
    pub fn prune(&self, before_seq: u64) -> Result<Pruned, PruneError> {
        let _turn = locked(&self.shared.checkpoint_turn);
        retention::prune(&self.shared, before_seq, self.size_cap_bytes)
    }
}

fn encode(mark: &CheckpointMark, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKPOINT_PRELUDE_BYTES + body.len());
    out.extend_from_slice(&CHECKPOINT_MAGIC);
    out.extend_from_slice(&FormatVersion::CURRENT.0.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&mark.seq.to_le_bytes());
    out.extend_from_slice(&mark.chain_hash.0);
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let digest = digest(&out, body);
    out.extend_from_slice(&digest);
    out.extend_from_slice(body);
    out
}

fn digest(prelude: &[u8], body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(prelude).update(body).finalize().as_bytes()
}

impl Checkpoint {
    /// `Ok(None)` when its bytes aren't those that were written.
    pub(crate) fn load(path: &Path, seq: u64) -> Result<Option<Checkpoint>, ReadError> {
        let mut bytes = fs::read(path).map_err(IoFailure::of("read", path))?;
        if bytes.len() < CHECKPOINT_PRELUDE_BYTES || bytes[0..4] != CHECKPOINT_MAGIC {
            return Ok(None);
        }
        let found = FormatVersion(u16_at(&bytes, 4));
        let (prelude, body) = bytes.split_at(CHECKPOINT_PRELUDE_BYTES);
        let is_intact = digest(&prelude[..56], body) == array_at::<32>(prelude, 56);
        if found > FormatVersion::CURRENT || (is_intact && !found.is_readable()) {
            return Err(ReadError { kind: ReadErrorKind::Version { file: path.to_owned(), found } });
        }
        if !is_intact || u64_at(prelude, 8) != seq || u64_at(prelude, 48) != body.len() as u64 {
            return Ok(None);
        }
        let chain_hash = ChainHash(array_at(prelude, 16));
        bytes.drain(..CHECKPOINT_PRELUDE_BYTES);
        Ok(Some(Checkpoint { seq, chain_hash, bytes }))
    }
}

/// Why a checkpoint wasn't written. The journal itself goes on, unless the cause is a failed sync.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint of record {seq} was not written: {kind}")]
pub struct CheckpointError {
    /// The record it stands for.
    pub seq: u64,
    /// What happened.
    #[source]
    pub kind: CheckpointErrorKind,
}

/// What happened when writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointErrorKind {
    #[error("{0}; the last checkpoint stays in use")]
    Io(IoFailure),
    #[error("{0}")]
    Sync(SyncError),
}
