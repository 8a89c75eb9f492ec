//! Which system calls a process may make, compiled to BPF.

mod assemble;
mod default;
mod strict;
mod template;

use crate::protocol::Profile;
use clove_sys::seccomp::Instruction;

pub use assemble::{Check, Verdict};

/// A call, and what is done about it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub number: i64,
    pub check: Check,
    pub verdict: Verdict,
}

/// For every agent.
pub fn agent_filter(profile: Profile) -> Vec<Instruction> {
    match profile {
        Profile::Default => assemble::assemble(&default::rules()),
        Profile::Strict => strict::agent(),
    }
}

/// For templates, which enter the cells of the agents that they fork.
pub fn template_filter(profile: Profile) -> Vec<Instruction> {
    match profile {
        Profile::Default => assemble::assemble(&template::rules()),
        Profile::Strict => strict::template(),
    }
}
