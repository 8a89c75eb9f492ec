//! The database's files: the database itself, its write-ahead log, that log's index.

use crate::error::StoreError;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The database goes first: SQLite ignores a log whose database is missing or empty, but a database
/// without its log would be an older state that looks whole.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Where a damaged database is kept, for whoever wants to know what happened. There is at most one.
pub(crate) fn aside(path: &Path) -> PathBuf {
    beside(path, ".damaged")
}

/// The last user didn't close it: its log is still there.
pub(crate) fn was_left_open(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0)
}

/// Bytes of the database without its log; 0 when there is none.
pub(crate) fn bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Makes an empty file that only its owner can read: SQLite would leave that to the umask, and gives the log the
/// database's mode.
pub(crate) fn ensure(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => {
            // A log that outlived its database belongs to no one.
            for suffix in &SUFFIXES[1..] {
                remove_one(&beside(path, suffix))?;
            }
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::io("create", path, e)),
    }
}

fn remove_one(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Deletes the database.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    SUFFIXES.iter().try_for_each(|s| remove_one(&beside(path, s)))
}

/// Renames the database out of the way, over one that was put there earlier.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let to = aside(path);
    remove(&to)?;
    for suffix in SUFFIXES {
        let (from, to) = (beside(path, suffix), beside(&to, suffix));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("set aside", &from, e));
            }
            _ => {}
        }
    }
    Ok(to)
}
