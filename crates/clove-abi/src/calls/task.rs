//! Family `task`: how a warm agent gets its work and hands in what came of it.

use super::{args, reply};
use crate::ids::{RunId, TaskIndex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// An exception, in words only: nothing of it is ever executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExceptionText {
    /// Qualified class name.
    pub class: String,
    pub message: String,
    pub traceback: String,
}

args! {
    TaskNext {}
    TaskDone {
        /// The task that `task.next` handed out.
        run: RunId,
        task: TaskIndex,
        attempt: u32,
        /// What `run(config, shared)` returned, as JSON; absent for an opaque result or an exception.
        #[serde(default)]
        result: Option<Value>,
        #[serde(default)]
        exception: Option<ExceptionText>,
        /// Blob with the opaque result, when it is too large for the tail.
        #[serde(default)]
        blob: Option<String>,
        /// Wall time of the user's function in microseconds.
        #[serde(default)]
        elapsed_us: u64,
        /// How much its peak memory (`ru_maxrss`) has grown since it was forked, in bytes, so that a grown worker is replaced.
        #[serde(default)]
        rss_bytes: u64,
    }
}

reply! {
    TaskNextReply {
        run: RunId,
        task: TaskIndex,
        /// From 1.
        attempt: u32,
        name: String,
        config: Value,
        /// Seeds random, numpy and torch when the task starts.
        seed: u64,
        /// Threads for BLAS and OpenMP.
        threads: u32,
        /// Set in `os.environ` before the task.
        env: BTreeMap<String, String>,
        /// `script` (call `run(config, shared)`) or `call` (the tail is a pickled call).
        mode: String,
        /// Blob with the opaque input, when it didn't fit in the tail.
        payload_blob: Option<String>,
        /// Whether another `task.next` follows in this process.
        reuse: bool,
    }
    TaskDoneReply {}
}
