//! `clove completions`: for shells.

use crate::cli::failure::Outcome;
use crate::cli::{Cli, stdio};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Prints a shell's completions: source <(clove completions bash)
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs) -> Outcome {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clove", &mut out);
    stdio::raw(&out);
    Ok(0)
}
