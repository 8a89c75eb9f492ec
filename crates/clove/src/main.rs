//! `clove`: the command line and, behind `clove serve`, the kernel.

mod cli;
mod daemon;

fn main() -> std::process::ExitCode {
    cli::main()
}
