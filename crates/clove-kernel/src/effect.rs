//! What the core asks others to do. Effects never change its state; what comes of them arrives as events.

use clove_abi::error::SysError;
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};

/// A reply's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub conn: ConnId,
    pub correlation: u64,
}

/// One effect. Those with a [`ReplyTo`] answer exactly one call.
#[derive(Clone, Debug)]
pub enum Effect {
    Reply {
        to: ReplyTo,
        /// JSON.
        body: Vec<u8>,
        /// Must not leave before everything journaled so far is on the disk.
        durable: bool,
    },
    Fail {
        to: ReplyTo,
        error: SysError,
    },
    /// Start the agent: its state says how.
    Start {
        agent: AgentId,
    },
    /// A waiting worker gets the task that its agent's state names.
    Assign {
        agent: AgentId,
    },
    /// End the whole tree.
    Kill {
        agent: AgentId,
    },
    Signal {
        agent: AgentId,
        signal: i32,
    },
    /// Its output isn't needed any more.
    Forget {
        agent: AgentId,
    },
    ReadLogs {
        to: ReplyTo,
        agent: AgentId,
        offset: u64,
        max: u32,
        follow: bool,
        stream: LogStream,
    },
    WriteStdin {
        to: ReplyTo,
        agent: AgentId,
        tail_key: u64,
        eof: bool,
    },
    Resize {
        to: ReplyTo,
        agent: AgentId,
        rows: u16,
        columns: u16,
    },
    BlobPut {
        to: ReplyTo,
        tail_key: u64,
    },
    BlobGet {
        to: ReplyTo,
        digest: String,
        offset: u64,
        max: u64,
    },
    BlobStat {
        to: ReplyTo,
        digest: String,
    },
    /// The shell knows the rest (process ids, sockets, journal counters).
    KernelInfo {
        to: ReplyTo,
        state_hash: bool,
    },
    KernelHello {
        to: ReplyTo,
        agent: Option<AgentId>,
    },
    Templates {
        to: ReplyTo,
    },
    Artifacts {
        to: ReplyTo,
        run: RunId,
        task: Option<TaskIndex>,
    },
    /// `run.show`: the shell adds the disk used.
    Show {
        to: ReplyTo,
        run: RunId,
    },
    /// The reply's tail is made of these tasks' opaque results.
    Collect {
        to: ReplyTo,
        run: RunId,
        body: Vec<u8>,
        tasks: Vec<TaskIndex>,
    },
    /// The opaque results of these tasks aren't needed any more.
    DropPayloads {
        run: RunId,
        tasks: Vec<TaskIndex>,
    },
    /// The run has ended: run its `notify` command, let its template go.
    RunEnded {
        run: RunId,
    },
    /// Leave, once what was journaled is on the disk.
    Stop,
}

/// Which of an agent's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Out,
    Err,
    Both,
}
