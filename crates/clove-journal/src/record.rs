//! One record in memory or in its encoded form.

use crate::chain::ChainHash;
use crate::format::{MAX_RECORD_BYTES, RECORD_PRELUDE_BYTES, array_at, u16_at, u32_at, u64_at};

/// What the kernel hands over to be appended.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Wall clock, ms since 1970.
    pub wall_ms: u64,
    /// Monotonic clock, ns.
    pub mono_ns: u64,
    /// Meaning belongs to the kernel.
    pub kind: u16,
    /// Meaning belongs to the kernel.
    pub flags: u16,
    /// Who caused it.
    pub actor: &'a str,
    /// What came in, opaque here.
    pub input: &'a [u8],
    /// What came of it, opaque here.
    pub outcome: &'a [u8],
}

/// A record as it was read, borrowing from the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub seq: u64,
    pub wall_ms: u64,
    pub mono_ns: u64,
    /// Highest sequence number that was known to be durable when this record was encoded.
    pub durable_seq: u64,
    pub kind: u16,
    pub flags: u16,
    pub actor: &'a str,
    pub input: &'a [u8],
    pub outcome: &'a [u8],
    /// Hash of the record before.
    pub prev_hash: ChainHash,
    /// Hash of this record.
    pub hash: ChainHash,
}

impl RecordView<'_> {
    /// A copy that owns its bodies.
    pub fn to_record(&self) -> Record {
        Record {
            seq: self.seq,
            wall_ms: self.wall_ms,
            mono_ns: self.mono_ns,
            kind: self.kind,
            flags: self.flags,
            actor: self.actor.to_owned(),
            input: self.input.to_owned(),
            outcome: self.outcome.to_owned(),
            hash: self.hash,
        }
    }
}

/// A record as it was read, owning its bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub seq: u64,
    pub wall_ms: u64,
    pub mono_ns: u64,
    pub kind: u16,
    pub flags: u16,
    pub actor: String,
    pub input: Vec<u8>,
    pub outcome: Vec<u8>,
    /// Hash of this record.
    pub hash: ChainHash,
}

/// The place of a record in the journal, which the journal adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) mark: u32,
    pub(crate) prev_hash: ChainHash,
}

/// Size of the record once encoded, prelude included.
pub(crate) fn encoded_bytes(record: &RecordRef<'_>) -> usize {
    RECORD_PRELUDE_BYTES
        .saturating_add(record.actor.len())
        .saturating_add(record.input.len())
        .saturating_add(record.outcome.len())
}

/// Append the encoded record to `out` and give its hash. The caller has checked `encoded_bytes` against
/// `MAX_RECORD_BYTES`, so that every length fits its field.
pub(crate) fn encode(record: &RecordRef<'_>, place: &Placement, out: &mut Vec<u8>) -> ChainHash {
    let total = encoded_bytes(record);
    debug_assert!(total <= MAX_RECORD_BYTES);
    let start = out.len();
    out.reserve(total);
    let mut prelude = [0; RECORD_PRELUDE_BYTES];
    prelude[0..4].copy_from_slice(&(total as u32 - 8).to_le_bytes());
    prelude[8..12].copy_from_slice(&place.mark.to_le_bytes());
    prelude[12..16].copy_from_slice(&(record.actor.len() as u32).to_le_bytes());
    prelude[16..24].copy_from_slice(&place.seq.to_le_bytes());
    prelude[24..32].copy_from_slice(&record.wall_ms.to_le_bytes());
    prelude[32..40].copy_from_slice(&record.mono_ns.to_le_bytes());
    prelude[40..48].copy_from_slice(&place.durable_seq.to_le_bytes());
    prelude[48..50].copy_from_slice(&record.kind.to_le_bytes());
    prelude[50..52].copy_from_slice(&record.flags.to_le_bytes());
    prelude[52..56].copy_from_slice(&(record.input.len() as u32).to_le_bytes());
    prelude[56..60].copy_from_slice(&(record.outcome.len() as u32).to_le_bytes());
    prelude[60..92].copy_from_slice(&place.prev_hash.0);
    out.extend_from_slice(&prelude);
    out.extend_from_slice(record.actor.as_bytes());
    out.extend_from_slice(record.input);
    out.extend_from_slice(record.outcome);
    let encoded = &mut out[start..];
    let crc = crc32fast::hash(&encoded[8..]);
    encoded[4..8].copy_from_slice(&crc.to_le_bytes());
    ChainHash::of_record(encoded)
}

/// The fields of a prelude. Nothing in it is believed before [`is_intact`] has said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prelude {
    length: u32,
    crc: u32,
    pub(crate) mark: u32,
    actor_len: u32,
    pub(crate) seq: u64,
    wall_ms: u64,
    mono_ns: u64,
    pub(crate) durable_seq: u64,
    kind: u16,
    flags: u16,
    input_len: u32,
    outcome_len: u32,
    pub(crate) prev_hash: ChainHash,
}

impl Prelude {
    /// `bytes` holds at least `RECORD_PRELUDE_BYTES`.
    pub(crate) fn decode(bytes: &[u8]) -> Prelude {
        Prelude {
            length: u32_at(bytes, 0),
            crc: u32_at(bytes, 4),
            mark: u32_at(bytes, 8),
            actor_len: u32_at(bytes, 12),
            seq: u64_at(bytes, 16),
            wall_ms: u64_at(bytes, 24),
            mono_ns: u64_at(bytes, 32),
            durable_seq: u64_at(bytes, 40),
            kind: u16_at(bytes, 48),
            flags: u16_at(bytes, 50),
            input_len: u32_at(bytes, 52),
            outcome_len: u32_at(bytes, 56),
            prev_hash: ChainHash(array_at(bytes, 60)),
        }
    }

    /// Size of the whole record, if the lengths agree with each other and with the limit.
    pub(crate) fn total_bytes(&self) -> Option<usize> {
        let bodies = [self.actor_len, self.input_len, self.outcome_len];
        let total = bodies.iter().fold(RECORD_PRELUDE_BYTES as u64, |sum, &len| sum + u64::from(len));
        let sane = total == u64::from(self.length) + 8 && total <= MAX_RECORD_BYTES as u64;
        sane.then_some(total as usize)
    }

    pub(crate) fn length(&self) -> u64 {
        u64::from(self.length)
    }

    /// Whether the checksum of the whole record holds.
    pub(crate) fn is_intact(&self, encoded: &[u8]) -> bool {
        crc32fast::hash(&encoded[8..]) == self.crc
    }

    /// The record in its bytes; `None` when the actor isn't UTF-8.
    pub(crate) fn view<'a>(&self, encoded: &'a [u8], hash: ChainHash) -> Option<RecordView<'a>> {
        let (actor, bodies) = encoded[RECORD_PRELUDE_BYTES..].split_at(self.actor_len as usize);
        let (input, outcome) = bodies.split_at(self.input_len as usize);
        Some(RecordView {
            seq: self.seq,
            wall_ms: self.wall_ms,
            mono_ns: self.mono_ns,
            durable_seq: self.durable_seq,
            kind: self.kind,
            flags: self.flags,
            actor: std::str::from_utf8(actor).ok()?,
            input,
            outcome,
            prev_hash: self.prev_hash,
            hash,
        })
    }
}
