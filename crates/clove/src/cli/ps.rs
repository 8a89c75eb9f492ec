//! `clove ps`: agents.

use crate::cli::failure::Outcome;
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::table::{Listing, ago, shortened};
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::{AgentInfo, AgentState, ProcList};
use clove_manifest::units::{Bytes, Elapsed};

/// Lists agents that live
#[derive(Args, Debug)]
pub struct PsArgs {
    /// Ended ones too
    #[arg(long, short = 'a')]
    all: bool,
    /// Only ids
    #[arg(long, short = 'q', conflicts_with = "json")]
    quiet: bool,
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &PsArgs) -> Outcome {
    let mut session = Session::open("clove ps")?;
    let agents = session.call(&ProcList { all: args.all })?.agents;
    if args.json {
        json::print(&agents);
        return Ok(0);
    }
    if args.quiet {
        let mut ids = Page::new();
        agents.iter().for_each(|a| ids.line(a.id));
        stdio::show(&ids);
        return Ok(0);
    }
    let strict = agents.iter().any(|a| !a.profile.is_default());
    let weakened = agents.iter().any(|a| !missing(a).is_empty());
    let mut headings = vec!["id", "name", "state", "kind", "pid", "started", "memory limit", "command"];
    headings.extend(strict.then_some("profile"));
    headings.extend(weakened.then_some("not enforced"));
    let mut listing = Listing::new(&headings);
    for a in &agents {
        let mut row = vec![
            a.id.to_string(),
            shortened(&a.name, 40),
            state(a),
            a.kind.clone(),
            a.pid.map_or_else(|| "-".to_owned(), |p| p.to_string()),
            ago(a.started_ms),
            Bytes(a.memory_limit_bytes).to_string(),
            shortened(&a.command, 60),
        ];
        row.extend(strict.then(|| a.profile.word().to_owned()));
        row.extend(weakened.then(|| missing(a)));
        listing.row(&row);
    }
    stdio::show(&listing.page());
    Ok(0)
}

fn missing(a: &AgentInfo) -> String {
    let all: Vec<&str> = a.missing_walls.iter().chain(&a.missing_limits).map(String::as_str).collect();
    all.join(", ")
}

/// `running`, or how and when it ended.
pub fn state(a: &AgentInfo) -> String {
    match a.state {
        AgentState::Starting => "starting".into(),
        AgentState::Running => "running".into(),
        AgentState::Ending => "ending".into(),
        AgentState::Ended => {
            let how = a.ended.clone().unwrap_or_else(|| "ended".into());
            match a.ended_ms {
                Some(at) => format!("{how} after {}", Elapsed(at.saturating_sub(a.started_ms))),
                None => how,
            }
        }
    }
}
