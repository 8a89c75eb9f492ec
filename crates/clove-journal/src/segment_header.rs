//! The first 128 bytes of a segment.

use crate::chain::ChainHash;
use crate::format::{FormatVersion, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, array_at, u16_at, u32_at, u64_at};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) first_seq: u64,
    pub(crate) prev_hash: ChainHash,
    pub(crate) created_wall_ms: u64,
    pub(crate) mark: u32,
    pub(crate) core_version: [u8; 32],
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderProblem {
    /// Zeros, or fewer bytes than a header: the segment was created and never begun.
    NeverWritten,
    NoMagic,
    Version(FormatVersion),
    Checksum,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..4].copy_from_slice(&SEGMENT_MAGIC);
        out[4..6].copy_from_slice(&FormatVersion::CURRENT.0.to_le_bytes());
        out[6..8].copy_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
        out[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        out[16..48].copy_from_slice(&self.prev_hash.0);
        out[48..56].copy_from_slice(&self.created_wall_ms.to_le_bytes());
        out[56..60].copy_from_slice(&self.mark.to_le_bytes());
        out[64..96].copy_from_slice(&self.core_version);
        let crc = crc32fast::hash(&out[..124]);
        out[124..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `bytes` is the beginning of the file, shorter than a header only when the file is.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderProblem> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else { return Err(HeaderProblem::NeverWritten) };
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(HeaderProblem::NeverWritten);
        }
        if bytes[0..4] != SEGMENT_MAGIC {
            return Err(HeaderProblem::NoMagic);
        }
        // Before the checksum: another version may keep it elsewhere.
        let version = FormatVersion(u16_at(bytes, 4));
        if !version.is_readable() {
            return Err(HeaderProblem::Version(version));
        }
        if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return Err(HeaderProblem::Checksum);
        }
        Ok(SegmentHeader {
            first_seq: u64_at(bytes, 8),
            prev_hash: ChainHash(array_at(bytes, 16)),
            created_wall_ms: u64_at(bytes, 48),
            mark: u32_at(bytes, 56),
            core_version: array_at(bytes, 64),
        })
    }

    /// The version's bytes as the header keeps them, cut at a character's border.
    pub(crate) fn core_version_bytes(version: &str) -> [u8; 32] {
        let mut out = [0; 32];
        let end = (0..=version.len().min(32)).rev().find(|&end| version.is_char_boundary(end)).unwrap_or(0);
        out[..end].copy_from_slice(&version.as_bytes()[..end]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_each_flipped_bit_is_seen() {
        let header = SegmentHeader {
            first_seq: 77,
            prev_hash: ChainHash([9; 32]),
            created_wall_ms: 1_700_000_000_000,
            mark: 0xdead_beef,
            core_version: SegmentHeader::core_version_bytes("0.1.0 \u{e9}"),
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..127]), Err(HeaderProblem::NeverWritten));
    }

    #[test]
    fn a_newer_version_is_named_and_not_called_damage() {
        let header = SegmentHeader {
            first_seq: 1,
            prev_hash: ChainHash::ZERO,
            created_wall_ms: 0,
            mark: 1,
            core_version: [0; 32],
        };
        let mut bytes = header.encode();
        bytes[4] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderProblem::Version(FormatVersion(2))));
    }
}
