//! `proc.stdin`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::view;
use clove_abi::calls::{AgentState, ProcStdin};
use clove_abi::error::{ErrorCode, SysError};

/// Only for an agent that was spawned with an open standard input or a terminal.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcStdin) -> Result<Decision, SysError> {
    let id = view::find_agent(tx.state, &args.target)?;
    let Some(a) = tx.state.agent(id) else { return Err(SysError::new(ErrorCode::NoAgent, "no such agent")) };
    if a.state == AgentState::Ended {
        return Err(SysError::new(ErrorCode::Dead, format!("`{}` has ended", a.name)));
    }
    if !a.stdin && a.tty.is_none() {
        return Err(SysError::new(ErrorCode::WrongState, format!("`{}` was started without standard input", a.name))
            .hint("start it with -i"));
    }
    tx.effect(Effect::WriteStdin { to: caller.to, agent: id, tail_key: caller.tail.key, eof: args.eof });
    Ok(Decision::Later)
}
