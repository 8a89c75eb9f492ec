//! The encoded records that wait for their write(2).

use crate::seal::Seal;

/// Bytes for one or more segments in a row; the cuts say where one ends.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cuts: Vec<Cut>,
}

/// The border between two segments inside a batch.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Bytes before this belong to the segment that is now full; the new one's header begins here.
    pub(crate) at: usize,
    /// Seal of the full segment.
    pub(crate) seal: Seal,
    /// First record of the new segment.
    pub(crate) first_seq: u64,
    /// Size to reserve for it.
    pub(crate) capacity_bytes: u64,
}
