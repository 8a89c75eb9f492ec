//! `clove inspect`: everything about one agent.

use crate::cli::failure::Outcome;
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::table::ago;
use crate::cli::{ending, json, limit_flags, ps, stdio};
use clap::Args;
use clove_abi::calls::{ProcInspect, ProcInspectReply};
use clove_manifest::units::{Bytes, Elapsed};

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
        stdio::show(&text(&reply));
    }
    Ok(0)
}

fn text(r: &ProcInspectReply) -> Page {
    let a = &r.info;
    let mut page = Page::new();
    page.line(format_args!("{}  {}", a.id, a.name));
    let mut line = |word: &str, text: String| page.line(format_args!("  {word:<10} {text}"));
    line("state", ps::state(a));
    line("kind", a.kind.clone());
    if !r.argv.is_empty() {
        line("program", r.argv.join(" "));
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
        let at = if m.source == m.target { String::new() } else { format!(" at {}", m.target) };
        line("sees", format!("{}{at}{}", m.source, if m.writable { ", writable" } else { "" }));
    }
    line("variables", r.env_names.join(" "));
    if !a.profile.is_default() {
        line("profile", a.profile.word().to_owned());
    }
    for (word, missing) in [("no wall", &a.missing_walls), ("no limit", &a.missing_limits)] {
        if !missing.is_empty() {
            line(word, format!("{} (this host can't; see `clove doctor`)", missing.join(", ")));
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
            page.block("    | ", &c.tail);
        }
    }
    page
}
