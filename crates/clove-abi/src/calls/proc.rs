//! Family `proc`: cold agents, and looking after agents of any kind.

use super::{args, reply};
use crate::certificate::Certificate;
use crate::ids::{AgentId, RunId, TaskIndex};
use crate::limits::{Limits, LimitsSpec};
use crate::run::{Mount, Profile};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

args! {
    ProcSpawn {
        /// Unique among live agents; made from the program when absent.
        #[serde(default)]
        name: Option<String>,
        /// Program and arguments. A program without a slash is searched in the environment's PATH, inside.
        argv: Vec<String>,
        #[serde(default)]
        limits: LimitsSpec,
        /// The whole environment; the kernel adds its own `CLOVE_*` names.
        #[serde(default)]
        env: BTreeMap<String, String>,
        #[serde(default)]
        mounts: Vec<Mount>,
        #[serde(default)]
        cwd: Option<String>,
        /// A terminal of its own, of this many rows and columns.
        #[serde(default)]
        tty: Option<(u16, u16)>,
        /// Standard input will be written with `proc.stdin`; else it is empty.
        #[serde(default)]
        stdin: bool,
        /// Ends with the connection that spawned it. Once its output limit is reached, its output goes on no faster
        /// than the process that spawned it reads it with `proc.logs`, and nothing is dropped.
        #[serde(default)]
        attached: bool,
        /// Which system calls it may make.
        #[serde(default)]
        profile: Profile,
        #[serde(default)]
        allow_degraded: bool,
        /// Forget it (its certificate and output) once it has ended and was waited for.
        #[serde(default)]
        remove: bool,
    }
    ProcWait {
        /// Id or name.
        target: String,
        /// Answers with no certificate after this time; waits for ever when absent.
        #[serde(default)]
        timeout_ms: Option<u64>,
    }
    ProcKill {
        target: String,
        /// SIGKILL to the whole tree when absent; else this signal to its program.
        #[serde(default)]
        signal: Option<i32>,
    }
    ProcList {
        /// Ended ones too.
        #[serde(default)]
        all: bool,
    }
    ProcInspect {
        target: String,
    }
    ProcLogs {
        target: String,
        /// First byte wanted.
        #[serde(default)]
        offset: u64,
        /// At most this many bytes; 65536 when absent.
        #[serde(default)]
        max: Option<u32>,
        /// Wait until there is something at `offset`, or the agent has ended.
        #[serde(default)]
        follow: bool,
        /// `out`, `err` or both in the order of their arrival when absent.
        #[serde(default)]
        stream: Option<String>,
    }
    ProcStdin {
        target: String,
        /// Close it after the tail.
        #[serde(default)]
        eof: bool,
    }
    ProcResize {
        target: String,
        rows: u16,
        columns: u16,
    }
}

/// Where an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Starting,
    Running,
    /// Its end was asked for.
    Ending,
    Ended,
}

reply! {
    ProcSpawnReply {
        agent: AgentId,
        name: String,
        limits: Limits,
        missing_walls: Vec<String>,
        missing_limits: Vec<String>,
    }
    ProcWaitReply {
        /// Absent when the time ran out first.
        certificate: Option<Certificate>,
        /// What `clove run` exits with.
        code: Option<i32>,
    }
    ProcKillReply {
        agent: AgentId,
        name: String,
    }
    ProcListReply {
        agents: Vec<AgentInfo>,
    }
    ProcInspectReply {
        info: AgentInfo,
        limits: Limits,
        mounts: Vec<Mount>,
        argv: Vec<String>,
        /// Names of its environment's variables, not their values.
        env_names: Vec<String>,
        certificate: Option<Certificate>,
    }
    ProcLogsReply {
        /// Where the next read starts. The bytes of this answer are the last before it; what lies between `offset` and
        /// them wasn't kept, and this reader can't have it any more.
        next: u64,
        /// The agent has ended and this reached the end.
        eof: bool,
        /// Bytes of both streams that aren't kept, being beyond its output limit.
        dropped: u64,
    }
    ProcStdinReply {}
    ProcResizeReply {}
    AgentInfo {
        /// Same as `agent`, as every listed object has an `id`.
        id: AgentId,
        name: String,
        /// `cold`, `warm` or `worker` (a warm one that takes several tasks).
        kind: String,
        state: AgentState,
        run: Option<RunId>,
        task: Option<TaskIndex>,
        attempt: u32,
        /// First words of what it runs.
        command: String,
        /// Host pid of its program, when it lives.
        pid: Option<u32>,
        started_ms: u64,
        ended_ms: Option<u64>,
        memory_limit_bytes: u64,
        /// `exit 0`, `oom`, ... when it has ended.
        ended: Option<String>,
        missing_walls: Vec<String>,
        missing_limits: Vec<String>,
        /// Which system calls it may make.
        #[serde(default)]
        profile: Profile,
    }
}
