//! The seal of a full segment: what it held, in 124 bytes that outlive it.

use std::fs;
use std::io;
use std::path::Path;

use crate::chain::ChainHash;
use crate::damage::{Damage, DamageKind};
use crate::disk::{Disk, replace_file};
use crate::format::{FormatVersion, SEAL_BYTES, SEAL_MAGIC, array_at, u16_at, u32_at, u64_at};
use crate::io_failure::IoFailure;
use crate::read_error::{ReadError, ReadErrorKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) first_seq: u64,
    pub(crate) count: u64,
    pub(crate) prev_hash: ChainHash,
    pub(crate) last_hash: ChainHash,
    pub(crate) root: ChainHash,
}

impl Seal {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.count - 1
    }

    pub(crate) fn store(&self, path: &Path, disk: &dyn Disk) -> Result<(), IoFailure> {
        replace_file(disk, path, &self.encode())
    }

    /// `Ok(None)` when there is none.
    pub(crate) fn load(path: &Path, first_seq: u64) -> Result<Option<Seal>, ReadError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IoFailure::new("read", path, error).into()),
        };
        let damage = || Damage::new(path, 0, first_seq, DamageKind::Seal);
        if bytes.len() < 6 || bytes[0..4] != SEAL_MAGIC {
            return Err(damage().into());
        }
        let found = FormatVersion(u16_at(&bytes, 4));
        if !found.is_readable() {
            return Err(ReadError { kind: ReadErrorKind::Version { file: path.to_owned(), found } });
        }
        if bytes.len() != SEAL_BYTES || crc32fast::hash(&bytes[..120]) != u32_at(&bytes, 120) {
            return Err(damage().into());
        }
        let seal = Seal {
            first_seq: u64_at(&bytes, 8),
            count: u64_at(&bytes, 16),
            prev_hash: ChainHash(array_at(&bytes, 24)),
            last_hash: ChainHash(array_at(&bytes, 56)),
            root: ChainHash(array_at(&bytes, 88)),
        };
        let sane =
            seal.first_seq == first_seq && seal.count > 0 && first_seq.checked_add(seal.count).is_some();
        if sane { Ok(Some(seal)) } else { Err(damage().into()) }
    }

    /// The first field in which two seals differ.
    pub(crate) fn difference(&self, other: &Seal) -> Option<&'static str> {
        [
            (self.first_seq == other.first_seq, "the first record"),
            (self.count == other.count, "the number of records"),
            (self.prev_hash == other.prev_hash, "the hash before the first record"),
            (self.last_hash == other.last_hash, "the hash of the last record"),
            (self.root == other.root, "the Merkle root"),
        ]
        .into_iter()
        .find_map(|(same, what)| (!same).then_some(what))
    }

    fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut out = [0; SEAL_BYTES];
        out[0..4].copy_from_slice(&SEAL_MAGIC);
        out[4..6].copy_from_slice(&FormatVersion::CURRENT.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.count.to_le_bytes());
        out[24..56].copy_from_slice(&self.prev_hash.0);
        out[56..88].copy_from_slice(&self.last_hash.0);
        out[88..120].copy_from_slice(&self.root.0);
        let crc = crc32fast::hash(&out[..120]);
        out[120..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}
