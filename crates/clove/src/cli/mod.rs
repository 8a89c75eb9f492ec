//! The command line.

mod ask;
mod bar;
mod completions;
mod counted;
mod demo;
mod doctor;
mod ending;
mod environment;
mod explain;
mod failure;
mod hints;
mod inspect;
mod interpreter;
mod interpreter_memory;
mod json;
mod kernel;
mod kill;
mod limit_flags;
mod logs;
mod markdown;
mod page;
mod ping;
mod ps;
mod python;
mod relay;
mod run;
mod serve;
mod session;
mod signal_names;
mod stdio;
mod stop;
mod sweep;
mod syscalls;
mod table;
mod terminal;
mod terminal_view;
mod version;
mod visibility;
mod wait;

use clap::{Parser, Subcommand};
use clove_abi::untrusted::Untrusted;
use failure::{Outcome, REFUSED};
use std::process::ExitCode;

/// An operating system for AI agents: every agent an isolated Linux process with limits that hold
#[derive(Parser, Debug)]
#[command(
    name = "clove",
    bin_name = "clove",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "The first command starts the kernel for its data directory ($CLOVE_HOME, else \
                  ~/.local/share/clove); it leaves when it has been idle for a while."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::RunArgs>),
    /// Runs, watches and reads sweeps: many configurations of one program
    #[command(subcommand)]
    Sweep(Box<sweep::SweepCommand>),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Inspect(inspect::InspectArgs),
    Kill(kill::KillArgs),
    Wait(wait::WaitArgs),
    Stop(stop::StopArgs),
    /// Tells about the kernel
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    Doctor(doctor::DoctorArgs),
    Serve(serve::ServeArgs),
    /// Runs a demonstration
    #[command(subcommand)]
    Demo(demo::DemoCommand),
    Syscalls(syscalls::SyscallsArgs),
    Explain(explain::ExplainArgs),
    Version(version::VersionArgs),
    Completions(completions::CompletionsArgs),
    Ping(ping::PingArgs),
    /// Prints the reference of all commands as Markdown
    #[command(hide = true)]
    MarkdownHelp,
}

/// Reads the command line and carries it out.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => {
            stdio::complain_of_usage(&in_harmless_words(&e));
            return ExitCode::from(failure::USAGE as u8);
        }
        // --help, --version.
        Err(e) => {
            let mut page = page::Page::new();
            page.own(&e.to_string());
            stdio::show(&page);
            return ExitCode::SUCCESS;
        }
    };
    let code = match carry_out(&cli.command) {
        Ok(code) => code,
        Err(failure) => {
            terminal::put_back();
            stdio::complain(&failure);
            failure.code
        }
    };
    // What a shell could see of a code beyond a byte would be another code.
    ExitCode::from(u8::try_from(code).unwrap_or(REFUSED as u8))
}

/// What the parser says quotes the words that it was given, and a line end in one of them would make a line of its own.
/// So it is asked again, with words that have none.
fn in_harmless_words(error: &clap::Error) -> String {
    let words = std::env::args_os().map(|w| Untrusted::new(&w.to_string_lossy()).to_string());
    Cli::try_parse_from(words).err().unwrap_or_else(|| clap::Error::new(error.kind())).to_string()
}

fn carry_out(command: &Command) -> Outcome {
    match command {
        Command::Run(a) => run::run(a),
        Command::Sweep(c) => sweep::run(c),
        Command::Ps(a) => ps::run(a),
        Command::Logs(a) => logs::run(a),
        Command::Inspect(a) => inspect::run(a),
        Command::Kill(a) => kill::run(a),
        Command::Wait(a) => wait::run(a),
        Command::Stop(a) => stop::run(a),
        Command::Kernel(c) => kernel::run(c),
        Command::Doctor(a) => doctor::run(a),
        Command::Serve(a) => serve::run(a),
        Command::Demo(c) => demo::run(c),
        Command::Syscalls(a) => syscalls::run(a),
        Command::Explain(a) => explain::run(a),
        Command::Version(a) => version::run(a),
        Command::Completions(a) => completions::run(a),
        Command::Ping(a) => ping::run(a),
        Command::MarkdownHelp => markdown::run(),
    }
}
