//! How each row is written.
//!
//! A row about a run or task that isn't there is skipped and counted instead of failing on its foreign key: a window that is
//! applied again may hold rows of what it deletes at its end.

use crate::column::{int, opt_int, to_json};
use crate::row::{AuditRow, Row, RunRow, Taken, TaskProgress, TaskRow};
use crate::word::Word;
use clove_abi::calls::AgentInfo;
use clove_abi::certificate::Certificate;
use clove_abi::ids::{RunId, TaskIndex};
use rusqlite::{Transaction, params};
use serde_json::Value;

pub(crate) enum Written {
    Kept,
    /// What it belongs to isn't there.
    Orphan,
}

fn kept(changed: usize) -> Written {
    if changed == 0 { Written::Orphan } else { Written::Kept }
}

pub(crate) fn row(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<Written> {
    match row {
        Row::RunUpsert(r) => run(tx, r),
        Row::RunState { run, state, message, ended_ms } => {
            let mut s =
                tx.prepare_cached("UPDATE runs SET state = ?2, message = ?3, ended_ms = ?4 WHERE run = ?1")?;
            let values = params![run_key(*run)?, state.word(), message, opt_int("ended_ms", *ended_ms)?];
            s.execute(values).map(kept)
        }
        Row::RunUsage { run, cpu_us, peak_memory_bytes } => {
            let mut s =
                tx.prepare_cached("UPDATE runs SET cpu_us = ?2, peak_memory_bytes = ?3 WHERE run = ?1")?;
            let peak = int("peak_memory_bytes", *peak_memory_bytes)?;
            s.execute(params![run_key(*run)?, int("cpu_us", *cpu_us)?, peak]).map(kept)
        }
        Row::RunForgotten { run } => {
            let key = run_key(*run)?;
            tx.prepare_cached("DELETE FROM agents WHERE run = ?1")?.execute([key])?;
            // Tasks and attempts follow by their foreign keys.
            tx.prepare_cached("DELETE FROM runs WHERE run = ?1")?.execute([key])?;
            Ok(Written::Kept)
        }
        Row::TaskUpsert(t) => task(tx, t),
        Row::TaskState { run, task, progress } => task_state(tx, *run, *task, progress),
        Row::TasksTaken { run, tasks, taken } => tasks_taken(tx, *run, tasks, taken),
        Row::Attempt { certificate } => attempt(tx, certificate),
        Row::AgentUpsert(a) => agent(tx, a),
        Row::AgentEnded { certificate, ended } => agent_ended(tx, certificate, ended),
        Row::Audit(a) => audit(tx, a),
    }
}

fn run_key(run: RunId) -> rusqlite::Result<i64> {
    int("run", run.0)
}

fn run(tx: &Transaction<'_>, r: &RunRow) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "INSERT INTO runs (run, name, kind, state, message, jobs, submitted_ms, ended_ms, cpu_us, peak_memory_bytes,
             taken_done, taken_failed, taken_quarantined, taken_cancelled, spec)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (run) DO UPDATE SET name = ?2, kind = ?3, state = ?4, message = ?5, jobs = ?6, submitted_ms = ?7,
             ended_ms = ?8, cpu_us = ?9, peak_memory_bytes = ?10, taken_done = ?11, taken_failed = ?12,
             taken_quarantined = ?13, taken_cancelled = ?14, spec = ?15",
    )?;
    s.execute(params![
        run_key(r.run)?,
        r.spec.name,
        r.spec.kind.word(),
        r.state.word(),
        r.message,
        r.jobs,
        int("submitted_ms", r.submitted_ms)?,
        opt_int("ended_ms", r.ended_ms)?,
        int("cpu_us", r.cpu_us)?,
        int("peak_memory_bytes", r.peak_memory_bytes)?,
        r.taken.done,
        r.taken.failed,
        r.taken.quarantined,
        r.taken.cancelled,
        to_json("spec", &r.spec)?,
    ])
    .map(kept)
}

/// JSON text of a result; none for `null`.
fn result_text(result: Option<&Value>) -> rusqlite::Result<Option<String>> {
    result.filter(|v| !v.is_null()).map(|v| to_json("result", v)).transpose()
}

fn task(tx: &Transaction<'_>, t: &TaskRow) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "INSERT INTO tasks (run, task, name, config, state, attempts, agent, started_ms, ended_ms, elapsed_us,
             payload_bytes, payload_blob, exception_class, exception_message, exception_traceback, result)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
         WHERE EXISTS (SELECT 1 FROM runs WHERE run = ?1)
         ON CONFLICT (run, task) DO UPDATE SET name = ?3, config = ?4, state = ?5, attempts = ?6, agent = ?7,
             started_ms = ?8, ended_ms = ?9, elapsed_us = ?10, payload_bytes = ?11, payload_blob = ?12,
             exception_class = ?13, exception_message = ?14, exception_traceback = ?15, result = ?16",
    )?;
    let p = &t.progress;
    let raised = p.exception.as_ref();
    s.execute(params![
        run_key(t.run)?,
        t.task,
        t.name,
        to_json("config", &t.config)?,
        p.state.word(),
        p.attempts,
        p.agent.map(|a| a.to_string()),
        opt_int("started_ms", p.started_ms)?,
        opt_int("ended_ms", p.ended_ms)?,
        opt_int("elapsed_us", p.elapsed_us)?,
        int("payload_bytes", p.payload_bytes)?,
        p.payload_blob,
        raised.map(|e| &e.class),
        raised.map(|e| &e.message),
        raised.map(|e| &e.traceback),
        result_text(p.result.as_ref())?,
    ])
    .map(kept)
}

fn task_state(
    tx: &Transaction<'_>,
    run: RunId,
    task: TaskIndex,
    p: &TaskProgress,
) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "UPDATE tasks SET state = ?3, attempts = ?4, agent = ?5, started_ms = ?6, ended_ms = ?7, elapsed_us = ?8,
             payload_bytes = ?9, payload_blob = ?10, exception_class = ?11, exception_message = ?12,
             exception_traceback = ?13, result = ?14
         WHERE run = ?1 AND task = ?2",
    )?;
    let raised = p.exception.as_ref();
    s.execute(params![
        run_key(run)?,
        task,
        p.state.word(),
        p.attempts,
        p.agent.map(|a| a.to_string()),
        opt_int("started_ms", p.started_ms)?,
        opt_int("ended_ms", p.ended_ms)?,
        opt_int("elapsed_us", p.elapsed_us)?,
        int("payload_bytes", p.payload_bytes)?,
        p.payload_blob,
        raised.map(|e| &e.class),
        raised.map(|e| &e.message),
        raised.map(|e| &e.traceback),
        result_text(p.result.as_ref())?,
    ])
    .map(kept)
}

fn tasks_taken(
    tx: &Transaction<'_>,
    run: RunId,
    tasks: &[TaskIndex],
    taken: &Taken,
) -> rusqlite::Result<Written> {
    let key = run_key(run)?;
    let mut delete = tx.prepare_cached("DELETE FROM tasks WHERE run = ?1 AND task = ?2")?;
    for task in tasks {
        delete.execute(params![key, task])?;
    }
    let mut s = tx.prepare_cached(
        "UPDATE runs SET taken_done = ?2, taken_failed = ?3, taken_quarantined = ?4, taken_cancelled = ?5 WHERE run = ?1",
    )?;
    s.execute(params![key, taken.done, taken.failed, taken.quarantined, taken.cancelled]).map(kept)
}

fn attempt(tx: &Transaction<'_>, c: &Certificate) -> rusqlite::Result<Written> {
    let (Some(run), Some(task)) = (c.run, c.task) else {
        return Ok(Written::Orphan);
    };
    let mut s = tx.prepare_cached(
        "INSERT INTO attempts (run, task, attempt, agent, cause, exit_code, signal, message, started_ms, ended_ms,
             peak_memory_bytes, certificate)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
         WHERE EXISTS (SELECT 1 FROM tasks WHERE run = ?1 AND task = ?2)
         ON CONFLICT (run, task, attempt) DO UPDATE SET agent = ?4, cause = ?5, exit_code = ?6, signal = ?7, message = ?8,
             started_ms = ?9, ended_ms = ?10, peak_memory_bytes = ?11, certificate = ?12",
    )?;
    s.execute(params![
        run_key(run)?,
        task,
        c.attempt,
        c.agent.to_string(),
        c.cause.word(),
        c.exit_code,
        c.signal,
        c.message,
        int("started_ms", c.started_ms)?,
        int("ended_ms", c.ended_ms)?,
        int("peak_memory_bytes", c.usage.peak_memory_bytes)?,
        to_json("certificate", c)?,
    ])
    .map(kept)
}

fn agent(tx: &Transaction<'_>, a: &AgentInfo) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "INSERT INTO agents (agent, name, kind, state, run, task, attempt, command, pid, started_ms, ended_ms,
             memory_limit_bytes, ended, missing_walls, missing_limits, profile)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (agent) DO UPDATE SET name = ?2, kind = ?3, state = ?4, run = ?5, task = ?6, attempt = ?7,
             command = ?8, pid = ?9, started_ms = ?10, ended_ms = ?11, memory_limit_bytes = ?12, ended = ?13,
             missing_walls = ?14, missing_limits = ?15, profile = ?16",
    )?;
    s.execute(params![
        a.id.to_string(),
        a.name,
        a.kind,
        a.state.word(),
        a.run.map(run_key).transpose()?,
        a.task,
        a.attempt,
        a.command,
        a.pid,
        int("started_ms", a.started_ms)?,
        opt_int("ended_ms", a.ended_ms)?,
        int("memory_limit_bytes", a.memory_limit_bytes)?,
        a.ended,
        to_json("missing_walls", &a.missing_walls)?,
        to_json("missing_limits", &a.missing_limits)?,
        a.profile.word(),
    ])
    .map(kept)
}

/// An agent whose start isn't known (its record was pruned) is listed without kind and command.
fn agent_ended(tx: &Transaction<'_>, c: &Certificate, ended: &str) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "INSERT INTO agents (agent, name, kind, state, run, task, attempt, command, pid, started_ms, ended_ms,
             memory_limit_bytes, ended, missing_walls, missing_limits, certificate)
         VALUES (?1, ?2, '', 'ended', ?3, ?4, ?5, '', NULL, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (agent) DO UPDATE SET state = 'ended', run = ?3, task = ?4, attempt = ?5, pid = NULL,
             started_ms = ?6, ended_ms = ?7, memory_limit_bytes = ?8, ended = ?9, missing_walls = ?10,
             missing_limits = ?11, certificate = ?12",
    )?;
    s.execute(params![
        c.agent.to_string(),
        c.name,
        c.run.map(run_key).transpose()?,
        c.task,
        c.attempt,
        int("started_ms", c.started_ms)?,
        int("ended_ms", c.ended_ms)?,
        int("memory_limit_bytes", c.limits.memory_bytes)?,
        ended,
        to_json("missing_walls", &c.missing_walls)?,
        to_json("missing_limits", &c.missing_limits)?,
        to_json("certificate", c)?,
    ])
    .map(kept)
}

fn audit(tx: &Transaction<'_>, a: &AuditRow) -> rusqlite::Result<Written> {
    let mut s = tx.prepare_cached(
        "INSERT OR REPLACE INTO audit (seq, wall_ms, kind, actor, agent, run) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    s.execute(params![
        int("seq", a.seq)?,
        int("wall_ms", a.wall_ms)?,
        a.kind,
        a.actor,
        a.agent.map(|a| a.to_string()),
        a.run.map(run_key).transpose()?,
    ])
    .map(kept)
}
