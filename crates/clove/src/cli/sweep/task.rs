//! `clove sweep inspect`: everything about one task.

use super::results::state_word;
use super::which;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::session::Session;
use crate::cli::{ending, json, stdio};
use clap::Args;
use clove_abi::calls::{RunTasks, TaskInfo};
use clove_abi::untrusted::Untrusted;
use clove_manifest::units::{Bytes, Elapsed};
use std::fmt::Write as _;

/// Shows everything about one task: configuration, result, traceback, how each attempt ended
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// The task's number or name
    #[arg(value_name = "N")]
    task: String,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Outcome {
    let mut session = Session::open("clove sweep inspect")?;
    let run = which::run(&mut session, &args.run)?;
    let index = which::task(&mut session, run, &args.task)?;
    let page = session.call(&RunTasks { run, from: index, max: Some(1), full: true })?;
    let Some(task) = page.tasks.into_iter().find(|t| t.index == index) else {
        return Err(Failure::new(format!("{run} has no task {index} (E0204)"))
            .hint(format!("clove sweep results {run}")));
    };
    if args.json {
        json::print(&task);
    } else {
        stdio::data(text(&task).as_bytes());
    }
    Ok(0)
}

fn text(t: &TaskInfo) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(
        out,
        "{}  {}  {}, attempts: {}",
        t.id,
        Untrusted::new(&t.name),
        state_word(t.state),
        t.attempts
    );
    if let Some(agent) = &t.agent {
        let pid = t.pid.map(|p| format!(" (pid {p})")).unwrap_or_default();
        let _ = writeln!(out, "  agent     {}{pid}", Untrusted::new(agent));
    }
    if let Some(s) = t.seconds {
        let _ = writeln!(out, "  took      {}", Elapsed((s * 1000.0) as u64));
    }
    for (word, value) in [("config", &t.config), ("result", &t.result)] {
        if let Some(v) = value {
            let _ = writeln!(out, "  {word}    {}", Untrusted::new(&v.to_string()));
        }
    }
    if let Some(e) = &t.exception {
        let _ = writeln!(out, "  raised    {}: {}", Untrusted::new(&e.class), Untrusted::new(&e.message));
        block(&mut out, &e.traceback);
    }
    for c in &t.certificates {
        let _ = writeln!(
            out,
            "  attempt {} ended after {}: {}",
            c.attempt,
            Elapsed(c.wall_ms()),
            ending::last_line(c)
        );
        let _ = writeln!(
            out,
            "    agent {}, peak memory {} of {}, CPU {:.2} s",
            c.agent,
            Bytes(c.usage.peak_memory_bytes),
            Bytes(c.limits.memory_bytes),
            (c.usage.cpu_user_us + c.usage.cpu_system_us) as f64 / 1e6
        );
        if t.exception.is_none() || c.cause.is_death() {
            block(&mut out, &c.tail);
        }
    }
    out
}

/// Lines of an agent's text, set in.
pub fn block(out: &mut String, text: &str) {
    for line in text.trim_end().lines() {
        let _ = writeln!(out, "    | {}", Untrusted::lines_kept(line));
    }
}
