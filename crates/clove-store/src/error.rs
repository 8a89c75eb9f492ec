//! What can go wrong with the store, and what to do then.

use rusqlite::ErrorCode;
use std::path::{Path, PathBuf};

/// What was tried on which file, what went wrong, what to do next.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {why}; {}", path.display(), kind.next_step())]
pub struct StoreError {
    /// A verb phrase: "open", "apply rows to".
    pub action: &'static str,
    pub path: PathBuf,
    pub kind: StoreErrorKind,
    pub why: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Written by a later build. Nothing was touched.
    Newer { found: i64, known: i64 },
    /// A database of something else. Nothing was touched.
    NotAStore,
    /// The content isn't what this crate wrote. [`crate::Store::rebuild`] mends it.
    Damaged,
    /// Somebody else holds the file's lock.
    Busy,
    /// Two writers: the applied sequence number isn't what this one left there.
    SecondWriter,
    /// No room on the disk. Nothing of the batch was taken.
    Full,
    /// The operating system refused.
    Io,
    /// A value that SQLite can't hold. Nothing of the batch was taken.
    Unstorable,
    /// Anything else that SQLite says: a mistake in this crate.
    Sql,
}

impl StoreErrorKind {
    fn next_step(self) -> &'static str {
        match self {
            StoreErrorKind::Newer { .. } => {
                "use the newer clove, or move the file away: it is built again from the journal"
            }
            StoreErrorKind::NotAStore => "move that file away, or choose another data directory",
            StoreErrorKind::Damaged => "it has to be built again from the journal",
            StoreErrorKind::Busy => "end the other program's transaction (an open sqlite3 shell?)",
            StoreErrorKind::SecondWriter => "only one kernel may write to a data directory",
            StoreErrorKind::Full => "make room on the disk; the journal keeps what is missing here",
            StoreErrorKind::Io => "look at the file's disk and permissions",
            StoreErrorKind::Unstorable | StoreErrorKind::Sql => {
                "this is a mistake in clove: please report it"
            }
        }
    }

    fn of(e: &rusqlite::Error) -> StoreErrorKind {
        use rusqlite::Error as E;
        match e {
            E::ToSqlConversionFailure(_) => StoreErrorKind::Unstorable,
            E::FromSqlConversionFailure(..)
            | E::InvalidColumnType(..)
            | E::IntegralValueOutOfRange(..)
            | E::Utf8Error(..) => StoreErrorKind::Damaged,
            _ => match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Damaged,
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
                Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
                Some(
                    ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied
                    | ErrorCode::OutOfMemory
                    | ErrorCode::TooBig,
                ) => StoreErrorKind::Io,
                _ => StoreErrorKind::Sql,
            },
        }
    }
}

impl StoreError {
    pub(crate) fn new(
        action: &'static str,
        path: &Path,
        kind: StoreErrorKind,
        why: impl Into<String>,
    ) -> StoreError {
        StoreError { action, path: path.to_owned(), kind, why: why.into(), source: None }
    }

    pub(crate) fn sql(action: &'static str, path: &Path, e: rusqlite::Error) -> StoreError {
        let why = match &e {
            // Its own text tells a column number that means nothing here.
            rusqlite::Error::FromSqlConversionFailure(_, _, inner) => inner.to_string(),
            e => e.to_string(),
        };
        let kind = StoreErrorKind::of(&e);
        StoreError { action, path: path.to_owned(), kind, why, source: Some(Box::new(e)) }
    }

    pub(crate) fn io(action: &'static str, path: &Path, e: std::io::Error) -> StoreError {
        let kind = if e.kind() == std::io::ErrorKind::StorageFull {
            StoreErrorKind::Full
        } else {
            StoreErrorKind::Io
        };
        StoreError { action, path: path.to_owned(), kind, why: e.to_string(), source: Some(Box::new(e)) }
    }

    /// The file's content is at fault: a rebuild mends it.
    pub fn is_damage(&self) -> bool {
        self.kind == StoreErrorKind::Damaged
    }
}
