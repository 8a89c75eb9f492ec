//! `clove inspect`: everything about one agent.

use crate::cli::failure::Outcome;
use crate::cli::session::Session;
use crate::cli::table::ago;
use crate::cli::{ending, json, limit_flags, ps, stdio};
use clap::Args;
use clove_abi::calls::{ProcInspect, ProcInspectReply};
use clove_abi::untrusted::Untrusted;
use clove_manifest::units::{Bytes, Elapsed};
use std::fmt::Write as _;

/// Shows everything about one agent: limits, mounts, how it ended
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Id (a7.2) or name
    #[arg(value_name = "NAME")]
    target: String,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Outcome {
    let mut session = Session::open("clove inspect")?;
    let reply = session.call(&ProcInspect { target: args.target.clone() })?;
    if args.json {
        // The agent's own fields at the top, so that it has an `id` as every listed object does.
        let mut value = serde_json::to_value(&reply.info).unwrap_or_default();
        for (key, part) in [
            ("limits", serde_json::to_value(&reply.limits)),
            ("mounts", serde_json::to_value(&reply.mounts)),
            ("argv", serde_json::to_value(&reply.argv)),
            ("env_names", serde_json::to_value(&reply.env_names)),
            ("certificate", serde_json::to_value(&reply.certificate)),
        ] {
            value[key] = part.unwrap_or_default();
        }
        json::print(&value);
    } else {
        stdio::data(text(&reply).as_bytes());
    }
    Ok(0)
}

fn text(r: &ProcInspectReply) -> String {
    let a = &r.info;
    let mut out = String::new();
    let one = |t: &str| Untrusted::new(t).to_string();
    let mut line = |word: &str, text: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "  {word:<10} {text}");
    };
    line("state", one(&ps::state(a)));
    line("kind", one(&a.kind));
    if !r.argv.is_empty() {
        line("program", one(&r.argv.join(" ")));
    }
    if let Some(pid) = a.pid {
        line("pid", pid.to_string());
    }
    line("started", ago(a.started_ms));
    if let Some(run) = a.run {
        let task = a.task.map(|t| format!(", task {t}")).unwrap_or_default();
        line("run", format!("{run}{task}, attempt {}", a.attempt));
    }
    line("limits", limit_flags::in_words(&r.limits));
    for m in &r.mounts {
        let at = if m.source == m.target { String::new() } else { format!(" at {}", one(&m.target)) };
        line("sees", format!("{}{at}{}", one(&m.source), if m.writable { ", writable" } else { "" }));
    }
    line("variables", one(&r.env_names.join(" ")));
    for (word, missing) in [("no wall", &a.missing_walls), ("no limit", &a.missing_limits)] {
        if !missing.is_empty() {
            line(word, format!("{} (this host can't; see `clove doctor`)", one(&missing.join(", "))));
        }
    }
    if let Some(c) = &r.certificate {
        line("ended", ending::last_line(c));
        line("code", c.shell_code().to_string());
        line("took", Elapsed(c.wall_ms()).to_string());
        line(
            "used",
            format!(
                "at most {} of memory, {:.2} s of CPU",
                Bytes(c.usage.peak_memory_bytes),
                (c.usage.cpu_user_us + c.usage.cpu_system_us) as f64 / 1e6
            ),
        );
        if let Some(kept) = ending::kept_output(c) {
            line("output", kept);
        }
        if !c.tail.is_empty() {
            line("last words", String::new());
            for l in c.tail.trim_end().lines() {
                let _ = writeln!(out, "    | {}", Untrusted::lines_kept(l));
            }
        }
    }
    format!("{}  {}\n{out}", a.id, one(&a.name))
}
