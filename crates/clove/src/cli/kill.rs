//! `clove kill`: ends agents, or signals them.

use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::{json, signal_names, stdio};
use clap::Args;
use clove_abi::calls::ProcKill;
use serde_json::json;

/// Ends agents with their whole process trees, or sends a signal to their programs
#[derive(Args, Debug)]
pub struct KillArgs {
    /// Ids (a7.2) or names
    #[arg(value_name = "NAME", required = true)]
    targets: Vec<String>,
    /// Only send this signal to the program: TERM, INT, USR1, 15, ... (KILL ends the whole tree)
    #[arg(long, short = 's', value_name = "SIG", value_parser = signal_names::parse)]
    signal: Option<i32>,
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// Runs the command. Each agent is tried; the first that can't be killed is the failure.
pub fn run(args: &KillArgs) -> Outcome {
    const SIGKILL: i32 = 9;
    let mut session = Session::open("clove kill")?;
    let mut first_failure: Option<Failure> = None;
    let mut done = Vec::new();
    for target in &args.targets {
        let call = ProcKill { target: target.clone(), signal: args.signal.filter(|s| *s != SIGKILL) };
        match session.call(&call) {
            Ok(reply) if args.json => done.push(json!({"id": reply.agent, "name": reply.name})),
            Ok(_) => stdio::line(target),
            Err(e) => match &first_failure {
                None => first_failure = Some(e.into()),
                Some(_) => stdio::complain(&Failure::from(e)),
            },
        }
    }
    if args.json {
        json::print(&done);
    }
    first_failure.map_or(Ok(0), Err)
}
