//! Answers about runs, shaped as the kernel's own.

use crate::column::{Cells, sought};
use crate::error::StoreError;
use crate::store::Store;
use clove_abi::calls::{RunInfo, RunShowReply};
use clove_abi::ids::RunId;
use rusqlite::{OptionalExtension, Row};
use std::collections::BTreeMap;

/// How many of the slowest tasks are named.
const SLOWEST: u32 = 5;

fn info(row: &Row<'_>) -> rusqlite::Result<RunInfo> {
    let c = Cells(row);
    let (pending, running, done) = (c.small("pending")?, c.small("running")?, c.small("done")?);
    let (failed, quarantined, cancelled) =
        (c.small("failed")?, c.small("quarantined")?, c.small("cancelled")?);
    Ok(RunInfo {
        id: RunId(c.uint("run")?),
        name: c.text("name")?,
        kind: c.word("kind")?,
        state: c.word("state")?,
        message: c.text("message")?,
        total: [pending, running, done, failed, quarantined, cancelled]
            .iter()
            .fold(0, |a, b| a.saturating_add(*b)),
        pending,
        running,
        done,
        failed,
        quarantined,
        cancelled,
        submitted_ms: c.uint("submitted_ms")?,
        ended_ms: c.opt_uint("ended_ms")?,
        jobs: c.small("jobs")?,
    })
}

impl Store {
    /// All runs, oldest first: `clove sweep ls`.
    ///
    /// # Errors
    /// [`crate::StoreErrorKind::Damaged`] and what the disk says, as every question.
    pub fn runs(&self) -> Result<Vec<RunInfo>, StoreError> {
        let ask = || {
            let mut s = self.conn().prepare_cached("SELECT * FROM run_summary ORDER BY run")?;
            s.query_map([], info)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        ask().map_err(|e| self.error("list runs of", e))
    }

    /// One run; `None` when the store doesn't have it.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn run(&self, run: RunId) -> Result<Option<RunInfo>, StoreError> {
        let ask = || {
            let mut s = self.conn().prepare_cached("SELECT * FROM run_summary WHERE run = ?1")?;
            s.query_row([sought(run)], info).optional()
        };
        ask().map_err(|e| self.error("read a run of", e))
    }

    /// The morning's summary of one run: `clove sweep show`. The disk used and the time left aren't known here.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn show(&self, run: RunId) -> Result<Option<RunShowReply>, StoreError> {
        let Some(info) = self.run(run)? else {
            return Ok(None);
        };
        self.summarise(info).map(Some).map_err(|e| self.error("read a run of", e))
    }

    fn summarise(&self, info: RunInfo) -> rusqlite::Result<RunShowReply> {
        let key = sought(info.id);
        let tally = |sql: &str| -> rusqlite::Result<BTreeMap<String, u32>> {
            let mut s = self.conn().prepare_cached(sql)?;
            s.query_map([key], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
        };
        let failures =
            tally("SELECT cause, count(*) FROM results WHERE run = ?1 AND cause IS NOT NULL GROUP BY cause")?;
        let deaths = tally(
            // As the kernel counts: an exit or an exception isn't a death.
            "SELECT cause, count(*) FROM attempts WHERE run = ?1 AND cause NOT IN ('exit', 'exception') GROUP BY cause",
        )?;
        let mut s = self.conn().prepare_cached(
            "SELECT task, name, elapsed_us / 1e6 AS seconds FROM tasks WHERE run = ?1 AND elapsed_us IS NOT NULL
             ORDER BY elapsed_us DESC, task DESC LIMIT ?2",
        )?;
        let slowest = s
            .query_map((key, SLOWEST), |r| {
                let (task, name): (u32, String) = (r.get(0)?, r.get(1)?);
                Ok((task, shown_name(info.id, task, name), r.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut s =
            self.conn().prepare_cached("SELECT spec, cpu_us, peak_memory_bytes FROM runs WHERE run = ?1")?;
        s.query_row([key], |row| {
            let c = Cells(row);
            Ok(RunShowReply {
                info,
                spec: c.json("spec")?,
                failures,
                deaths,
                slowest,
                disk_bytes: 0,
                cpu_seconds: c.uint("cpu_us")? as f64 / 1e6,
                peak_memory_bytes: c.uint("peak_memory_bytes")?,
                eta_seconds: None,
            })
        })
    }
}

/// A task's name, or what stands for it.
pub(crate) fn shown_name(run: RunId, task: u32, name: String) -> String {
    if name.is_empty() { format!("{run}-{task}") } else { name }
}
