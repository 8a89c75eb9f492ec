//! Bytes of a journal that are not what was written.

use std::path::{Path, PathBuf};

use crate::chain::ChainHash;

/// Where a journal is damaged, named so that a person can look there. Nothing has been changed when this is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged at byte {offset}, record {seq}: {kind} (nothing was changed; keep a copy of the directory, then \
     restore this file from a backup)",
    file.display()
)]
pub struct Damage {
    /// The damaged file.
    pub file: PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// The record that should be there.
    pub seq: u64,
    /// What is wrong.
    pub kind: DamageKind,
}

impl Damage {
    pub(crate) fn new(file: &Path, offset: u64, seq: u64, kind: DamageKind) -> Damage {
        Damage { file: file.to_owned(), offset, seq, kind }
    }
}

/// What is wrong at a damaged place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageKind {
    #[error("its checksum doesn't match")]
    Checksum,
    #[error("a length of {length} bytes is impossible there")]
    Length { length: u64 },
    #[error("the file ends in the middle of the record")]
    Short,
    #[error("it doesn't carry this journal's mark")]
    ForeignMark,
    #[error("its actor is not UTF-8")]
    Actor,
    #[error("the record there has sequence number {found}")]
    SequenceGap { found: u64 },
    #[error("it names {found} as the hash of the record before, which is {expected}")]
    ChainBroken { expected: ChainHash, found: ChainHash },
    #[error("{records} intact records lie behind bytes that aren't one ({what})")]
    RecordsBehind { records: u64, what: &'static str },
    #[error("the bytes after the last record of a full segment aren't zero")]
    Padding,
    #[error("the header is no segment header")]
    Header,
    #[error("the header's checksum doesn't match")]
    HeaderChecksum,
    #[error("the header says its first record is {found}")]
    HeaderSequence { found: u64 },
    #[error("the next segment on disk begins with record {found}")]
    MissingSegment { found: u64 },
    #[error("the record isn't there")]
    Missing,
    #[error("the seal can't be read")]
    Seal,
    #[error("the seal doesn't fit the records: {what} differs")]
    SealMismatch { what: &'static str },
    #[error("the checkpoint of record {checkpoint} names another hash for it")]
    CheckpointHash { checkpoint: u64 },
    #[error("the log ends here, but a checkpoint contains record {checkpoint}")]
    CheckpointAhead { checkpoint: u64 },
    #[error("no checkpoint is intact and the records before this one have been pruned")]
    NoCheckpoint,
}
