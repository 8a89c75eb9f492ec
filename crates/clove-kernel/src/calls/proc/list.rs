//! `proc.list`.

use crate::core::{Caller, Decision, Tx};
use crate::view;
use clove_abi::calls::{AgentState, ProcList, ProcListReply};
use clove_abi::error::SysError;

/// Live agents, and with `all` those remembered.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &ProcList) -> Result<Decision, SysError> {
    let state = &*tx.state;
    let mut agents: Vec<_> = if args.all {
        // Those that were to be removed are only kept for a wait that may still come.
        let shown = state.agents.values().filter(|a| !a.remove || a.state != AgentState::Ended);
        shown.map(|a| view::agent(state, a)).collect()
    } else {
        state.live().map(|a| view::agent(state, a)).collect()
    };
    agents.sort_by_key(|a| (a.started_ms, a.id));
    Ok(Decision::reply(&ProcListReply { agents }))
}
