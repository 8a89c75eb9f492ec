//! The bytes of format version 1.
//!
//! All integers are little-endian. A journal directory holds:
//!
//! | name | what |
//! |---|---|
//! | `%016x.seg` | a segment, named by the sequence number of its first record |
//! | `%016x.root` | the seal of a full segment (kept when the segment is pruned) |
//! | `%016x.ckpt` | a checkpoint, named by the last sequence number it contains |
//! | `boot` | boot id of the machine when the journal was last opened |
//! | `heads.jsonl` | signed heads, one JSON object a line (written on request) |
//! | `*.tmp` | a file that was never finished; removed at open |
//!
//! Segment header, 128 bytes:
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `CLVJ` |
//! | 4 | 2 | format version |
//! | 6 | 2 | header length (128) |
//! | 8 | 8 | sequence number of the first record |
//! | 16 | 32 | hash of the record before the first one (zeros before record 1) |
//! | 48 | 8 | wall clock at creation, ms since 1970 |
//! | 56 | 4 | mark: random, one per journal, repeated in every record |
//! | 60 | 4 | zero |
//! | 64 | 32 | version of the core that made the segment, UTF-8, zero padded |
//! | 96 | 28 | zero |
//! | 124 | 4 | CRC-32 of bytes 0..124 |
//!
//! Record, 92 bytes and the bodies, not aligned:
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | length of what follows the CRC (so the record is length + 8); 0 is the end of the log |
//! | 4 | 4 | CRC-32 of everything after this field |
//! | 8 | 4 | the journal's mark |
//! | 12 | 4 | actor length |
//! | 16 | 8 | sequence number, from 1, without gaps |
//! | 24 | 8 | wall clock, ms |
//! | 32 | 8 | monotonic clock, ns |
//! | 40 | 8 | highest sequence number known to be durable when this record was encoded |
//! | 48 | 2 | kind |
//! | 50 | 2 | flags |
//! | 52 | 4 | input length |
//! | 56 | 4 | outcome length |
//! | 60 | 32 | hash of the record before |
//! | 92 | | actor (UTF-8), input, outcome |
//!
//! The hash of a record is `SHA-256(0x00 || all its bytes)`: the leaf hash of RFC 6962, so a segment's Merkle root is
//! made from the chain's own hashes. It isn't stored in the record but in the next one.
//!
//! Two fields exist for recovery alone. The *mark* lets the search for records behind damaged bytes not mistake an
//! agent's payload for a record: agents never see it. The *durable* field tells a page that power loss swallowed
//! (nothing behind it claims that it was durable) from rot (something does).
//!
//! Seal (`.root`), 124 bytes: magic `CLVR` 0..4, version 4..6, zero 6..8, first sequence number 8..16, count 16..24,
//! hash before the first record 24..56, hash of the last record 56..88, Merkle root 88..120, CRC-32 of 0..120 at 120.
//!
//! Checkpoint (`.ckpt`): magic `CLVC` 0..4, version 4..6, zero 6..8, sequence number 8..16, hash of that record
//! 16..48, body length 48..56, BLAKE3 of bytes 0..56 and the body 56..88, body from 88.

use std::fmt;

/// A version of the on-disk format; it knows which versions this build can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FormatVersion(pub u16);

impl FormatVersion {
    /// What this build writes.
    pub const CURRENT: FormatVersion = FormatVersion(1);
    /// The oldest version this build still reads.
    pub const OLDEST_READABLE: FormatVersion = FormatVersion(1);

    /// Whether this build reads files of this version.
    pub fn is_readable(self) -> bool {
        (Self::OLDEST_READABLE..=Self::CURRENT).contains(&self)
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 128;
/// Bytes of a record before its actor.
pub const RECORD_PRELUDE_BYTES: usize = 92;
/// Largest record, its prelude included. Larger bodies are blobs, so a length above this is never ours.
pub const MAX_RECORD_BYTES: usize = 64 << 20;
/// Bytes of a seal file.
pub const SEAL_BYTES: usize = 124;
/// Bytes of a checkpoint before its body.
pub const CHECKPOINT_PRELUDE_BYTES: usize = 88;

pub(crate) const SEGMENT_MAGIC: [u8; 4] = *b"CLVJ";
pub(crate) const SEAL_MAGIC: [u8; 4] = *b"CLVR";
pub(crate) const CHECKPOINT_MAGIC: [u8; 4] = *b"CLVC";

// Readers of fixed fields. The callers have checked the length of `bytes`; the offsets are those of the tables above.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
