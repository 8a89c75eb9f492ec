//! What an input did to the state. The journal keeps changes, and recovery applies them, so a later build needn't
//! decide again what an earlier one decided.

use crate::input::Tail;
use crate::state::{Agent, Ending};
use clove_abi::calls::ExceptionText;
use clove_abi::certificate::{Certificate, KilledBy};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::limits::Limits;
use clove_abi::run::{RunSpec, RunState, TaskSpec, TaskState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One change. [`crate::State::apply`] is the only place that carries it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Booted {
        capacity_bytes: u64,
        cpus: u32,
        defaults: Limits,
    },
    AgentCreated {
        agent: Box<Agent>,
    },
    AgentReady {
        id: AgentId,
        pid: u32,
        wall_ms: u64,
        missing_walls: Vec<String>,
        missing_limits: Vec<String>,
    },
    /// A deadline on the monotonic clock was set or cleared.
    AgentDeadline {
        id: AgentId,
        mono_ms: Option<u64>,
    },
    /// Its end was asked for.
    AgentEnding {
        id: AgentId,
        why: Ending,
    },
    /// A signal is sent to its program.
    AgentSignalled {
        id: AgentId,
        signal: i32,
        by: KilledBy,
    },
    AgentEnded {
        id: AgentId,
        certificate: Box<Certificate>,
    },
    /// Its slot is free; nothing remembers it but the journal.
    AgentForgotten {
        id: AgentId,
    },
    /// A worker got its next task, or has none.
    WorkerTask {
        id: AgentId,
        task: Option<TaskIndex>,
        attempt: u32,
    },
    RunCreated {
        id: RunId,
        spec: Box<RunSpec>,
        submitted_ms: u64,
        conn: Option<ConnId>,
    },
    TasksAdded {
        run: RunId,
        tasks: Vec<TaskSpec>,
        tails: Vec<Tail>,
    },
    RunClosed {
        run: RunId,
    },
    RunMoved {
        run: RunId,
        state: RunState,
        message: String,
        ended_ms: Option<u64>,
    },
    TaskStarted {
        run: RunId,
        task: TaskIndex,
        agent: AgentId,
        attempt: u32,
        wall_ms: u64,
    },
    TaskDone {
        run: RunId,
        task: TaskIndex,
        result: Option<Value>,
        opaque: Tail,
        blob: Option<String>,
        elapsed_us: u64,
        wall_ms: u64,
    },
    /// The attempt went wrong. `state` is what follows: backoff, pending (the attempt doesn't count) or a final one.
    TaskFailed {
        run: RunId,
        task: TaskIndex,
        state: TaskState,
        exception: Option<ExceptionText>,
        opaque: Tail,
        certificate: Option<Box<Certificate>>,
        /// Due time of the next attempt, monotonic.
        due_mono_ms: u64,
        /// Memory limit of the next attempts, when it was raised.
        memory_bytes: Option<u64>,
        wall_ms: u64,
    },
    /// Back to pending, with its counters at zero (`run.resume`).
    TaskReset {
        run: RunId,
        task: TaskIndex,
    },
    /// Its wait is over.
    TaskDue {
        run: RunId,
        task: TaskIndex,
    },
    TaskCancelled {
        run: RunId,
        task: TaskIndex,
        wall_ms: u64,
    },
    /// Ended tasks of an executor session that their owner has taken in.
    TasksForgotten {
        run: RunId,
        tasks: Vec<TaskIndex>,
    },
    /// CPU time that an ended agent of the run has used.
    RunCharged {
        run: RunId,
        cpu_us: u64,
        peak_memory_bytes: u64,
    },
}
