//! Answers about tasks, shaped as the kernel's own.

use crate::column::{Cells, sought};
use crate::error::StoreError;
use crate::query_runs::shown_name;
use crate::row::{TaskProgress, TaskRow};
use crate::store::Store;
use clove_abi::calls::{ExceptionText, RunTasksReply, TaskInfo};
use clove_abi::certificate::Certificate;
use clove_abi::ids::{RunId, TaskIndex};
use rusqlite::Row;
use std::collections::BTreeMap;

/// Most tasks in one answer, as the call table says.
const PAGE: u32 = 2_000;

const EVERYTHING: &str = "SELECT * FROM tasks WHERE run = ?1 AND task >= ?2 ORDER BY task LIMIT ?3";
/// Large columns are left where they are.
const STATES: &str =
    "SELECT run, task, name, state, attempts, agent, started_ms, ended_ms, elapsed_us, payload_bytes,
    payload_blob, exception_class, exception_message, exception_traceback, 'null' AS config, NULL AS result
    FROM tasks WHERE run = ?1 AND task >= ?2 ORDER BY task LIMIT ?3";

fn task_row(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    let c = Cells(row);
    let exception = match c.opt_text("exception_class")? {
        Some(class) => Some(ExceptionText {
            class,
            message: c.opt_text("exception_message")?.unwrap_or_default(),
            traceback: c.opt_text("exception_traceback")?.unwrap_or_default(),
        }),
        None => None,
    };
    Ok(TaskRow {
        run: RunId(c.uint("run")?),
        task: c.small("task")?,
        name: c.text("name")?,
        config: c.json("config")?,
        progress: TaskProgress {
            state: c.word("state")?,
            attempts: c.small("attempts")?,
            agent: c.opt_parsed("agent")?,
            result: c.opt_json("result")?,
            exception,
            started_ms: c.opt_uint("started_ms")?,
            ended_ms: c.opt_uint("ended_ms")?,
            elapsed_us: c.opt_uint("elapsed_us")?,
            payload_bytes: c.uint("payload_bytes")?,
            payload_blob: c.opt_text("payload_blob")?,
        },
    })
}

fn info(t: TaskRow, full: bool, certificates: Vec<Certificate>) -> TaskInfo {
    let p = t.progress;
    TaskInfo {
        id: format!("{}/{}", t.run, t.task),
        index: t.task,
        name: shown_name(t.run, t.task, t.name),
        state: p.state,
        attempts: p.attempts,
        agent: p.agent.map(|a| a.to_string()),
        // A process is the kernel's to know, not the store's.
        pid: None,
        config: full.then_some(t.config),
        result: p.result,
        exception: p.exception,
        started_ms: p.started_ms,
        ended_ms: p.ended_ms,
        seconds: p.elapsed_us.map(|us| us as f64 / 1e6),
        certificates,
        payload_bytes: p.payload_bytes,
        payload_blob: p.payload_blob,
    }
}

impl Store {
    /// A page of a run's tasks from an index on: `clove sweep results`. At most `max`, and never more than 2000. `full` adds
    /// configuration, result and all certificates; else only the last certificate comes along. A run that isn't
    /// there has no tasks.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn tasks(
        &self,
        run: RunId,
        from: TaskIndex,
        max: u32,
        full: bool,
    ) -> Result<RunTasksReply, StoreError> {
        self.page(run, from, max.clamp(1, PAGE), full).map_err(|e| self.error("read tasks of", e))
    }

    fn page(&self, run: RunId, from: TaskIndex, max: u32, full: bool) -> rusqlite::Result<RunTasksReply> {
        let mut rows = self.task_rows(run, from, max + 1, full)?;
        let next = if rows.len() > max as usize { rows.pop().map(|t| t.task) } else { None };
        let mut certificates = match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => self.certificates_between(run, first.task, last.task, !full)?,
            _ => BTreeMap::new(),
        };
        let tasks = rows
            .into_iter()
            .map(|t| {
                let of_task = certificates.remove(&t.task).unwrap_or_default();
                info(t, full, of_task)
            })
            .collect();
        Ok(RunTasksReply { tasks, next })
    }

    pub(crate) fn task_rows(
        &self,
        run: RunId,
        from: TaskIndex,
        max: u32,
        full: bool,
    ) -> rusqlite::Result<Vec<TaskRow>> {
        let mut s = self.conn().prepare_cached(if full { EVERYTHING } else { STATES })?;
        s.query_map((sought(run), from, max), task_row)?.collect()
    }

    /// Certificates of the tasks in a range, in the order of the attempts; or only each task's last.
    pub(crate) fn certificates_between(
        &self,
        run: RunId,
        first: TaskIndex,
        last: TaskIndex,
        only_last: bool,
    ) -> rusqlite::Result<BTreeMap<TaskIndex, Vec<Certificate>>> {
        let mut s = self.conn().prepare_cached(
            "SELECT task, certificate FROM attempts a WHERE run = ?1 AND task BETWEEN ?2 AND ?3 AND (NOT ?4 OR attempt =
                 (SELECT max(attempt) FROM attempts b WHERE b.run = a.run AND b.task = a.task))
             ORDER BY task, attempt",
        )?;
        let mut rows = s.query((sought(run), first, last, only_last))?;
        let mut found: BTreeMap<TaskIndex, Vec<Certificate>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let c = Cells(row);
            found.entry(c.small("task")?).or_default().push(c.json("certificate")?);
        }
        Ok(found)
    }

    /// Certificates of a task's attempts that ended other than well, in their order.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn certificates(&self, run: RunId, task: TaskIndex) -> Result<Vec<Certificate>, StoreError> {
        let found = self.certificates_between(run, task, task, false);
        found.map(|m| m.into_values().flatten().collect()).map_err(|e| self.error("read certificates of", e))
    }
}
