//! `clove doctor`: what this host enforces, found out by trying.

use crate::cli::counted::counted;
use crate::cli::failure::Outcome;
use crate::cli::page::{Page, Paint};
use crate::cli::{json, stdio};
use crate::daemon::sdk;
use clap::Args;
use clove_client::Paths;
use clove_sandbox::LauncherConfig;
use clove_sandbox::probe::{Finding, Kind, probe};
use serde_json::json;

/// Tries every protection and limit on this host, and names the remedy for what is missing
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 every protection that is required and every limit is there, 1 some aren't."
)]
pub struct DoctorArgs {
    /// Print a list of objects
    #[arg(long)]
    json: bool,
}

/// Runs the command. It forks trial agents, so it comes before anything that makes a thread.
pub fn run(args: &DoctorArgs) -> Outcome {
    let paths = Paths::from_env()?;
    let config =
        LauncherConfig { data_dir: paths.data_dir.clone(), protected: vec![paths.runtime_dir.clone()] };
    let mut all = probe(&config);
    all.push(library());
    if args.json {
        let rows: Vec<_> = all
            .iter()
            .map(|f| {
                let mut v = serde_json::to_value(f).unwrap_or_default();
                v["required"] = json!(is_required(f));
                v
            })
            .collect();
        json::print(&rows);
    } else {
        let mut page = Page::new();
        page.line(host());
        page.line("");
        page.append(&text(&all, stdio::Stream::Out.is_colourful()));
        stdio::show(&page);
    }
    Ok(i32::from(all.iter().any(|f| is_required(f) && !f.enforced)))
}

/// Without it, agents aren't started (unless the operator allows a limit to be missing). Landlock is an extra wall:
/// agents run without it and say so.
fn is_required(f: &Finding) -> bool {
    match f.kind {
        Kind::Protection => f.id != "landlock",
        Kind::Limit => true,
        Kind::Feature => f.id == "launcher",
    }
}

/// The parts that warm agents need.
fn library() -> Finding {
    let found = sdk::find_sdk();
    Finding {
        id: "sdk",
        kind: Kind::Feature,
        name: "Python library",
        enforced: found.is_ok(),
        how: match &found {
            Ok(s) => s.python.display().to_string(),
            Err(e) => e.to_string(),
        },
        remedy: if found.is_ok() {
            String::new()
        } else {
            "set CLOVE_SDK to the folder that has `cloveos` in it".into()
        },
    }
}

fn host() -> String {
    let u = rustix::system::uname();
    format!(
        "{} {}, uid {}",
        u.sysname().to_string_lossy(),
        u.release().to_string_lossy(),
        rustix::process::geteuid().as_raw()
    )
}

fn text(all: &[Finding], coloured: bool) -> Page {
    let mut page = Page::new();
    let widest = all.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
    for (kind, heading, yes) in [
        (Kind::Protection, "Protections", "enforced"),
        (Kind::Limit, "Limits", "enforced"),
        (Kind::Feature, "Features", "there"),
    ] {
        let of_kind: Vec<_> = all.iter().filter(|f| f.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        page.line(heading);
        for f in of_kind {
            let (paint, word) = if f.enforced { (Paint::Green, yes) } else { (Paint::Red, "missing") };
            page.painted_line(
                "  ",
                coloured.then_some(paint),
                format_args!("{word:<8}"),
                format_args!("  {:<widest$}  {}", f.name, f.how),
            );
            if !f.enforced && !f.remedy.is_empty() {
                page.line(format_args!("            try: {}", f.remedy));
            }
        }
        page.line("");
    }
    let missing = all.iter().filter(|f| !f.enforced);
    let (walls, limits, others) =
        missing.fold((0u32, 0u32, 0u32), |(w, l, o), f| match (f.kind, is_required(f)) {
            (Kind::Limit, _) => (w, l + 1, o),
            (_, true) => (w + 1, l, o),
            (_, false) => (w, l, o + 1),
        });
    page.line(match (walls, limits, others) {
        (0, 0, 0) => format!("All {} are there.", all.len()),
        (0, 0, n) => format!("{n} of {} are missing; agents run without, and say so.", all.len()),
        (0, n, _) => {
            format!(
                "{} can't be enforced: agents start only with --allow-degraded, and say so.",
                counted(n, "limit")
            )
        }
        (n, _, _) => {
            format!("{} missing: agents can't be started on this host.", counted(n, "required protection"))
        }
    });
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let text = |all: &[Finding]| super::text(all, false).to_string();
        let f = |id, kind, enforced| Finding {
            id,
            kind,
            name: id,
            enforced,
            how: "tried".into(),
            remedy: if enforced { String::new() } else { "mount it".into() },
        };
        let t = text(&[f("seccomp", Kind::Protection, true), f("landlock", Kind::Protection, false)]);
        let lines = "  enforced  seccomp   tried\n  missing   landlock  tried\n            try: mount it\n";
        assert!(t.contains(lines), "{t}");
        assert!(t.ends_with("1 of 2 are missing; agents run without, and say so.\n"), "{t}");
        assert!(text(&[f("memory", Kind::Limit, false)]).contains("--allow-degraded"));
        assert!(text(&[f("user", Kind::Protection, false)]).contains("can't be started"));
        assert!(text(&[f("idmap", Kind::Feature, true)]).contains("All 1 are there"));
    }
}
