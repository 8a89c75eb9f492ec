//! The state as callers see it.

use crate::judge::signal_name;
use crate::state::{Agent, Run, State, Task};
use clove_abi::calls::{AgentInfo, RunInfo, TaskInfo};
use clove_abi::certificate::{Cause, Certificate};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::{AgentId, RunId, TaskIndex};
use clove_abi::run::{Program, RunState, TaskState};
use serde_json::Value;

/// Finds an agent by id or by the name of a live one, else of the latest that had it.
///
/// # Errors
/// [`ErrorCode::Dead`] for a stale id, [`ErrorCode::NoAgent`] for anything else unknown.
pub fn find_agent(state: &State, target: &str) -> Result<AgentId, SysError> {
    if let Some(id) = state.names.get(target) {
        return Ok(*id);
    }
    if let Ok(id) = target.parse::<AgentId>() {
        if state.agents.contains_key(&id) {
            return Ok(id);
        }
        if state.generations.get(id.slot as usize).is_some_and(|g| *g >= id.generation) {
            return Err(SysError::new(
                ErrorCode::Dead,
                format!("{id} has ended and isn't remembered any more"),
            ));
        }
    }
    if let Some((run, index)) = target.split_once('/')
        && let (Ok(run), Ok(index)) = (run.parse::<RunId>(), index.parse::<TaskIndex>())
    {
        let task = find_run(state, run)?.tasks.get(&index);
        let task =
            task.ok_or_else(|| SysError::new(ErrorCode::NoTask, format!("{run} has no task {index}")))?;
        return task.agent.filter(|id| state.agents.contains_key(id)).ok_or_else(|| {
            SysError::new(
                ErrorCode::NoAgent,
                format!("task {run}/{index} has no agent that is still remembered"),
            )
        });
    }
    let latest = state.ended.iter().rev().find(|id| state.agents.get(id).is_some_and(|a| a.name == target));
    latest.copied().ok_or_else(|| {
        let shown: String = target.chars().take(80).collect();
        SysError::new(ErrorCode::NoAgent, format!("no agent is named `{shown}`"))
            .hint("clove ps -a lists agents")
    })
}

/// The error for an unknown run.
pub fn no_run(run: RunId) -> SysError {
    SysError::new(ErrorCode::NoRun, format!("there is no run {run}")).hint("clove sweep ls lists runs")
}

/// A run that must exist.
///
/// # Errors
/// [`ErrorCode::NoRun`].
pub fn find_run(state: &State, run: RunId) -> Result<&Run, SysError> {
    state.runs.get(&run).ok_or_else(|| no_run(run))
}

/// `exit 0`, `oom`, `signal SIGSEGV`, ...
pub fn ended_word(c: &Certificate) -> String {
    match (c.cause, c.exit_code, c.signal) {
        (Cause::Exit, Some(code), _) => format!("exit {code}"),
        (Cause::Signal, _, Some(s)) => format!("signal {}", signal_name(s)),
        (cause, _, _) => cause.word().to_owned(),
    }
}

/// One line of `clove ps`.
pub fn agent(state: &State, a: &Agent) -> AgentInfo {
    let command = match a.run.and_then(|r| state.runs.get(&r)) {
        Some(r) => match &r.spec.program {
            Program::Warm(t) => match (&t.script, &t.setup) {
                (Some(s), _) => s.rsplit('/').next().unwrap_or_default().to_owned(),
                (None, Some(s)) => s.clone(),
                (None, None) => r.spec.name.clone(),
            },
            Program::Cold { argv } => argv.join(" "),
        },
        None => a.argv.join(" "),
    };
    AgentInfo {
        id: a.id,
        name: a.name.clone(),
        kind: a.kind.word().to_owned(),
        state: a.state,
        run: a.run,
        task: a.task,
        attempt: a.attempt,
        command: command.chars().take(200).collect(),
        pid: a.pid,
        started_ms: a.started_wall_ms,
        ended_ms: a.certificate.as_ref().map(|c| c.ended_ms),
        memory_limit_bytes: a.limits.memory_bytes,
        ended: a.certificate.as_ref().map(|c| ended_word(c)),
        missing_walls: a.missing_walls.clone(),
        missing_limits: a.missing_limits.clone(),
        profile: a.profile,
    }
}

/// One line of `clove sweep ls`.
pub fn run(state: &State, r: &Run) -> RunInfo {
    RunInfo {
        id: r.id,
        name: r.spec.name.clone(),
        kind: r.spec.kind,
        state: r.state,
        message: r.message.clone(),
        total: r.total(),
        pending: r.count(TaskState::Pending) + r.count(TaskState::Backoff),
        running: r.count(TaskState::Running),
        done: r.count(TaskState::Done),
        failed: r.count(TaskState::Failed),
        quarantined: r.count(TaskState::Quarantined),
        cancelled: r.count(TaskState::Cancelled),
        submitted_ms: r.submitted_wall_ms,
        ended_ms: r.ended_wall_ms,
        jobs: r.jobs(state.cpus),
    }
}

/// Bytes of tasks in one answer, about: a frame's body carries twice as much.
const PAGE_BYTES: usize = 8 << 20;
/// What a task takes up in an answer beside what others have written: names, numbers, its last certificate.
const TASK_BYTES: usize = 8 << 10;

/// What goes into one answer: so many tasks, and so many bytes; at least one.
pub struct Page {
    left: usize,
    bytes: usize,
}

impl Page {
    /// An empty one.
    pub fn new(most: usize) -> Page {
        Page { left: most.max(1), bytes: 0 }
    }

    /// Whether this task goes in, too.
    pub fn takes(&mut self, t: &Task, full: bool) -> bool {
        let text = t
            .exception
            .as_ref()
            .map_or(0, |e| text_len(&e.class) + text_len(&e.message) + text_len(&e.traceback));
        let certificates = if full { t.certificates.len() } else { 1 };
        let values = if full { json_len(&t.spec.config) + t.result.as_ref().map_or(0, json_len) } else { 0 };
        let bytes = certificates * TASK_BYTES + text + values;
        if self.left == 0 || (self.bytes > 0 && self.bytes + bytes > PAGE_BYTES) {
            return false;
        }
        self.left -= 1;
        self.bytes += bytes;
        true
    }
}

/// Length of a value's JSON, or a little more.
pub fn json_len(v: &Value) -> usize {
    match v {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 25,
        Value::String(s) => text_len(s),
        Value::Array(a) => 2 + a.iter().map(|v| json_len(v) + 1).sum::<usize>(),
        Value::Object(o) => 2 + o.iter().map(|(k, v)| text_len(k) + json_len(v) + 2).sum::<usize>(),
    }
}

fn text_len(s: &str) -> usize {
    let more = |b: u8| match b {
        b'"' | b'\\' => 1,
        0..=0x1f => 5,
        _ => 0,
    };
    2 + s.len() + s.bytes().map(more).sum::<usize>()
}

/// One task; `full` adds configuration, result, exception and certificates.
pub fn task(state: &State, r: &Run, index: TaskIndex, full: bool) -> TaskInfo {
    let t = r.tasks.get(&index);
    let agent = t.and_then(|t| t.agent).and_then(|id| state.agents.get(&id));
    TaskInfo {
        id: format!("{}/{index}", r.id),
        index,
        name: r.task_name(index),
        state: t.map_or(TaskState::Cancelled, |t| t.state),
        attempts: t.map_or(0, |t| t.attempts),
        agent: agent.map(|a| a.id.to_string()),
        pid: agent.and_then(|a| a.pid),
        config: t.filter(|_| full).map(|t| t.spec.config.clone()),
        result: t.filter(|_| full).and_then(|t| t.result.clone()),
        exception: t.and_then(|t| t.exception.clone()),
        started_ms: t.and_then(|t| t.started_wall_ms),
        ended_ms: t.and_then(|t| t.ended_wall_ms),
        seconds: t.and_then(|t| t.elapsed_us).map(|us| us as f64 / 1e6),
        certificates: match t {
            Some(t) if full => t.certificates.clone(),
            Some(t) => t.certificates.last().cloned().into_iter().collect(),
            None => Vec::new(),
        },
        payload_bytes: t.map_or(0, |t| t.opaque.bytes),
        payload_blob: t.and_then(|t| t.blob.clone()),
    }
}

/// The parts of `run.show` that follow from the state; the shell adds the disk used.
pub fn show(state: &State, r: &Run, wall_ms: u64) -> clove_abi::calls::RunShowReply {
    let mut failures = std::collections::BTreeMap::new();
    let mut deaths = std::collections::BTreeMap::new();
    let mut slowest: Vec<(u64, TaskIndex)> = Vec::new();
    for (i, t) in &r.tasks {
        for c in &t.certificates {
            if c.cause.is_death() {
                *deaths.entry(c.cause.word().to_owned()).or_insert(0) += 1;
            }
        }
        if matches!(t.state, TaskState::Failed | TaskState::Quarantined) {
            let word = match (t.exception.is_some(), t.certificates.last()) {
                (true, None) => "exception".to_owned(),
                (_, Some(c)) => c.cause.word().to_owned(),
                (false, None) => "unknown".to_owned(),
            };
            *failures.entry(word).or_insert(0) += 1;
        }
        if let Some(us) = t.elapsed_us {
            slowest.push((us, *i));
        }
    }
    slowest.sort_unstable_by(|a, b| b.cmp(a));
    slowest.truncate(5);
    let done = u64::from(r.count(TaskState::Done));
    let left =
        u64::from(r.count(TaskState::Pending) + r.count(TaskState::Backoff) + r.count(TaskState::Running));
    let elapsed = wall_ms.saturating_sub(r.submitted_wall_ms);
    let eta_seconds = (r.state == RunState::Active && done > 0 && left > 0)
        .then(|| elapsed as f64 / 1000.0 / done as f64 * left as f64);
    clove_abi::calls::RunShowReply {
        info: run(state, r),
        spec: r.spec.clone(),
        failures,
        deaths,
        slowest: slowest.iter().map(|(us, i)| (*i, r.task_name(*i), *us as f64 / 1e6)).collect(),
        disk_bytes: 0,
        cpu_seconds: r.cpu_us as f64 / 1e6,
        peak_memory_bytes: r.peak_memory_bytes,
        eta_seconds,
    }
}
