//! `task.done`.

use crate::core::{Caller, Decision, Tx};
use crate::input::Peer;
use crate::lifecycle::{self, Handed};
use clove_abi::calls::{TaskDone, TaskDoneReply};
use clove_abi::error::{ErrorCode, SysError};

/// A year in microseconds.
const LONGEST_US: u64 = 366 * 24 * 3600 * 1_000_000;

/// Longest text of an exception, in bytes: it is listed with its task.
const MOST_TEXT: usize = 512 << 10;

/// Accepts the result of the agent's current task, once.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &TaskDone) -> Result<Decision, SysError> {
    let Peer::Agent(id) = caller.peer else {
        return Err(SysError::new(ErrorCode::NotPermitted, "only an agent hands in results"));
    };
    if let Some(e) = &args.exception {
        let bytes = e.class.len() + e.message.len() + e.traceback.len();
        if bytes > MOST_TEXT {
            let text = format!("exception: it has {bytes} bytes, at most {MOST_TEXT} are taken");
            return Err(SysError::new(ErrorCode::BadArgument, text));
        }
    }
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
