//! `run.show`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::view;
use clove_abi::calls::RunShow;
use clove_abi::error::SysError;

/// The shell asks the state for the summary and adds the disk used.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunShow) -> Result<Decision, SysError> {
    view::find_run(tx.state, args.run)?;
    tx.effect(Effect::Show { to: caller.to, run: args.run });
    Ok(Decision::Later)
}
