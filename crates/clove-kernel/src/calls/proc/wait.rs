//! `proc.wait`.

use crate::core::{Caller, Decision, Tx};
use crate::view;
use crate::waiting::{WaitFor, Waiter, answer_one};
use clove_abi::calls::ProcWait;
use clove_abi::error::{ErrorCode, SysError};

/// Answers at once when it has ended.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcWait) -> Result<Decision, SysError> {
    let id = view::find_agent(tx.state, &args.target)?;
    let deadline_mono_ms = args.timeout_ms.map(|t| tx.mono_ms.saturating_add(t));
    let w = Waiter { to: caller.to, what: WaitFor::AgentEnd(id), deadline_mono_ms };
    if let Some(e) = answer_one(tx, &w, args.timeout_ms == Some(0)) {
        tx.effect(e);
    } else if !tx.waiting.add(w) {
        return Err(SysError::new(ErrorCode::Full, "too many calls are waiting"));
    }
    Ok(Decision::Later)
}
