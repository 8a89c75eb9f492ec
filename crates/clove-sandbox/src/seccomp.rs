//! Which system calls a process may make, compiled to BPF.

mod assemble;
mod default;
mod template;

use clove_sys::seccomp::Instruction;

pub use assemble::{Check, Verdict};

/// A call, and what is done about it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub number: i64,
    pub check: Check,
    pub verdict: Verdict,
}

/// For every agent, unless it asked for `strict`.
pub fn default_filter() -> Vec<Instruction> {
    assemble::assemble(&default::rules())
}

/// For templates: they must still clone3 and setns.
pub fn template_filter() -> Vec<Instruction> {
    assemble::assemble(&template::rules())
}
