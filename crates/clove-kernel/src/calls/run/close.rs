//! `run.close`.

use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::{scheduler, view};
use clove_abi::calls::{RunClose, RunCloseReply};
use clove_abi::error::SysError;

/// What was pushed still runs.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &RunClose) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    let retire = !scheduler::has_work(run);
    if !run.closed {
        tx.change(Change::RunClosed { run: args.run });
    }
    if retire {
        scheduler::retire_idle(tx, args.run);
    }
    Ok(Decision::reply(&RunCloseReply {}))
}
