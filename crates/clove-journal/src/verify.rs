//! The check of a whole journal directory that changes nothing.

use std::path::{Path, PathBuf};

use crate::chain::ChainHash;
use crate::chain_walk::{ChainWalk, WalkStep};
use crate::checkpoint::Checkpoint;
use crate::damage::{Damage, DamageKind};
use crate::layout::Layout;
use crate::read_error::{ReadError, ReadErrorKind};
use crate::seal::Seal;
use crate::tail::{self, Witness};

/// What a journal holds, every record of it checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Records in the segments present.
    pub records: u64,
    /// Segments present.
    pub segments: u64,
    /// Segments of which only the seal is left.
    pub pruned_segments: u64,
    /// First record present; 0 when there is none.
    pub first_seq: u64,
    /// Last record present; 0 when there is none.
    pub last_seq: u64,
    /// Its hash.
    pub last_hash: ChainHash,
    /// Bytes of an unfinished write behind it, that the next open will cut off.
    pub torn_tail_bytes: u64,
}

/// Why a journal isn't right.
#[derive(Debug, thiserror::Error)]
#[error("the journal in {} does not verify: {kind}", dir.display())]
pub struct VerifyError {
    /// The journal's directory.
    pub dir: PathBuf,
    /// What is wrong; it names the file.
    #[source]
    pub kind: ReadErrorKind,
}

/// Check checksums, sequence, chain, padding, seals and the links between pruned segments. Intact records behind bytes
/// that aren't one are an error here in any case (open forgives them after a loss of power, if nothing says that they
/// were durable). Don't run it on a journal that is being written.
pub fn verify(dir: &Path) -> Result<Summary, VerifyError> {
    check(&Layout::new(dir)).map_err(|error| VerifyError { dir: dir.to_owned(), kind: error.kind })
}

fn check(layout: &Layout) -> Result<Summary, ReadError> {
    let segments = layout.segments()?;
    let Some(&first_segment) = segments.first() else {
        let damage = Damage::new(&layout.segment(1), 0, 1, DamageKind::Missing);
        return Err(damage.into());
    };
    let pruned_segments = check_pruned(layout, first_segment)?;
    let count = segments.len() as u64;
    let mut walk = ChainWalk::begin(layout, segments)?.checking_padding();
    let stop = loop {
        if let WalkStep::Stopped(stop) = walk.step()? {
            break stop;
        }
    };
    // To a checker every record behind a hole is one too many: it doesn't know whether the power was lost.
    let witness = Witness { same_boot: true, durable_seq: 0 };
    let torn = tail::judge(&mut walk, &stop, witness)?;
    let records = walk.next_seq() - first_segment;
    Ok(Summary {
        records,
        segments: count,
        pruned_segments,
        first_seq: if records > 0 { first_segment } else { 0 },
        last_seq: walk.next_seq() - 1,
        last_hash: walk.hash(),
        torn_tail_bytes: torn.bytes,
    })
}

/// The seals of pruned segments must still form one chain from record 1 to the first segment present.
fn check_pruned(layout: &Layout, first_segment: u64) -> Result<u64, ReadError> {
    let mut next_seq = 1;
    let mut hash = ChainHash::ZERO;
    let mut count = 0;
    for first_seq in layout.seals()?.into_iter().filter(|&seal| seal < first_segment) {
        let path = layout.seal(first_seq);
        let damage = |kind| ReadError::from(Damage::new(&path, 0, next_seq, kind));
        let seal = Seal::load(&path, first_seq)?.ok_or_else(|| damage(DamageKind::Seal))?;
        if first_seq != next_seq {
            return Err(damage(DamageKind::SequenceGap { found: first_seq }));
        }
        if seal.prev_hash != hash {
            return Err(damage(DamageKind::ChainBroken { expected: hash, found: seal.prev_hash }));
        }
        (next_seq, hash) = (seal.last_seq() + 1, seal.last_hash);
        count += 1;
    }
    let newest = layout
        .checkpoints()?
        .into_iter()
        .rev()
        .find_map(|seq| Checkpoint::load(&layout.checkpoint(seq), seq).transpose());
    // Without a checkpoint that contains them, the segments weren't pruned but lost.
    let contained_seq = newest.transpose()?.map_or(0, |checkpoint| checkpoint.seq);
    if count > 0 && contained_seq < next_seq - 1 {
        let path = layout.segment(next_seq);
        return Err(Damage::new(&path, 0, contained_seq + 1, DamageKind::NoCheckpoint).into());
    }
    if next_seq != first_segment {
        let path = layout.seal(next_seq);
        return Err(
            Damage::new(&path, 0, next_seq, DamageKind::MissingSegment { found: first_segment }).into()
        );
    }
    Ok(count)
}
