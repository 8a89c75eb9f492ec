//! `proc.resize`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::view;
use clove_abi::calls::ProcResize;
use clove_abi::error::SysError;

/// The shell sets the size of the pseudo-terminal.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcResize) -> Result<Decision, SysError> {
    let agent = view::find_agent(tx.state, &args.target)?;
    tx.effect(Effect::Resize { to: caller.to, agent, rows: args.rows, columns: args.columns });
    Ok(Decision::Later)
}
