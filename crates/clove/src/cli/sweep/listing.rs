//! `clove sweep ls`.

use crate::cli::failure::Outcome;
use crate::cli::session::Session;
use crate::cli::table::{Listing, ago, shortened};
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::{RunInfo, RunList};
use clove_abi::run::{RunKind, RunState};
use clove_manifest::units::Elapsed;

/// Lists sweeps
#[derive(Args, Debug)]
pub struct LsArgs {
    /// Executor sessions of Python programs too
    #[arg(long, short = 'a')]
    all: bool,
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// A run's state in a word.
pub fn state_word(s: RunState) -> &'static str {
    match s {
        RunState::Active => "active",
        RunState::Interrupted => "interrupted",
        RunState::Finished => "finished",
        RunState::Cancelled => "cancelled",
        RunState::Failed => "failed",
    }
}

/// Runs the command.
pub fn run(args: &LsArgs) -> Outcome {
    let mut session = Session::open("clove sweep ls")?;
    let mut runs = session.call(&RunList {})?.runs;
    runs.retain(|r| args.all || r.kind == RunKind::Sweep);
    runs.sort_by_key(|r| std::cmp::Reverse(r.id));
    if args.json {
        json::print(&runs);
        return Ok(0);
    }
    let mut listing = Listing::new(&["id", "name", "state", "done", "failed", "total", "submitted", "took"]);
    for r in &runs {
        listing.row(&row(r));
    }
    stdio::show(&listing.page());
    Ok(0)
}

fn row(r: &RunInfo) -> Vec<String> {
    vec![
        r.id.to_string(),
        shortened(&r.name, 40),
        state_word(r.state).to_owned(),
        r.done.to_string(),
        (r.failed + r.quarantined).to_string(),
        r.total.to_string(),
        ago(r.submitted_ms),
        r.ended_ms.map_or_else(|| "-".to_owned(), |e| Elapsed(e.saturating_sub(r.submitted_ms)).to_string()),
    ]
}
