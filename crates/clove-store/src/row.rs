//! What the store is told: rows whose values are absolute, so that telling it twice changes nothing.

use clove_abi::calls::{AgentInfo, ExceptionText};
use clove_abi::certificate::Certificate;
use clove_abi::ids::{AgentId, RunId, TaskIndex};
use clove_abi::run::{RunSpec, RunState, TaskState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One change of the projection. Nothing here is an increment: a window of the journal that is applied again, from
/// any earlier start, ends in the same content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A run as it is now. Its tasks stay as they are.
    RunUpsert(Box<RunRow>),
    /// A run has moved on.
    RunState { run: RunId, state: RunState, message: String, ended_ms: Option<u64> },
    /// What its ended agents have used so far, in all.
    RunUsage { run: RunId, cpu_us: u64, peak_memory_bytes: u64 },
    /// The run goes, with its tasks, attempts and agents. Its audit rows stay.
    RunForgotten { run: RunId },
    /// A task as it is now. Its attempts stay as they are.
    TaskUpsert(Box<TaskRow>),
    /// A task has moved on.
    TaskState { run: RunId, task: TaskIndex, progress: Box<TaskProgress> },
    /// Ended tasks of an executor session that their owner has taken in go; `taken` counts all that ever went.
    TasksTaken { run: RunId, tasks: Vec<TaskIndex>, taken: Taken },
    /// An attempt at a task ended other than well. The certificate names run, task and attempt.
    Attempt { certificate: Box<Certificate> },
    /// An agent as it is listed now. A certificate that is there already stays.
    AgentUpsert(Box<AgentInfo>),
    /// An agent has ended. `ended` is the word of listings: `exit 0`, `oom`, ...
    AgentEnded { certificate: Box<Certificate>, ended: String },
    /// A journal record, for finding it again.
    Audit(AuditRow),
}

/// A run without its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    pub run: RunId,
    pub spec: RunSpec,
    pub state: RunState,
    /// Why it failed, when it did.
    pub message: String,
    /// Tasks at a time, as resolved by the kernel.
    pub jobs: u32,
    pub submitted_ms: u64,
    pub ended_ms: Option<u64>,
    /// CPU time of its ended agents, microseconds.
    pub cpu_us: u64,
    pub peak_memory_bytes: u64,
    pub taken: Taken,
}

/// How many ended tasks an executor session's owner has taken in; they count, but aren't held any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub done: u32,
    pub failed: u32,
    pub quarantined: u32,
    pub cancelled: u32,
}

/// A task: what it was given, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    pub run: RunId,
    pub task: TaskIndex,
    /// `r3-17` is shown when it is empty.
    pub name: String,
    pub config: Value,
    pub progress: TaskProgress,
}

/// Everything of a task that changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    pub state: TaskState,
    /// Attempts begun.
    pub attempts: u32,
    /// The agent of the current or last attempt.
    pub agent: Option<AgentId>,
    /// What `run(config, shared)` returned. JSON's `null` is kept as `None`: on the wire they are the same.
    pub result: Option<Value>,
    pub exception: Option<ExceptionText>,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Wall time of the user's function in the accepted attempt, microseconds.
    pub elapsed_us: Option<u64>,
    /// Length of its opaque result.
    pub payload_bytes: u64,
    /// Blob with its opaque result, when it is too large for a tail.
    pub payload_blob: Option<String>,
}

/// Which record, when, what kind, by whom, about what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Name of the syscall or of the event: `proc.kill`, `exited`, ...
    pub kind: String,
    /// `operator:UID:PID`, an agent's id, or `kernel`.
    pub actor: String,
    /// The agent that it is about.
    pub agent: Option<AgentId>,
    /// The run that it is about.
    pub run: Option<RunId>,
}
