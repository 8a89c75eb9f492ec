//! The append-only journal of CloveOS on disk, with its recovery.
//!
//! The journal doesn't know the kernel's types: a record carries opaque `input` and `outcome` bytes beside a few
//! header fields. One thread appends and flushes; another makes things durable through a [`SyncHandle`]; a third may
//! write [`Checkpoints`]. The format is a byte table in [`mod@format`].

mod batch;
mod boot;
mod chain;
mod chain_walk;
mod checkpoint;
mod damage;
mod disk;
pub mod format;
mod head;
mod io_failure;
mod journal;
mod key;
mod layout;
mod merkle;
mod options;
mod read_error;
mod reader;
mod record;
mod recovery;
mod retention;
mod seal;
mod segment_header;
mod segment_scan;
mod sync;
mod tail;
mod verify;
mod window;

pub use boot::BootId;
pub use chain::ChainHash;
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointErrorKind, CheckpointMark, Checkpoints};
pub use damage::{Damage, DamageKind};
pub use disk::{Disk, HostDisk};
pub use head::{Head, HeadsError, HeadsErrorKind, SignedHead, append_signed_head, read_signed_heads};
pub use io_failure::IoFailure;
pub use journal::{AppendError, AppendErrorKind, Journal, WriteError, WriteErrorKind};
pub use key::{KeyError, KeyErrorKind, load_or_create_key};
pub use options::Options;
pub use read_error::{ReadError, ReadErrorKind};
pub use reader::Reader;
pub use record::{Record, RecordRef, RecordView};
pub use recovery::{OpenError, OpenErrorKind, Recovered, Warning};
pub use retention::{PruneError, Pruned};
pub use sync::{SyncError, SyncErrorKind, SyncHandle};
pub use verify::{Summary, VerifyError, verify};
