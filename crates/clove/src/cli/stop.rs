//! `clove stop`: the kernel's end.

use crate::cli::counted::counted;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::stdio;
use clap::Args;
use clove_abi::ErrorCode;
use clove_abi::calls::KernelShutdown;
use clove_client::{Client, ClientError};
use std::time::{Duration, Instant};

/// How long a kernel may take to leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops the kernel; refused while agents run
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Also while agents run: they are killed; sweeps can be resumed
    #[arg(long, short = 'f')]
    force: bool,
}

/// Runs the command. It returns when the kernel has left.
pub fn run(args: &StopArgs) -> Outcome {
    let Some(mut session) = Session::open_if_running("clove stop")? else {
        stdio::say("no kernel is running");
        return Ok(0);
    };
    let killed = match session.call(&KernelShutdown { force: args.force }) {
        Ok(reply) => reply.agents_killed,
        // It may be gone before its answer is.
        Err(ClientError::Lost { .. }) => 0,
        Err(e) => {
            let busy = e.code() == Some(ErrorCode::WrongState);
            let f = Failure::from(e);
            return Err(if busy && f.hint.is_empty() {
                f.hint("`clove ps` shows what runs; `clove stop --force` kills it")
            } else {
                f
            });
        }
    };
    let paths = session.paths.clone();
    drop(session);
    let begun = Instant::now();
    // Its last records are on the disk when it lets the lock go.
    while Client::connect(&paths.socket()).is_ok() || paths.is_locked() {
        if begun.elapsed() > PATIENCE {
            return Err(Failure::new(format!("the kernel hasn't left after {} s", PATIENCE.as_secs()))
                .hint("read kernel.log in the data directory"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if killed > 0 {
        stdio::say(&format!("{} killed", counted(killed, "agent")));
    }
    Ok(0)
}
