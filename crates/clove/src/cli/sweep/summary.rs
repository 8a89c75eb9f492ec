//! `clove sweep show`: the morning's summary.

use super::follow::counts;
use super::listing::state_word;
use super::which;
use crate::cli::failure::Outcome;
use crate::cli::session::Session;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::calls::{RunShow, RunShowReply};
use clove_abi::run::{Program, RunState};
use clove_abi::untrusted::Untrusted;
use clove_manifest::units::{Bytes, Elapsed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

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
        stdio::data(text(&show).as_bytes());
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
pub fn text(show: &RunShowReply) -> String {
    let i = &show.info;
    let mut out = String::new();
    let end = i.ended_ms.unwrap_or_else(crate::cli::table::now_ms);
    let took = Elapsed(end.saturating_sub(i.submitted_ms));
    // Writing to a String can't fail.
    let _ = writeln!(
        out,
        "{}  {}  {}: {} in {took}",
        i.id,
        Untrusted::new(&i.name),
        state_word(i.state),
        counts(i)
    );
    if !i.message.is_empty() && i.message != state_word(i.state) {
        for line in Untrusted::lines_kept(i.message.trim_end()).to_string().lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    let _ = writeln!(out, "  program   {}", Untrusted::new(&program(&show.spec.program)));
    if !show.failures.is_empty() {
        let _ = writeln!(out, "  failed    {}", by_cause(&show.failures));
    }
    if !show.deaths.is_empty() && show.deaths != show.failures {
        let _ = writeln!(out, "  attempts  {} (those tried again too)", by_cause(&show.deaths));
    }
    if !show.slowest.is_empty() {
        let slowest: Vec<String> = show
            .slowest
            .iter()
            .take(5)
            .map(|(index, name, seconds)| {
                let name = which::given_name(i.id, *index, name)
                    .map_or_else(String::new, |n| format!(" {}", Untrusted::new(n)));
                format!("#{index}{name} {}", Elapsed((seconds * 1000.0) as u64))
            })
            .collect();
        let _ = writeln!(out, "  slowest   {}", slowest.join(", "));
    }
    let _ = writeln!(
        out,
        "  used      {:.1} s of CPU, at most {} of memory in one task, {} of kept output",
        show.cpu_seconds,
        Bytes(show.peak_memory_bytes),
        Bytes(show.disk_bytes)
    );
    if let Some(eta) = show.eta_seconds
        && i.state == RunState::Active
    {
        let _ = writeln!(out, "  left      about {}", Elapsed((eta.max(0.0) * 1000.0) as u64));
    }
    let _ = writeln!(out, "  next      {}", next(show));
    out
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
    all.iter().map(|(cause, n)| format!("{n} {}", Untrusted::new(cause))).collect::<Vec<_>>().join(", ")
}
