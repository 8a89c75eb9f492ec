//! `template.list`.

use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use clove_abi::calls::TemplateList;
use clove_abi::error::SysError;

/// Templates live in the shell.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, _: &TemplateList) -> Result<Decision, SysError> {
    tx.effect(Effect::Templates { to: caller.to });
    Ok(Decision::Later)
}
