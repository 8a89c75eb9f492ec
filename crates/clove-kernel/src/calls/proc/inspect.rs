//! `proc.inspect`.

use crate::core::{Caller, Decision, Tx};
use crate::view;
use clove_abi::calls::{ProcInspect, ProcInspectReply};
use clove_abi::error::{ErrorCode, SysError};

/// Everything but the values of its environment.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &ProcInspect) -> Result<Decision, SysError> {
    let id = view::find_agent(tx.state, &args.target)?;
    let Some(a) = tx.state.agent(id) else { return Err(SysError::new(ErrorCode::NoAgent, "no such agent")) };
    Ok(Decision::reply(&ProcInspectReply {
        info: view::agent(tx.state, a),
        limits: a.limits.clone(),
        mounts: a.mounts.clone(),
        argv: a.argv.clone(),
        env_names: a.env.keys().cloned().collect(),
        certificate: a.certificate.as_deref().cloned(),
    }))
}
