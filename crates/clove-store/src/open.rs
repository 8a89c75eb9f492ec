//! Opening the database: what is there is used, dropped, or refused.

use crate::error::{StoreError, StoreErrorKind};
use crate::file;
use crate::schema::{self, Layout, SCHEMA_VERSION};
use crate::store::Store;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long another program's transaction is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Up to this size every page is looked at on opening; beyond it, only after an end that wasn't clean.
const ALWAYS_CHECKED_BYTES: u64 = 32 << 20;
/// The log is cut back to this size after a long reader has let it grow.
const LOG_BYTES: u64 = 16 << 20;

/// The last journal record that the store contains, with all before it; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppliedSeq(pub u64);

/// Why what was there isn't there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// An older build's layout.
    OlderSchema { found: i64 },
    /// Not what had been written; it was kept for a look.
    Damaged { why: String, kept: PathBuf },
    /// It followed another journal.
    OtherJournal,
    /// It contained records that the journal has lost (with the power, before its sync).
    AheadOfJournal { applied: u64, head: u64 },
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dropped::OlderSchema { found } => {
                write!(f, "the store's schema {found} is older than this build's {SCHEMA_VERSION}")
            }
            Dropped::Damaged { why, kept } => {
                write!(f, "the store was damaged ({why}); it is kept in {}", kept.display())
            }
            Dropped::OtherJournal => write!(f, "the store belonged to another journal"),
            Dropped::AheadOfJournal { applied, head } => {
                write!(f, "the store had record {applied}, but the journal ends at {head}")
            }
        }
    }
}

pub(crate) struct Found {
    pub conn: Connection,
    pub applied: u64,
    pub journal: String,
    pub dropped: Option<Dropped>,
}

enum Verdict {
    Use { conn: Connection, applied: u64, journal: String },
    Drop(i64),
    Damaged(String),
}

impl Store {
    /// Opens the store, or makes it. What was dropped on the way is told by [`Store::dropped`]; the caller then applies
    /// everything after the returned sequence number, which is 0 for a new one.
    ///
    /// # Errors
    /// [`StoreErrorKind::Newer`], [`StoreErrorKind::NotAStore`]: the file isn't touched.
    /// [`StoreErrorKind::Busy`], [`StoreErrorKind::Io`], [`StoreErrorKind::Full`]: try later.
    pub fn open(path: &Path) -> Result<(Store, AppliedSeq), StoreError> {
        let found = open(path)?;
        let applied = AppliedSeq(found.applied);
        Ok((Store::new(path, found), applied))
    }
}

fn open(path: &Path) -> Result<Found, StoreError> {
    let dropped = match look(path)? {
        Verdict::Use { conn, applied, journal } => {
            return Ok(Found { conn, applied, journal, dropped: None });
        }
        Verdict::Drop(found) => {
            file::remove(path)?;
            Dropped::OlderSchema { found }
        }
        Verdict::Damaged(why) => Dropped::Damaged { why, kept: file::set_aside(path)? },
    };
    let conn = create(path)?;
    Ok(Found { conn, applied: 0, journal: String::new(), dropped: Some(dropped) })
}

/// Makes a store where there is none.
pub(crate) fn create(path: &Path) -> Result<Connection, StoreError> {
    let error = |e| StoreError::sql("create", path, e);
    let mut conn = connect(path)?;
    settle(&conn).map_err(error)?;
    schema::create(&mut conn).map_err(error)?;
    Ok(conn)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    file::ensure(path)?;
    // The store has one user, its thread: no mutex. A path is a path, never a URI.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| StoreError::sql("open", path, e))?;
    conn.busy_timeout(BUSY).map_err(|e| StoreError::sql("open", path, e))?;
    Ok(conn)
}

/// How the connection behaves. <https://www.sqlite.org/pragma.html>
fn settle(conn: &Connection) -> rusqlite::Result<()> {
    // In WAL mode NORMAL may lose the last transactions with the power, never consistency: that is a projection's deal.
    conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "normal")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES as i64)?;
    conn.pragma_update(None, "cache_size", -8192)?;
    // A damaged page is found when it is read, not when it has been followed.
    conn.pragma_update(None, "cell_size_check", true)?;
    // Views and triggers of a file that somebody else wrote call no functions with side effects.
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn look(path: &Path) -> Result<Verdict, StoreError> {
    let thorough = file::was_left_open(path) || file::bytes(path) <= ALWAYS_CHECKED_BYTES;
    let mut conn = connect(path)?;
    match judge(&mut conn, path, thorough) {
        Ok(Judged::Good { applied, journal }) => Ok(Verdict::Use { conn, applied, journal }),
        Ok(Judged::Older(v)) => Ok(Verdict::Drop(v)),
        Ok(Judged::Broken(why)) => Ok(Verdict::Damaged(why)),
        Err(e) if e.is_damage() => Ok(Verdict::Damaged(e.why)),
        Err(e) => Err(e),
    }
}

enum Judged {
    Good { applied: u64, journal: String },
    Older(i64),
    Broken(String),
}

fn judge(conn: &mut Connection, path: &Path, thorough: bool) -> Result<Judged, StoreError> {
    let error = |e| StoreError::sql("open", path, e);
    match schema::layout(conn).map_err(error)? {
        Layout::Empty => {
            settle(conn).map_err(error)?;
            schema::create(conn).map_err(error)?;
        }
        Layout::Current => settle(conn).map_err(error)?,
        Layout::Older(v) => return Ok(Judged::Older(v)),
        Layout::Newer(found) => {
            let kind = StoreErrorKind::Newer { found, known: SCHEMA_VERSION };
            let why = format!("its schema is version {found}, and this build knows up to {SCHEMA_VERSION}");
            return Err(StoreError::new("open", path, kind, why));
        }
        Layout::Foreign => {
            let why = "it is a database of another program";
            return Err(StoreError::new("open", path, StoreErrorKind::NotAStore, why));
        }
        Layout::Broken(why) => return Ok(Judged::Broken(why)),
    }
    if thorough {
        let said: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(error)?;
        if said != "ok" {
            return Ok(Judged::Broken(said));
        }
    }
    let row = conn.query_row("SELECT applied_seq, journal FROM projection", [], |r| {
        Ok((r.get::<_, i64>(0)?, r.get(1)?))
    });
    match row {
        Ok((applied, journal)) => Ok(match u64::try_from(applied) {
            Ok(applied) => Judged::Good { applied, journal },
            Err(_) => Judged::Broken(format!("its applied_seq is {applied}")),
        }),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Judged::Broken("its applied_seq is gone".into())),
        Err(e) => Err(error(e)),
    }
}
