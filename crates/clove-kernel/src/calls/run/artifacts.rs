//! `run.artifacts`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::view;
use clove_abi::calls::RunArtifacts;
use clove_abi::error::{ErrorCode, SysError};

/// The shell knows the folder.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunArtifacts) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    if let Some(i) = args.task
        && !run.tasks.contains_key(&i)
    {
        return Err(SysError::new(ErrorCode::NoTask, format!("{} has no task {i}", args.run)));
    }
    tx.effect(Effect::Artifacts { to: caller.to, run: args.run, task: args.task });
    Ok(Decision::Later)
}
