//! `clove sweep watch`: a run's changes as they happen, for programs.

use super::which;
use crate::cli::failure::Outcome;
use crate::cli::json;
use crate::cli::session::Session;
use clap::Args;
use clove_abi::calls::RunWatch;
use clove_abi::run::RunState;
use serde_json::json;

/// Prints each change of a sweep as one line of JSON, until it has ended
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// Lines of JSON, which is the only form there is
    #[arg(long)]
    json: bool,
    /// Only changes after this version (the last line's `version`)
    #[arg(long, value_name = "N", default_value_t = 0)]
    since: u64,
}

/// Runs the command.
pub fn run(args: &WatchArgs) -> Outcome {
    let mut session = Session::open("clove sweep watch")?;
    let run = which::run(&mut session, &args.run)?;
    let mut since = args.since;
    loop {
        let reply = session.call(&RunWatch { run, since, wait_ms: None })?;
        let changed = reply.version != since || since == args.since;
        since = reply.version;
        for t in &reply.tasks {
            json::print_line(&json!({"kind": "task", "id": t.id, "version": since, "task": t}));
        }
        let over = reply.info.state != RunState::Active;
        if changed || over {
            json::print_line(
                &json!({"kind": "run", "id": reply.info.id, "version": since, "run": reply.info}),
            );
        }
        if over && reply.tasks.len() < 1000 {
            return Ok(0);
        }
    }
}
