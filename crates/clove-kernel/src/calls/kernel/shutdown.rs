//! `kernel.shutdown`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::lifecycle;
use crate::state::Ending;
use clove_abi::calls::{KernelShutdown, KernelShutdownReply};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::AgentId;

/// Refused while agents run, unless forced. A sweep that is cut off here goes on with `run.resume`.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &KernelShutdown) -> Result<Decision, SysError> {
    let live: Vec<AgentId> = tx.state.live().map(|a| a.id).collect();
    if !live.is_empty() && !args.force {
        let names: Vec<String> = tx.state.live().take(3).map(|a| a.name.clone()).collect();
        return Err(SysError::new(
            ErrorCode::WrongState,
            format!("{} agents are running ({}{})", live.len(), names.join(", "), if live.len() > 3 { ", ..." } else { "" }),
        )
        .hint("clove stop --force ends them too; a sweep goes on later with clove sweep resume"));
    }
    for id in &live {
        lifecycle::end(tx, *id, Ending::Shutdown);
    }
    tx.effect(Effect::Stop);
    Ok(Decision::reply(&KernelShutdownReply { agents_killed: live.len() as u32 }))
}
