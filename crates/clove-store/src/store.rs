//! The store: takes rows up to a sequence number, all or nothing.

use crate::error::{StoreError, StoreErrorKind};
use crate::file;
use crate::open::{self, AppliedSeq, Dropped, Found};
use crate::row::Row;
use crate::write::{self, Written};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::{Path, PathBuf};

/// The projections, open for one thread.
pub struct Store {
    conn: Connection,
    path: PathBuf,
    applied: u64,
    journal: String,
    dropped: Option<Dropped>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The store had it already: nothing was changed.
    Already,
    /// It is in. `orphans` rows were about a run or task that the store doesn't have; in a window that is applied for
    /// the first time there are none, unless the rows before it were incomplete.
    Now { orphans: usize },
}

/// How many rows were let go for their age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    pub audit: usize,
    pub agents: usize,
}

impl Store {
    pub(crate) fn new(path: &Path, found: Found) -> Store {
        let Found { conn, applied, journal, dropped } = found;
        Store { conn, path: path.to_owned(), applied, journal, dropped }
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(crate) fn error(&self, action: &'static str, e: rusqlite::Error) -> StoreError {
        StoreError::sql(action, &self.path, e)
    }

    /// The last record contained.
    pub fn applied(&self) -> AppliedSeq {
        AppliedSeq(self.applied)
    }

    /// Why opening, or [`Store::follow`], started anew; for the operator.
    pub fn dropped(&self) -> Option<&Dropped> {
        self.dropped.as_ref()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ties the store to a journal, before anything is applied or asked: one that belonged to another journal, or has
    /// more than `head`, holds things that never happened, and is emptied. `journal` is any name that a new journal
    /// doesn't share (its first record's hash, its key).
    ///
    /// # Errors
    /// As [`Store::rebuild`].
    pub fn follow(&mut self, journal: &str, head: u64) -> Result<AppliedSeq, StoreError> {
        let reason = if self.applied > 0 && self.journal != journal {
            Some(Dropped::OtherJournal)
        } else if self.applied > head {
            Some(Dropped::AheadOfJournal { applied: self.applied, head })
        } else {
            None
        };
        if reason.is_none() && self.journal == journal {
            return Ok(self.applied());
        }
        self.journal = journal.to_owned();
        if reason.is_some() {
            self.rebuild()?;
            self.dropped = reason;
        } else {
            self.name_journal()?;
        }
        Ok(self.applied())
    }

    fn name_journal(&self) -> Result<(), StoreError> {
        self.conn
            .execute("UPDATE projection SET journal = ?1", [&self.journal])
            .map(|_| ())
            .map_err(|e| self.error("name the journal in", e))
    }

    /// Takes what the records after [`Store::applied`] up to `seq` say, in one transaction; on an error nothing of it. A
    /// `seq` that is contained already changes nothing. Rows from before do no harm, as long as nothing in the journal
    /// comes before what it is about.
    ///
    /// # Errors
    /// [`StoreErrorKind::Damaged`]: [`Store::rebuild`]. [`StoreErrorKind::Busy`], [`StoreErrorKind::Full`]: try later.
    pub fn apply(&mut self, seq: u64, rows: &[Row]) -> Result<Applied, StoreError> {
        const ACTION: &str = "apply rows to";
        if seq <= self.applied {
            return Ok(Applied::Already);
        }
        let mut orphans = 0;
        let (before, path) = (self.applied, &self.path);
        let error = |e| StoreError::sql(ACTION, path, e);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        for row in rows {
            match write::row(&tx, row).map_err(error)? {
                Written::Kept => {}
                Written::Orphan => orphans += 1,
            }
        }
        if !advance(&tx, before, seq).map_err(error)? {
            let why = format!("its applied sequence number isn't {before} any more");
            return Err(StoreError::new(ACTION, path, StoreErrorKind::SecondWriter, why));
        }
        tx.commit().map_err(error)?;
        self.applied = seq;
        Ok(Applied::Now { orphans })
    }

    /// Brings everything applied onto the disk (one fsync). Until then, a loss of power may take the store back to an
    /// earlier sequence number. Whatever lets go of its own copy of a run calls this first.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn sync(&mut self) -> Result<AppliedSeq, StoreError> {
        const ACTION: &str = "make durable";
        // A commit with synchronous=FULL syncs the whole log; unlike a checkpoint it waits for no reader.
        self.conn.pragma_update(None, "synchronous", "full").map_err(|e| self.error(ACTION, e))?;
        let touched = self.conn.execute("UPDATE projection SET applied_seq = applied_seq", []);
        let back = self.conn.pragma_update(None, "synchronous", "normal");
        touched.and(back).map_err(|e| self.error(ACTION, e))?;
        Ok(self.applied())
    }

    /// Drops everything; the applied sequence number is 0 again. The file is made anew, so it may be damaged.
    ///
    /// # Errors
    /// [`StoreErrorKind::Io`], [`StoreErrorKind::Full`]; then the store answers nothing until a later call succeeds.
    pub fn rebuild(&mut self) -> Result<(), StoreError> {
        let nothing = Connection::open_in_memory().map_err(|e| self.error("rebuild", e))?;
        drop(std::mem::replace(&mut self.conn, nothing));
        self.applied = 0;
        file::remove(&self.path)?;
        self.conn = open::create(&self.path)?;
        self.name_journal()
    }

    /// Reads every page and index: seconds for a large store. `None` when all is well, else what isn't.
    ///
    /// # Errors
    /// When it can't be read at all.
    pub fn check(&self) -> Result<Option<String>, StoreError> {
        let error = |e| self.error("check", e);
        let said: String =
            self.conn.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0)).map_err(error)?;
        if said != "ok" {
            return Ok(Some(said));
        }
        let dangling =
            self.conn.prepare("PRAGMA foreign_key_check").and_then(|mut s| s.exists([])).map_err(error)?;
        Ok(dangling.then(|| "a task or attempt belongs to nothing".to_owned()))
    }

    /// Lets go of audit rows, and of ended agents without a run, from before a time (Unix milliseconds). Runs go by
    /// [`Row::RunForgotten`] only.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn trim(&mut self, before_ms: u64) -> Result<Trimmed, StoreError> {
        let path = &self.path;
        let error = |e| StoreError::sql("trim", path, e);
        let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        let audit = tx.execute("DELETE FROM audit WHERE wall_ms < ?1", [before]).map_err(error)?;
        let agents =
            tx.execute("DELETE FROM agents WHERE run IS NULL AND ended_ms < ?1", [before]).map_err(error)?;
        tx.commit().map_err(error)?;
        Ok(Trimmed { audit, agents })
    }
}

/// Moves the applied sequence number, if it still is what this store left there.
fn advance(tx: &Transaction<'_>, before: u64, seq: u64) -> rusqlite::Result<bool> {
    let (before, seq) = (crate::column::int("seq", before)?, crate::column::int("seq", seq)?);
    let mut s = tx.prepare_cached("UPDATE projection SET applied_seq = ?1 WHERE applied_seq = ?2")?;
    Ok(s.execute(params![seq, before])? == 1)
}
