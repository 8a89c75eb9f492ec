//! `clove demo`: hands over to the demonstrations of the Python library.

use crate::cli::failure::{Failure, NOT_FOUND, Outcome};
use clap::{Args, Subcommand};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Which demonstration.
#[derive(Subcommand, Debug)]
pub enum DemoCommand {
    DrugDiscovery(DemoArgs),
}

/// 48 drug-discovery experiments on real data, with faults, beside standalone Python
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct DemoArgs {
    /// Its own arguments; --help tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Runs the command: on success this process becomes Python.
pub fn run(command: &DemoCommand) -> Outcome {
    let DemoCommand::DrugDiscovery(args) = command;
    let program = std::env::current_exe()
        .map_err(|e| Failure::new("this program's own path can't be found").why(e.to_string()))?;
    let library = crate::daemon::sdk::python_folder().map_err(|e| {
        Failure::new(e.to_string())
            .hint("set CLOVE_SDK to the folder that has `cloveos` in it (`python/` in the source tree)")
    })?;
    let python = python()?;
    let mut path = library.clone().into_os_string();
    if let Some(others) = std::env::var_os("PYTHONPATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(others);
    }
    let error = Command::new(&python)
        .args(["-m", "cloveos.demo.drug_discovery"])
        .args(&args.args)
        .env("PYTHONPATH", path)
        .env("CLOVE_BIN", &program)
        .exec();
    Err(Failure::new(format!("{} can't be started", python.display()))
        .why(clove_client::paths::in_words(&error)))
}

/// The first `python3` of at least 3.9.
fn python() -> Result<PathBuf, Failure> {
    const CHECK: &str = "import sys; sys.exit(0 if sys.version_info >= (3, 9) else 9)";
    let names =
        ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9"];
    let runs = |name: &&str| {
        Command::new(name)
            .args(["-c", CHECK])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    names.iter().find(|n| runs(n)).map(PathBuf::from).ok_or_else(|| {
        Failure::new("there is no Python of at least 3.9 on your PATH")
            .hint("install one, for example: apt install python3 python3-venv")
            .code(NOT_FOUND)
    })
}
