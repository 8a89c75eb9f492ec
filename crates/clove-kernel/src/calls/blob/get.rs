//! `blob.get`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use clove_abi::calls::BlobGet;
use clove_abi::error::SysError;

/// Longest piece in one answer.
const MAX: u64 = 32 << 20;

/// The shell reads on a driver.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &BlobGet) -> Result<Decision, SysError> {
    check_digest(&args.digest)?;
    let max = args.max.unwrap_or(MAX).clamp(1, MAX);
    tx.effect(Effect::BlobGet { to: caller.to, digest: args.digest.clone(), offset: args.offset, max });
    Ok(Decision::Later)
}

/// 64 lower-case hexadecimal digits: anything else could be a path.
pub fn check_digest(digest: &str) -> Result<(), SysError> {
    use clove_abi::error::ErrorCode;
    if digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(SysError::new(ErrorCode::BadArgument, "a digest is 64 lower-case hexadecimal digits"))
}
