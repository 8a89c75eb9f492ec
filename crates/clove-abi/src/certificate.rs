//! The death certificate that each end of an agent leaves.

use crate::ids::{AgentId, RunId, TaskIndex};
use crate::limits::Limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ended by itself; see the exit code.
    Exit,
    /// A Python task raised an exception; the process itself was fine.
    Exception,
    /// A signal that the program raised itself (a crash): SIGSEGV, SIGABRT, SIGBUS, SIGFPE, ...
    Signal,
    /// The memory limit.
    Oom,
    /// The wall-time limit.
    Timeout,
    /// It failed after the process limit had refused a fork.
    Pids,
    /// It failed with its bounded folders full.
    Disk,
    /// Killed by an operator, another agent or somebody on the host; see `killed_by`.
    Killed,
    /// Cancelled together with its run, or because the command that it was attached to ended.
    Cancelled,
    /// A broken rule, for instance a system call that ends the process.
    Policy,
    /// It couldn't be started.
    Spawn,
    /// The kernel (or the machine) died while it ran.
    Lost,
}

impl Cause {
    /// The word that is used in JSON and as the last line of `clove run`.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Exit => "exit",
            Cause::Exception => "exception",
            Cause::Signal => "signal",
            Cause::Oom => "oom",
            Cause::Timeout => "timeout",
            Cause::Pids => "pids",
            Cause::Disk => "disk",
            Cause::Killed => "killed",
            Cause::Cancelled => "cancelled",
            Cause::Policy => "policy",
            Cause::Spawn => "spawn",
            Cause::Lost => "lost",
        }
    }

    /// A death: the process was ended, as opposed to having ended by itself.
    pub fn is_death(self) -> bool {
        !matches!(self, Cause::Exit | Cause::Exception)
    }
}

/// Who asked for a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KilledBy {
    /// `operator`, `agent`, `kernel` or `outside` (a signal that didn't come through CloveOS).
    pub kind: String,
    /// Host uid of the caller, when it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// Host pid of the caller, when it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Command name of the caller, as the host kernel tells it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

/// Measured use of resources, read from the agent's cgroups at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    pub cpu_user_us: u64,
    pub cpu_system_us: u64,
    pub peak_memory_bytes: u64,
    /// Of the memory at the end, what lay in its tmpfs folders (work folder, /tmp, /dev/shm).
    pub tmpfs_bytes: u64,
    /// Processes that the memory limit killed.
    pub oom_kills: u64,
    /// Forks that the process limit refused.
    pub pids_refused: u64,
    /// Periods in which the CPU quota held it back.
    pub throttled_periods: u64,
    /// Its bounded folders had less than one page, or no inode, free at the end.
    pub disk_full: bool,
}

/// What is known about an agent's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    pub agent: AgentId,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task: Option<TaskIndex>,
    /// From 1.
    #[serde(default)]
    pub attempt: u32,
    pub cause: Cause,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<i32>,
    /// Signal number, when one ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub killed_by: Option<KilledBy>,
    /// One sentence: what happened.
    pub message: String,
    /// One sentence: what to try next; empty when there is nothing to say.
    #[serde(default)]
    pub suggestion: String,
    pub usage: Usage,
    pub limits: Limits,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
    pub ended_ms: u64,
    /// The last lines of its output, as bytes made printable.
    #[serde(default)]
    pub tail: String,
    /// Output that was written but not kept, in bytes.
    #[serde(default)]
    pub output_dropped_bytes: u64,
    /// Walls that the host couldn't provide, e.g. `landlock`.
    #[serde(default)]
    pub missing_walls: Vec<String>,
    /// Limits that the host couldn't enforce; only with `allow_degraded`.
    #[serde(default)]
    pub missing_limits: Vec<String>,
}

impl Certificate {
    /// Wall time in milliseconds.
    pub fn wall_ms(&self) -> u64 {
        self.ended_ms.saturating_sub(self.started_ms)
    }

    /// The exit code that `clove run` hands on: the program's own, 124 timeout, 125 CloveOS, 128+n signal, 137 OOM.
    pub fn shell_code(&self) -> i32 {
        match self.cause {
            Cause::Timeout => 124,
            Cause::Oom => 137,
            Cause::Spawn | Cause::Lost | Cause::Policy => self.exit_code.filter(|c| *c != 0).unwrap_or(125),
            _ => match (self.exit_code, self.signal) {
                (_, Some(s)) => 128 + s,
                (Some(c), None) => c,
                (None, None) => 125,
            },
        }
    }
}
