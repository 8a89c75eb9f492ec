//! `blob.get`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use clove_abi::calls::BlobGet;
use clove_abi::error::SysError;

/// The shell reads on a driver.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &BlobGet) -> Result<Decision, SysError> {
    check_digest(&args.digest)?;
    let most = BlobGet::MOST_BYTES as u64;
    let max = args.max.unwrap_or(most).clamp(1, most);
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
