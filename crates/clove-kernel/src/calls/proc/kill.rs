//! `proc.kill`.

use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::input::Peer;
use crate::state::Ending;
use crate::{lifecycle, view};
use clove_abi::calls::{AgentState, ProcKill, ProcKillReply};
use clove_abi::certificate::KilledBy;
use clove_abi::error::{ErrorCode, SysError};

const SIGKILL: i32 = 9;

/// The whole tree, or a signal to the program. The certificate names who asked.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcKill) -> Result<Decision, SysError> {
    let id = view::find_agent(tx.state, &args.target)?;
    let Some(a) = tx.state.agent(id) else { return Err(SysError::new(ErrorCode::NoAgent, "no such agent")) };
    let name = a.name.clone();
    if a.state == AgentState::Ended {
        return Err(SysError::new(ErrorCode::Dead, format!("`{name}` ({id}) has ended already"))
            .hint("clove inspect shows how"));
    }
    let by = match &caller.peer {
        Peer::Operator { uid, pid, command } => KilledBy {
            kind: "operator".into(),
            uid: Some(*uid),
            pid: Some(*pid),
            command: Some(command.clone()),
        },
        Peer::Agent(id) => KilledBy { kind: "agent".into(), uid: None, pid: None, command: Some(id.to_string()) },
    };
    match args.signal {
        None | Some(SIGKILL) => lifecycle::end(tx, id, Ending::Killed(by)),
        Some(signal @ 1..=64) => {
            // If this is what ends it, its certificate says who it was.
            tx.change(Change::AgentSignalled { id, signal, by });
            tx.effect(Effect::Signal { agent: id, signal });
        }
        Some(s) => {
            return Err(SysError::new(ErrorCode::BadArgument, format!("signal {s} doesn't exist: 1 to 64")));
        }
    }
    Ok(Decision::reply(&ProcKillReply { agent: id, name }))
}
