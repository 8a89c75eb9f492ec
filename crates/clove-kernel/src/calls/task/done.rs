//! `task.done`.

use crate::core::{Caller, Decision, Tx};
use crate::input::Peer;
use crate::lifecycle::{self, Handed};
use clove_abi::calls::{TaskDone, TaskDoneReply};
use clove_abi::error::{ErrorCode, SysError};

/// A year in microseconds.
const LONGEST_US: u64 = 366 * 24 * 3600 * 1_000_000;

/// Accepts the result of the agent's current task, once.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &TaskDone) -> Result<Decision, SysError> {
    let Peer::Agent(id) = caller.peer else {
        return Err(SysError::new(ErrorCode::NotPermitted, "only an agent hands in results"));
    };
    let handed = Handed {
        result: args.result.as_ref(),
        exception: args.exception.as_ref(),
        opaque: caller.tail.clone(),
        blob: args.blob.as_ref(),
        // An agent's own word: a year is more than any task takes.
        elapsed_us: args.elapsed_us.min(LONGEST_US),
        rss_bytes: args.rss_bytes,
    };
    lifecycle::task_done(tx, id, args.run, args.task, args.attempt, &handed)?;
    Ok(Decision::reply(&TaskDoneReply {}))
}
