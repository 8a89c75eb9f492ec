//! `clove wait`: an agent's end.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::limit_flags;
use crate::cli::session::Session;
use crate::cli::{ending, json, stdio};
use clap::Args;
use clove_abi::calls::ProcWait;

/// Waits until an agent has ended, and ends with its exit code
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Id (a7.2) or name
    #[arg(value_name = "NAME")]
    target: String,
    /// Give up after this time (exit code 125); it goes on running
    #[arg(long, value_name = "TIME", value_parser = limit_flags::duration)]
    timeout: Option<u64>,
    /// Print its death certificate
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &WaitArgs) -> Outcome {
    let mut session = Session::open("clove wait")?;
    let reply = session.call(&ProcWait { target: args.target.clone(), timeout_ms: args.timeout })?;
    let Some(c) = reply.certificate else {
        return Err(
            Failure::new(format!("{} is still running", args.target)).hint("wait longer, or `clove kill` it")
        );
    };
    if let Some(kept) = ending::kept_output(&c) {
        stdio::say(&format!("note: of its output {kept}"));
    }
    ending::tell(&c);
    if args.json {
        let mut value = serde_json::to_value(&c).unwrap_or_default();
        value["id"] = serde_json::to_value(c.agent).unwrap_or_default();
        json::print(&value);
    }
    Ok(reply.code.unwrap_or_else(|| c.shell_code()))
}
