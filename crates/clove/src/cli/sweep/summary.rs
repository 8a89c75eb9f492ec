//! `clove sweep show`: the morning's summary.

use super::follow::counts;
use super::listing::state_word;
use super::loading;
use super::which;
use crate::cli::failure::Outcome;
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::{RunShow, RunShowReply};
use clove_abi::run::{Program, RunState};
use clove_manifest::units::{Bytes, Elapsed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Shows a sweep's summary: done, failed by cause, slowest, disk used
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID", default_value = "last")]
    run: String,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ShowArgs) -> Outcome {
    let mut session = Session::open("clove sweep show")?;
    let run = which::run(&mut session, &args.run)?;
    let show = session.call(&RunShow { run })?;
    if args.json {
        json::print(&as_json(&show));
    } else {
        let mut page = text(&show);
        if let Some(l) = loading::of(&mut session, &show) {
            page.line(format_args!("  loading   {}", l.text));
        }
        stdio::show(&page);
    }
    Ok(0)
}

/// The run's own fields at the top, so that it has an `id` as every listed object does.
pub fn as_json(show: &RunShowReply) -> Value {
    let mut out = serde_json::to_value(&show.info).unwrap_or_default();
    let slowest: Vec<Value> = show
        .slowest
        .iter()
        .map(|(index, name, seconds)| json!({"id": format!("{}/{index}", show.info.id), "index": index, "name": name, "seconds": seconds}))
        .collect();
    out["failures"] = json!(show.failures);
    out["deaths"] = json!(show.deaths);
    out["slowest"] = Value::Array(slowest);
    out["disk_bytes"] = json!(show.disk_bytes);
    out["cpu_seconds"] = json!(show.cpu_seconds);
    out["peak_memory_bytes"] = json!(show.peak_memory_bytes);
    out["eta_seconds"] = json!(show.eta_seconds);
    out["spec"] = serde_json::to_value(&show.spec).unwrap_or_default();
    out
}

/// For people.
pub fn text(show: &RunShowReply) -> Page {
    let i = &show.info;
    let mut page = Page::new();
    let end = i.ended_ms.unwrap_or_else(crate::cli::table::now_ms);
    let took = Elapsed(end.saturating_sub(i.submitted_ms));
    page.line(format_args!("{}  {}  {}: {} in {took}", i.id, i.name, state_word(i.state), counts(i)));
    if !i.message.is_empty() && i.message != state_word(i.state) {
        // A template's own words may follow in further lines: those are marked as such.
        let (first, others) = i.message.trim_end().split_once('\n').unwrap_or((i.message.trim_end(), ""));
        page.line(format_args!("  {first}"));
        page.block("    | ", others);
    }
    page.line(format_args!("  program   {}", program(&show.spec.program)));
    if !show.spec.profile.is_default() {
        page.line(format_args!("  profile   {}", show.spec.profile.word()));
    }
    if !show.failures.is_empty() {
        page.line(format_args!("  failed    {}", by_cause(&show.failures)));
    }
    if !show.deaths.is_empty() && show.deaths != show.failures {
        page.line(format_args!("  attempts  {} (those tried again too)", by_cause(&show.deaths)));
    }
    if !show.slowest.is_empty() {
        let slowest: Vec<String> = show
            .slowest
            .iter()
            .take(5)
            .map(|(index, name, seconds)| {
                let name =
                    which::given_name(i.id, *index, name).map_or_else(String::new, |n| format!(" {n}"));
                format!("#{index}{name} {}", Elapsed((seconds * 1000.0) as u64))
            })
            .collect();
        page.line(format_args!("  slowest   {}", slowest.join(", ")));
    }
    page.line(format_args!(
        "  used      {:.1} s of CPU, at most {} of memory in one task, {} of kept output",
        show.cpu_seconds,
        Bytes(show.peak_memory_bytes),
        Bytes(show.disk_bytes)
    ));
    if let Some(eta) = show.eta_seconds
        && i.state == RunState::Active
    {
        page.line(format_args!("  left      about {}", Elapsed((eta.max(0.0) * 1000.0) as u64)));
    }
    page.line(format_args!("  next      {}", next(show)));
    page
}

fn next(show: &RunShowReply) -> String {
    let i = &show.info;
    let failed = i.failed + i.quarantined;
    match i.state {
        RunState::Active => format!("clove sweep attach {}", i.id),
        RunState::Interrupted | RunState::Cancelled => format!("clove sweep resume {}", i.id),
        RunState::Failed => match &show.spec.program {
            Program::Warm(_) => {
                "mend the script, or name another interpreter (--python), and run it again".into()
            }
            Program::Cold { .. } => "mend the program, and run it again".into(),
        },
        _ if failed > 0 => format!(
            "clove sweep results {id} --failed; clove sweep inspect {id} N; clove sweep resume {id} --failed",
            id = i.id
        ),
        _ => format!("clove sweep results {}", i.id),
    }
}

fn program(p: &Program) -> String {
    match p {
        Program::Warm(t) => format!("{} with {}", t.script.as_deref().unwrap_or("(functions)"), t.python),
        Program::Cold { argv } => argv.join(" "),
    }
}

fn by_cause(causes: &BTreeMap<String, u32>) -> String {
    let mut all: Vec<_> = causes.iter().collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    all.iter().map(|(cause, n)| format!("{n} {cause}")).collect::<Vec<_>>().join(", ")
}
