//! What a run is made of: a program, its tasks, and how they are to be treated.

use crate::limits::LimitsSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A host folder or file that an agent sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// Writable; then the folder must be idmappable to the operator.
    #[serde(default)]
    pub writable: bool,
}

/// A warm Python: what is loaded once, before agents are forked from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateSpec {
    /// Absolute path of the interpreter.
    pub python: String,
    /// Modules to import.
    pub preload: Vec<String>,
    /// `module:function` to call once after the imports; what it returns is shared copy-on-write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
    /// A script that defines `run(config, shared)` and optionally `setup()`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Put in front of `sys.path`.
    pub sys_path: Vec<String>,
    /// What the caller found out about the inputs' state (sizes and times of the files, versions): a change here
    /// makes another template.
    pub inputs_digest: String,
    /// How long its imports and its setup may take together, in milliseconds; ten minutes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
}

/// What is started for each task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Program {
    /// Forked from a template.
    Warm(TemplateSpec),
    /// Executed from its file, with `$CLOVE_CONFIG` naming its configuration and `$CLOVE_RESULT` where its result goes.
    Cold {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// Which system calls a program may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// All but those that are refused by name.
    #[default]
    Default,
    /// Only those that the supported runtimes are known to need. Where the host has no Landlock, nothing is started.
    Strict,
}

impl Profile {
    /// As it is written in sweep files, flags and listings.
    pub fn word(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Strict => "strict",
        }
    }

    pub fn is_default(&self) -> bool {
        *self == Profile::Default
    }
}

/// What makes an attempt worth repeating.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Further attempts after a death (signal, OOM, kill, timeout).
    pub deaths: u32,
    /// Further attempts after an exception or a non-zero exit.
    pub failures: u32,
    /// Wait before the first repetition, in milliseconds; doubles each time.
    pub backoff_ms: u64,
    /// Longest wait in milliseconds.
    pub backoff_max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { deaths: 2, failures: 0, backoff_ms: 500, backoff_max_ms: 30_000 }
    }
}

/// What happens to a task that ran out of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOom {
    /// Retried with the same limit.
    #[default]
    Keep,
    /// Retried with twice the memory, up to the machine's capacity.
    Double,
}

/// A sweep has all its tasks from the start; an executor session gets them one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    Sweep,
    Executor,
}

/// Everything about a run but its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    pub kind: RunKind,
    /// Shown in listings; not unique.
    pub name: String,
    pub program: Program,
    /// Tasks at a time; 0 means as many as there are CPUs.
    #[serde(default)]
    pub jobs: u32,
    #[serde(default)]
    pub limits: LimitsSpec,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default)]
    pub on_oom: OnOom,
    /// Higher runs first.
    #[serde(default)]
    pub priority: i32,
    /// Tasks that one isolated worker takes in a row; 1 means a fresh process for each.
    #[serde(default = "one")]
    pub reuse: u32,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Working folder inside; `/work` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The per-task seeds are derived from it.
    #[serde(default)]
    pub seed: u64,
    /// Shell command that the *submitting client's* kernel runs on the end or a stall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// Ends with the connection that submitted it.
    #[serde(default)]
    pub attached: bool,
    /// Start although a limit can't be enforced here; marked on every listing.
    #[serde(default)]
    pub allow_degraded: bool,
    #[serde(default, skip_serializing_if = "Profile::is_default")]
    pub profile: Profile,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn one() -> u32 {
    1
}

/// One task as it is submitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSpec {
    /// Short label, unique in its run; the index when empty.
    pub name: String,
    /// What `run(config, shared)` gets.
    pub config: Value,
    /// Overrides of the run's limits.
    pub limits: LimitsSpec,
    /// How long it is expected to take, in milliseconds; longest tasks start first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_ms: Option<u64>,
    /// Bytes of the call's tail that are its opaque input (a pickled call); tasks take theirs in order.
    #[serde(skip_serializing_if = "is_zero")]
    pub payload_bytes: u64,
    /// Blob (its digest) with its opaque input, when it is too large for a tail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_blob: Option<String>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Pending,
    /// Waits for its next attempt.
    Backoff,
    Running,
    Done,
    /// Raised, or exited with a code other than 0, as often as its retries allow.
    Failed,
    /// Died as often as its retries allow: set aside.
    Quarantined,
    Cancelled,
}

impl TaskState {
    /// Nothing more will happen to it, unless the run is resumed.
    pub fn is_final(self) -> bool {
        matches!(self, TaskState::Done | TaskState::Failed | TaskState::Quarantined | TaskState::Cancelled)
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Has tasks to do, or is an open executor session.
    Active,
    /// Was active when the kernel died: goes on with `run.resume`.
    Interrupted,
    /// Every task is final.
    Finished,
    Cancelled,
    /// Its template can't be built; see `message`.
    Failed,
}
