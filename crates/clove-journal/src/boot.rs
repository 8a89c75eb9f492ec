//! Which boot of the machine wrote a journal.

use std::fs;
use std::io;
use std::path::Path;

use crate::disk::{Disk, replace_file};
use crate::io_failure::IoFailure;

/// The kernel's random boot id (random(4)). A process that dies leaves its written pages in the page cache, in order
/// and whole; only a new boot can find later pages on disk without earlier ones. So recovery forgives holes only when
/// the boot id has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(Option<String>);

impl BootId {
    /// The id of the running boot; [`BootId::unknown`] where `/proc` doesn't tell.
    pub fn current() -> BootId {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        BootId(text.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()))
    }

    /// An id that is never the same boot as any other.
    pub fn unknown() -> BootId {
        BootId(None)
    }

    /// An id of one's own choosing, for tests that simulate a loss of power.
    pub fn named(id: &str) -> BootId {
        BootId(Some(id.to_owned()))
    }

    pub(crate) fn same_boot(&self, other: &BootId) -> bool {
        self.0.is_some() && self.0 == other.0
    }

    pub(crate) fn load(path: &Path) -> Result<BootId, IoFailure> {
        match fs::read(path) {
            Ok(bytes) => Ok(BootId(String::from_utf8(bytes).ok().map(|id| id.trim().to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BootId::unknown()),
            Err(error) => Err(IoFailure::new("read", path, error)),
        }
    }

    pub(crate) fn store(&self, path: &Path, disk: &dyn Disk) -> Result<(), IoFailure> {
        replace_file(disk, path, format!("{}\n", self.0.as_deref().unwrap_or("")).as_bytes())
    }
}
