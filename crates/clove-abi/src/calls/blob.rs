//! Family `blob`: large bytes, by their digest.

use super::{args, reply};

args! {
    BlobPut {}
    BlobGet {
        /// Hex SHA-256.
        digest: String,
        #[serde(default)]
        offset: u64,
        /// At most this many bytes; the longest tail when absent.
        #[serde(default)]
        max: Option<u64>,
    }
    BlobStat {
        digest: String,
    }
}

reply! {
    BlobPutReply {
        digest: String,
        bytes: u64,
    }
    BlobGetReply {
        /// Length of the whole blob.
        bytes: u64,
    }
    BlobStatReply {
        bytes: u64,
    }
}

impl BlobGet {
    /// Most bytes in one answer.
    pub const MOST_BYTES: usize = 32 << 20;
}
