//! `proc.logs`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::{Effect, LogStream};
use crate::view;
use clove_abi::calls::ProcLogs;
use clove_abi::error::{ErrorCode, SysError};

/// Longest piece in one answer.
const MAX: u32 = 1 << 20;

/// The shell reads; the core only finds the agent.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcLogs) -> Result<Decision, SysError> {
    let agent = view::find_agent(tx.state, &args.target)?;
    let stream = match args.stream.as_deref() {
        None => LogStream::Both,
        Some("out") => LogStream::Out,
        Some("err") => LogStream::Err,
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(SysError::new(ErrorCode::BadArgument, format!("stream `{other}` isn't known: `out` or `err`")));
        }
    };
    let max = args.max.unwrap_or(65_536).clamp(1, MAX);
    tx.effect(Effect::ReadLogs { to: caller.to, agent, offset: args.offset, max, follow: args.follow, stream });
    Ok(Decision::Later)
}
