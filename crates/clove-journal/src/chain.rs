//! The hash that ties each record to the one before.

use std::fmt;

use sha2::{Digest, Sha256};

/// SHA-256 of a record in the leaf form of RFC 6962, section 2.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What record 1 names as the hash before it.
    pub const ZERO: ChainHash = ChainHash([0; 32]);

    pub(crate) fn of_record(encoded: &[u8]) -> ChainHash {
        // 0x00 marks a leaf, 0x01 an inner node, so that no node can be passed off as a record.
        ChainHash(Sha256::new_with_prefix([0x00]).chain_update(encoded).finalize().into())
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainHash({self})")
    }
}
