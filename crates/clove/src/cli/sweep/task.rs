//! `clove sweep inspect`: everything about one task.

use super::results::state_word;
use super::which;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::{ending, json, stdio};
use clap::Args;
use clove_abi::calls::{ProcLogs, RunTasks, TaskInfo};
use clove_manifest::units::{Bytes, Elapsed};

/// Before each line that an agent wrote.
const AGENTS: &str = "    | ";

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
        let mut page = text(&task);
        // A task that raised has no certificate with its last output: the process itself was fine.
        if task.exception.is_some() && !task.certificates.iter().any(|c| c.attempt == task.attempts) {
            let printed = output(&mut session, &task.id);
            if !printed.is_empty() {
                page.line("  printed");
                page.block(AGENTS, &printed);
            }
        }
        stdio::show(&page);
    }
    Ok(0)
}

/// The last lines that the task's process wrote; nothing when its output isn't kept any more.
fn output(session: &mut Session, task: &str) -> String {
    const LAST_BYTES: usize = 4_000;
    let target = task.to_owned();
    let mut bytes = Vec::new();
    loop {
        let call = ProcLogs {
            target: target.clone(),
            offset: bytes.len() as u64,
            max: None,
            follow: false,
            stream: None,
        };
        match session.client.call_with_tail(&call, &[]) {
            Ok((reply, tail)) if !tail.is_empty() && reply.next > bytes.len() as u64 => bytes.extend(tail),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LAST_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn text(t: &TaskInfo) -> Page {
    let mut page = Page::new();
    page.line(format_args!("{}  {}  {}, attempts: {}", t.id, t.name, state_word(t.state), t.attempts));
    if let Some(agent) = &t.agent {
        let pid = t.pid.map(|p| format!(" (pid {p})")).unwrap_or_default();
        page.line(format_args!("  agent     {agent}{pid}"));
    }
    if let Some(s) = t.seconds {
        page.line(format_args!("  took      {}", Elapsed((s * 1000.0) as u64)));
    }
    for (word, value) in [("config", &t.config), ("result", &t.result)] {
        if let Some(v) = value {
            page.line(format_args!("  {word}    {v}"));
        }
    }
    if let Some(e) = &t.exception {
        page.line(format_args!("  raised    {}: {}", e.class, e.message));
        page.block(AGENTS, &e.traceback);
    }
    for c in &t.certificates {
        page.line(format_args!(
            "  attempt {} ended after {}: {}",
            c.attempt,
            Elapsed(c.wall_ms()),
            ending::last_line(c)
        ));
        page.line(format_args!(
            "    agent {}, peak memory {} of {}, CPU {:.2} s",
            c.agent,
            Bytes(c.usage.peak_memory_bytes),
            Bytes(c.limits.memory_bytes),
            (c.usage.cpu_user_us + c.usage.cpu_system_us) as f64 / 1e6
        ));
        if t.exception.is_none() || c.cause.is_death() {
            page.block(AGENTS, &c.tail);
        }
    }
    page
}
