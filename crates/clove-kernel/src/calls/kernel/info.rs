//! `kernel.info`.

use crate::effect::Effect;
use clove_abi::calls::KernelInfo;
use crate::core::{Caller, Decision, Tx};
use clove_abi::error::SysError;

/// The shell adds what only it knows.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &KernelInfo) -> Result<Decision, SysError> {
    tx.effect(Effect::KernelInfo { to: caller.to, state_hash: args.state_hash });
    Ok(Decision::Later)
}
