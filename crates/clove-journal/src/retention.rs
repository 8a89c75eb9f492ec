//! Which segments may go when the journal has grown past its cap.

use std::fs;

use crate::io_failure::IoFailure;
use crate::read_error::ReadError;
use crate::seal::Seal;
use crate::sync::Shared;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Segments deleted.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of the segments that remain.
    pub remaining_bytes: u64,
}

/// Why pruning stopped. Whatever was deleted was unnecessary; try again after mending the cause.
#[derive(Debug, thiserror::Error)]
#[error("old segments could not be pruned: {source}")]
pub struct PruneError {
    /// What happened.
    pub source: ReadError,
}

impl<E: Into<ReadError>> From<E> for PruneError {
    fn from(error: E) -> PruneError {
        PruneError { source: error.into() }
    }
}

pub(crate) fn prune(shared: &Shared, before_seq: u64, cap_bytes: u64) -> Result<Pruned, PruneError> {
    let layout = &shared.layout;
    let segments = layout.segments()?;
    let sizes = segments.iter().map(|&first_seq| {
        let path = layout.segment(first_seq);
        Ok(fs::metadata(&path).map_err(IoFailure::of("look at", &path))?.len())
    });
    let sizes: Vec<u64> = sizes.collect::<Result<_, IoFailure>>()?;
    let mut pruned = Pruned { remaining_bytes: sizes.iter().sum(), ..Pruned::default() };
    // With fewer than two checkpoints, a damaged one would leave nothing to begin from but record 1.
    let [.., older, _newest] = layout.checkpoints()?[..] else { return Ok(pruned) };
    for (&first_seq, &bytes) in segments.iter().zip(&sizes) {
        if pruned.remaining_bytes <= cap_bytes {
            break;
        }
        // A seal on disk means: full, and durable in full.
        let Some(seal) = Seal::load(&layout.seal(first_seq), first_seq)? else { break };
        // The record of the older checkpoint itself stays, so that recovery can compare its hash.
        if seal.last_seq() >= before_seq || seal.last_seq() >= older {
            break;
        }
        let path = layout.segment(first_seq);
        shared.disk.remove(&path).map_err(IoFailure::of("remove", &path))?;
        pruned.segments += 1;
        pruned.bytes += bytes;
        pruned.remaining_bytes -= bytes;
    }
    if pruned.segments > 0 {
        shared.disk.sync_dir(&layout.dir).map_err(IoFailure::of("make durable", &layout.dir))?;
    }
    Ok(pruned)
}
