//! What the owner of a journal decides.

use std::sync::Arc;

use crate::boot::BootId;
use crate::disk::{Disk, HostDisk};

/// What the owner of a journal decides. `Options::default()` is right but for `core_version` and `created_wall_ms`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment file in bytes; preallocated. A larger record gets a segment of its own size.
    pub segment_bytes: u64,
    /// [`Checkpoints::prune`](crate::Checkpoints::prune) deletes sealed segments above this total, in bytes.
    pub size_cap_bytes: u64,
    /// Written into each segment header; cut to 32 bytes.
    pub core_version: String,
    /// Wall clock for the header of the very first segment (the library reads no clock), ms since 1970. Later headers
    /// take the time of the record that begins them.
    pub created_wall_ms: u64,
    /// The running boot of the machine.
    pub boot: BootId,
    /// The file system.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 16 << 20,
            size_cap_bytes: 1 << 30,
            core_version: String::new(),
            created_wall_ms: 0,
            boot: BootId::current(),
            disk: Arc::new(HostDisk),
        }
    }
}
