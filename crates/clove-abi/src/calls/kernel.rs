//! Family `kernel`: who answers, whether it lives, how it ends.

use super::{args, reply};
use crate::ids::AgentId;
use crate::limits::Limits;

args! {
    KernelHello {
        /// Version of the client, for example `0.1.0`.
        #[serde(default)]
        version: String,
        /// Build id of the client; a client of another build may ask an idle kernel to leave.
        #[serde(default)]
        build: String,
        /// What the client is, for example `clove run`.
        #[serde(default)]
        client: String,
    }
    KernelInfo {
        /// Compute the hash of the whole state too; takes milliseconds with large runs.
        #[serde(default)]
        state_hash: bool,
    }
    KernelPing {}
    KernelShutdown {
        /// End also when agents run; they are killed.
        #[serde(default)]
        force: bool,
    }
}

reply! {
    KernelHelloReply {
        version: String,
        build: String,
        abi: u8,
        pid: u32,
        /// Set when the caller is an agent: who it is.
        agent: Option<AgentId>,
        /// Nothing runs and nobody else is connected.
        idle: bool,
    }
    KernelInfoReply {
        version: String,
        build: String,
        pid: u32,
        launcher_pid: u32,
        data_dir: String,
        socket: String,
        started_ms: u64,
        /// Command line and working folder that started it.
        started_by: String,
        /// The cgroup back end in use: `v2` or `hybrid-v1`.
        cgroup_backend: String,
        /// Memory that admission can give away, in bytes.
        capacity_bytes: u64,
        reserved_bytes: u64,
        cpus: u32,
        agents: u32,
        runs_active: u32,
        /// What an agent gets when nothing is asked for.
        default_limits: Limits,
        journal_seq: u64,
        durable_seq: u64,
        /// Calls served since the start.
        calls: u64,
        /// Hash of the core's whole state.
        state_hash: Option<String>,
    }
    KernelPingReply {}
    KernelShutdownReply {
        agents_killed: u32,
    }
}
