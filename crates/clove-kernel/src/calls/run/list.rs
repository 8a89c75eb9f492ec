//! `run.list`.

use crate::core::{Caller, Decision, Tx};
use crate::view;
use clove_abi::calls::{RunList, RunListReply};
use clove_abi::error::SysError;

/// All runs, the newest first.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, _: &RunList) -> Result<Decision, SysError> {
    let state = &*tx.state;
    let runs = state.runs.values().rev().map(|r| view::run(state, r)).collect();
    Ok(Decision::reply(&RunListReply { runs }))
}
