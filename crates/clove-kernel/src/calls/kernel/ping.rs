//! `kernel.ping`.

use clove_abi::calls::KernelPing;
use crate::core::{Caller, Decision, Tx};
use clove_abi::error::SysError;

/// Nothing but the way there and back.
pub fn handle(_: &mut Tx<'_>, _: &Caller, _: &KernelPing) -> Result<Decision, SysError> {
    Ok(Decision::Reply(b"{}".to_vec()))
}
