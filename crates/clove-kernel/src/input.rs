//! What the core is told: one event at a time, with the time at which it happened.

use clove_abi::certificate::Usage;
use clove_abi::ids::{AgentId, ConnId};
use clove_abi::limits::Limits;
use clove_abi::table::{Call, Sysno};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One input. Time is part of it, as the core has no clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// Milliseconds since the Unix epoch: for stamps that people read.
    pub wall_ms: u64,
    /// Milliseconds of a clock that never jumps, from an arbitrary start: for deadlines.
    pub mono_ms: u64,
    pub event: Event,
}

/// Who makes a call, as the socket tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    Operator { uid: u32, pid: u32, command: String },
    Agent(AgentId),
}

/// The raw bytes behind a call, which the core never holds: length and digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    pub bytes: u64,
    /// Where the shell keeps them.
    pub key: u64,
}

/// How a program ended (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

/// What happened.
#[expect(
    clippy::large_enum_variant,
    reason = "an event lives for one turn, and the large one is the common one"
)]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The kernel has started: what the host offers, and what an agent gets by default.
    Boot { capacity_bytes: u64, cpus: u32, defaults: Limits },
    Call {
        conn: ConnId,
        correlation: u64,
        peer: Peer,
        #[serde(with = "call_json")]
        call: Call,
        #[serde(default)]
        tail: Tail,
    },
    /// A connection has ended.
    Gone { conn: ConnId },
    /// The agent's walls stand and its program runs.
    Ready { agent: AgentId, pid: u32, missing_walls: Vec<String>, missing_limits: Vec<String> },
    /// Nothing of it was started, or nothing is left. `code` is 126 or 127 when only the program is to blame.
    SpawnFailed { agent: AgentId, stage: String, message: String, hint: String, code: Option<i32> },
    /// Its whole tree is gone. A cold task's result file is in `result`, or why it couldn't be read.
    Exited {
        agent: AgentId,
        status: ExitStatus,
        usage: Usage,
        output_tail: String,
        output_dropped: u64,
        result: Option<Value>,
        result_error: Option<String>,
    },
    /// The run's template can't be built.
    TemplateFailed { run: clove_abi::ids::RunId, message: String },
    /// A deadline that the core named has come.
    Timer,
}

impl Event {
    /// Short name for the journal.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Boot { .. } => "boot",
            Event::Call { call, .. } => call.sysno().spec().name,
            Event::Gone { .. } => "gone",
            Event::Ready { .. } => "ready",
            Event::SpawnFailed { .. } => "spawn_failed",
            Event::Exited { .. } => "exited",
            Event::TemplateFailed { .. } => "template_failed",
            Event::Timer => "timer",
        }
    }
}

/// A call in the journal: its name and its arguments.
mod call_json {
    use super::*;
    use serde::de::Error as _;

    #[derive(Serialize, Deserialize)]
    struct Named {
        name: String,
        args: Value,
    }

    pub fn serialize<S: serde::Serializer>(c: &Call, s: S) -> Result<S::Ok, S::Error> {
        Named { name: c.sysno().spec().name.to_owned(), args: c.to_json() }.serialize(s)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Call, D::Error> {
        let named = Named::deserialize(d)?;
        let spec = clove_abi::TABLE
            .iter()
            .find(|s| s.name == named.name)
            .ok_or_else(|| D::Error::custom(format!("no row is named {}", named.name)))?;
        let sysno = Sysno::from_number(spec.number).ok_or_else(|| D::Error::custom("row without number"))?;
        Call::decode(sysno, named.args.to_string().as_bytes()).map_err(D::Error::custom)
    }
}
