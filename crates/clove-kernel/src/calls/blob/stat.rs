//! `blob.stat`.

use crate::calls::blob::get::check_digest;
use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use clove_abi::calls::BlobStat;
use clove_abi::error::SysError;

/// The shell looks it up.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &BlobStat) -> Result<Decision, SysError> {
    check_digest(&args.digest)?;
    tx.effect(Effect::BlobStat { to: caller.to, digest: args.digest.clone() });
    Ok(Decision::Later)
}
