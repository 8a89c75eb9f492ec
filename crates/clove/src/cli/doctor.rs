//! `clove doctor`: what this host enforces, found out by trying.

use crate::cli::failure::Outcome;
use crate::cli::{json, stdio};
use clap::Args;
use clove_abi::untrusted::Untrusted;
use serde::Serialize;

/// Tries every protection and limit on this host, and names the remedy for what is missing
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 everything required is there, 1 something required is missing.")]
pub struct DoctorArgs {
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Short and stable, for example `landlock`.
    pub id: String,
    /// `wall`, `limit` or `feature`.
    pub kind: String,
    pub enforced: bool,
    /// Without it, agents aren't started.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// How to get it; empty when it is there.
    pub remedy: String,
}

/// What the sandbox finds out by trying.
fn findings() -> Vec<Finding> {
    // clove_sandbox::probe::probe() goes here as soon as it exists.
    Vec::new()
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Outcome {
    let all = findings();
    if args.json {
        json::print(&all);
    } else {
        stdio::data(text(&all).as_bytes());
    }
    Ok(i32::from(all.iter().any(|f| f.required && !f.enforced)))
}

fn text(all: &[Finding]) -> String {
    let (good, bad, paint_end) =
        if stdio::stdout_is_colourful() { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    let mut out = String::new();
    for (kind, heading) in [("wall", "Walls"), ("limit", "Limits"), ("feature", "Features")] {
        let of_kind: Vec<_> = all.iter().filter(|f| f.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        out.push_str(&format!("{heading}\n"));
        for f in of_kind {
            let (paint, word) = match (f.enforced, f.required) {
                (true, _) => (good, "enforced"),
                (false, true) => (bad, "MISSING"),
                (false, false) => (bad, "missing"),
            };
            out.push_str(&format!(
                "  {paint}{word:<9}{paint_end} {:<18} {}\n",
                f.id,
                Untrusted::new(&f.detail)
            ));
            if !f.enforced && !f.remedy.is_empty() {
                out.push_str(&format!("            try: {}\n", Untrusted::new(&f.remedy)));
            }
        }
    }
    let missing = all.iter().filter(|f| !f.enforced).count();
    let required = all.iter().filter(|f| !f.enforced && f.required).count();
    out.push_str(&match (missing, required) {
        (0, _) => format!("Everything that was tried is enforced ({} checks).\n", all.len()),
        (n, 0) => format!("{n} of {} are missing; agents run without them, and say so.\n", all.len()),
        (n, r) => format!(
            "{n} of {} are missing; {r} of them are required, so agents can't be started.\n",
            all.len()
        ),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let f = |id: &str, enforced, required| Finding {
            id: id.into(),
            kind: "limit".into(),
            enforced,
            required,
            detail: "tried".into(),
            remedy: "mount it".into(),
        };
        let t = text(&[f("memory", true, true), f("io", false, false)]);
        assert!(t.contains("  enforced  memory             tried\n  missing   io                 tried\n            try: mount it\n"), "{t}");
        assert!(t.ends_with("1 of 2 are missing; agents run without them, and say so.\n"));
        assert!(text(&[f("memory", false, true)]).contains("can't be started"));
    }
}
