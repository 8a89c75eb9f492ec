//! A failed call to the operating system, with the file it was about.

use std::io;
use std::path::{Path, PathBuf};

/// What was tried on which file, and what the system answered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct IoFailure {
    /// A verb phrase: "write", "make durable".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl IoFailure {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> IoFailure {
        IoFailure { action, path: path.to_owned(), source }
    }

    /// For `map_err`: `fs::read(p).map_err(IoFailure::of("read", p))`.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IoFailure {
        move |source| IoFailure::new(action, path, source)
    }
}
