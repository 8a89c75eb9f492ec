//! `task.next`.

use crate::core::{Caller, Decision, Tx};
use clove_abi::calls::TaskNext;
use clove_abi::error::{ErrorCode, SysError};

/// The shell keeps these calls and answers them when the core starts or assigns a task; one that reaches the core
/// comes from an agent that isn't a warm one.
pub fn handle(_: &mut Tx<'_>, _: &Caller, _: &TaskNext) -> Result<Decision, SysError> {
    Err(SysError::new(ErrorCode::WrongState, "only an agent that was forked from a template is given tasks"))
}
