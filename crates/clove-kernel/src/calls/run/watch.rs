//! `run.watch`.

use crate::core::{Caller, Decision, Tx};
use crate::view;
use crate::waiting::{WaitFor, Waiter, answer_one};
use clove_abi::calls::RunWatch;
use clove_abi::error::{ErrorCode, SysError};

/// Answers at once when something has changed since.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunWatch) -> Result<Decision, SysError> {
    view::find_run(tx.state, args.run)?;
    let deadline_mono_ms = Some(tx.mono_ms.saturating_add(args.wait_ms.unwrap_or(30_000)));
    let w = Waiter { to: caller.to, what: WaitFor::RunChange { run: args.run, since: args.since }, deadline_mono_ms };
    if let Some(e) = answer_one(tx, &w, args.wait_ms == Some(0)) {
        tx.effect(e);
    } else if !tx.waiting.add(w) {
        return Err(SysError::new(ErrorCode::Full, "too many calls are waiting"));
    }
    Ok(Decision::Later)
}
