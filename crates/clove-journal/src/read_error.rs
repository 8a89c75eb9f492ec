//! Why records can't be read.

use std::path::PathBuf;

use crate::damage::Damage;
use crate::format::FormatVersion;
use crate::io_failure::IoFailure;

/// Why records can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the journal can't be read: {kind}")]
pub struct ReadError {
    /// What happened; it names the file.
    #[source]
    pub kind: ReadErrorKind,
}

/// What happened when reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadErrorKind {
    #[error("{0}")]
    Io(IoFailure),
    #[error("{0}")]
    Damaged(Box<Damage>),
    #[error(
        "{} has format version {found}, this build reads {} to {}; use the build that wrote it",
        file.display(), FormatVersion::OLDEST_READABLE, FormatVersion::CURRENT
    )]
    Version { file: PathBuf, found: FormatVersion },
}

impl From<Damage> for ReadError {
    fn from(damage: Damage) -> ReadError {
        ReadError { kind: ReadErrorKind::Damaged(Box::new(damage)) }
    }
}

impl From<IoFailure> for ReadError {
    fn from(failure: IoFailure) -> ReadError {
        ReadError { kind: ReadErrorKind::Io(failure) }
    }
}
