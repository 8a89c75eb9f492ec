//! `clove sweep resume` with its counterpart `cancel`.

use super::{follow, which};
use crate::cli::counted::counted;
use crate::cli::failure::Outcome;
use crate::cli::session::Session;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::{RunCancel, RunResume};
use serde_json::json;

/// Goes on with an interrupted, cancelled or partly failed sweep; what is done stays done
#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// Tasks that failed get their attempts again too
    #[arg(long)]
    failed: bool,
    /// Leave it running
    #[arg(long, short = 'd')]
    detach: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `clove sweep resume`.
pub fn resume(args: &ResumeArgs) -> Outcome {
    let mut session = Session::open("clove sweep resume")?;
    let run = which::run(&mut session, &args.run)?;
    let reply = session.call(&RunResume { run, failed: args.failed })?;
    stdio::say(&format!("{run}: {} done stay so, {} will run", counted(reply.done, "task"), reply.pending));
    if args.detach {
        if args.json {
            json::print(&json!({"id": run, "done": reply.done, "pending": reply.pending}));
        } else {
            stdio::line(run);
        }
        return Ok(0);
    }
    follow::to_the_end(session, run, args.json)
}

/// Ends a sweep, or one of its tasks; what is done is kept
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// Only this task, by number or name
    #[arg(value_name = "N")]
    task: Option<String>,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs `clove sweep cancel`.
pub fn cancel(args: &CancelArgs) -> Outcome {
    let mut session = Session::open("clove sweep cancel")?;
    let run = which::run(&mut session, &args.run)?;
    let task = match &args.task {
        Some(text) => Some(which::task(&mut session, run, text)?),
        None => None,
    };
    let reply = session.call(&RunCancel { run, task })?;
    if args.json {
        json::print(&json!({"id": run, "cancelled": reply.cancelled}));
    } else {
        stdio::say(&format!(
            "{run}: {} cancelled; `clove sweep resume {run}` would go on",
            counted(reply.cancelled, "task")
        ));
    }
    Ok(0)
}
