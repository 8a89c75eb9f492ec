//! `blob.put`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use clove_abi::calls::BlobPut;
use clove_abi::error::SysError;

/// The shell hashes and stores on a driver.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, _: &BlobPut) -> Result<Decision, SysError> {
    tx.effect(Effect::BlobPut { to: caller.to, tail_key: caller.tail.key });
    Ok(Decision::Later)
}
