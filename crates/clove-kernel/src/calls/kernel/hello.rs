//! `kernel.hello`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::input::Peer;
use clove_abi::calls::KernelHello;
use clove_abi::error::SysError;

/// The shell knows version, build and process.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, _: &KernelHello) -> Result<Decision, SysError> {
    let agent = match caller.peer {
        Peer::Agent(id) => Some(id),
        Peer::Operator { .. } => None,
    };
    tx.effect(Effect::KernelHello { to: caller.to, agent });
    Ok(Decision::Later)
}
