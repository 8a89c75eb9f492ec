//! Family `run`: sweeps and executor sessions.

use super::{args, reply};
use crate::certificate::Certificate;
use crate::ids::{RunId, TaskIndex};
use crate::run::{RunKind, RunSpec, RunState, TaskSpec, TaskState};
use serde_json::Value;
use std::collections::BTreeMap;

/// A run's spec and its tasks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSubmit {
    pub spec: RunSpec,
    #[serde(default)]
    pub tasks: Vec<TaskSpec>,
}

/// Which run.
macro_rules! by_run {
    ($($name:ident),*) => { $(
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { pub run: RunId }
    )* };
}
by_run!(RunClose, RunShow);

/// More tasks for an open executor session.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunPush {
    pub run: RunId,
    pub tasks: Vec<TaskSpec>,
    /// Version of the last `run.collect` answer that was taken in: what it held may be forgotten.
    #[serde(default)]
    pub collected: u64,
}

args! {
    RunList {}
}

/// A page of tasks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTasks {
    pub run: RunId,
    /// First index wanted.
    #[serde(default)]
    pub from: TaskIndex,
    /// At most this many; 500 when absent, never more than 2000.
    #[serde(default)]
    pub max: Option<u32>,
    /// With configurations, results and certificates; else only states.
    #[serde(default)]
    pub full: bool,
}

/// Changes after a version.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunWatch {
    pub run: RunId,
    /// The version that the last answer ended with; 0 for everything.
    #[serde(default)]
    pub since: u64,
    /// Answers empty after this time; 30000 when absent.
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// Ended tasks of an executor session, each once.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCollect {
    pub run: RunId,
    /// The version that the last answer ended with.
    #[serde(default)]
    pub since: u64,
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// A run, or one of its tasks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCancel {
    pub run: RunId,
    #[serde(default)]
    pub task: Option<TaskIndex>,
}

/// Which sweep goes on, and how.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunResume {
    pub run: RunId,
    /// Failed and quarantined tasks get their attempts again too.
    #[serde(default)]
    pub failed: bool,
}

/// A run's kept output, or one task's.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunArtifacts {
    pub run: RunId,
    #[serde(default)]
    pub task: Option<TaskIndex>,
}

reply! {
    RunSubmitReply { run: RunId }
    RunPushReply {
        /// Index of the first task pushed; the others follow.
        first: TaskIndex,
    }
    RunCloseReply {}
    RunListReply { runs: Vec<RunInfo> }
    RunShowReply {
        info: RunInfo,
        spec: RunSpec,
        /// How many tasks ended by which cause, among those failed or quarantined.
        failures: BTreeMap<String, u32>,
        /// How many attempts died by which cause, retried ones too.
        deaths: BTreeMap<String, u32>,
        /// Index, name and seconds of the slowest.
        slowest: Vec<(TaskIndex, String, f64)>,
        /// Bytes of kept output and checkpoints.
        disk_bytes: u64,
        cpu_seconds: f64,
        peak_memory_bytes: u64,
        /// Estimate of the seconds left, when there is something to go by.
        eta_seconds: Option<f64>,
    }
    RunTasksReply {
        tasks: Vec<TaskInfo>,
        /// First index of the next page.
        next: Option<TaskIndex>,
    }
    RunWatchReply {
        version: u64,
        info: RunInfo,
        /// Tasks that changed, as they are now, at most 1000 at a time, in the order of their change.
        tasks: Vec<TaskInfo>,
    }
    RunCollectReply {
        version: u64,
        /// Ended tasks. `payload_bytes` of each says how much of the tail is its opaque result.
        tasks: Vec<TaskInfo>,
        /// No more will come: the session is closed and everything was handed out.
        finished: bool,
    }
    RunCancelReply { cancelled: u32 }
    RunResumeReply {
        /// Tasks that will run (again).
        pending: u32,
        done: u32,
    }
    RunArtifactsReply {
        /// Absolute host folder: `OUT/<task index>/<attempt>/...`.
        folder: String,
    }
    RunInfo {
        id: RunId,
        name: String,
        kind: RunKind,
        state: RunState,
        /// Why it failed, when it did.
        message: String,
        total: u32,
        pending: u32,
        running: u32,
        done: u32,
        failed: u32,
        quarantined: u32,
        cancelled: u32,
        submitted_ms: u64,
        ended_ms: Option<u64>,
        jobs: u32,
    }
    TaskInfo {
        /// `r3/17`.
        id: String,
        index: TaskIndex,
        name: String,
        state: TaskState,
        /// Attempts begun.
        attempts: u32,
        /// The agent of the current or last attempt.
        agent: Option<String>,
        pid: Option<u32>,
        config: Option<Value>,
        result: Option<Value>,
        /// Class, message and traceback when it raised.
        exception: Option<super::ExceptionText>,
        started_ms: Option<u64>,
        ended_ms: Option<u64>,
        /// Wall time of the user's function in the accepted attempt.
        seconds: Option<f64>,
        /// One for each attempt that ended other than well; and the last one's.
        certificates: Vec<Certificate>,
        /// Length of its opaque result.
        payload_bytes: u64,
        /// Blob with its opaque result, when it is too large for a tail.
        payload_blob: Option<String>,
    }
}
