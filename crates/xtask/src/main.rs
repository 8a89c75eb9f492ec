//! Chores: `cargo run -p xtask -- gen` writes what follows from the syscall table, `check` says what is out of date.

use std::process::ExitCode;
use xtask::generated::{self, Drift};

const USAGE: &str = "usage: cargo run -p xtask -- gen | check";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["gen"] => match generated::write_all() {
            Ok(written) if written.is_empty() => println!("everything was up to date"),
            Ok(written) => written.iter().for_each(|path| println!("wrote {path}")),
            Err(e) => return failed(&e),
        },
        ["check"] => match generated::drifts() {
            Ok(drifts) if drifts.is_empty() => println!("{} files are up to date", generated::all().len()),
            Ok(drifts) => return failed(&drifts.iter().map(Drift::to_string).collect::<Vec<_>>().join("\n")),
            Err(e) => return failed(&e),
        },
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("xtask: {why}");
    ExitCode::FAILURE
}
