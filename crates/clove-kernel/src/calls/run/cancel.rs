//! `run.cancel`.

use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::state::Ending;
use crate::{lifecycle, view};
use clove_abi::calls::{RunCancel, RunCancelReply};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::run::TaskState;

/// The whole run, or one task of it.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &RunCancel) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    let Some(index) = args.task else {
        let cancelled = lifecycle::cancel_run(tx, args.run, "cancelled");
        return Ok(Decision::reply(&RunCancelReply { cancelled }));
    };
    let task = run
        .tasks
        .get(&index)
        .ok_or_else(|| SysError::new(ErrorCode::NoTask, format!("{} has no task {index}", args.run)))?;
    let (state, agent) = (task.state, task.agent);
    if state.is_final() {
        return Ok(Decision::reply(&RunCancelReply { cancelled: 0 }));
    }
    tx.change(Change::TaskCancelled { run: args.run, task: index, wall_ms: tx.wall_ms });
    if let (TaskState::Running, Some(id)) = (state, agent) {
        lifecycle::end(tx, id, Ending::Cancelled);
    }
    Ok(Decision::reply(&RunCancelReply { cancelled: 1 }))
}
