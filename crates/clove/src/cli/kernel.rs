//! `clove kernel`: which kernel this is, and where it listens.

use crate::cli::counted::counted;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::limit_flags;
use crate::cli::page::Page;
use crate::cli::session::Session;
use crate::cli::table::ago;
use crate::cli::{json, stdio};
use clap::{Args, Subcommand};
use clove_abi::calls::{KernelInfo, KernelInfoReply};
use clove_client::Paths;
use clove_manifest::units::Bytes;
use serde_json::json;

/// What to tell about the kernel.
#[derive(Subcommand, Debug)]
pub enum KernelCommand {
    Info(InfoArgs),
    Socket(SocketArgs),
    Check(CheckArgs),
}

/// Applies the journal's outcomes and runs its inputs again: both must give the running kernel's state
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Shows the running kernel: process, data directory, capacity, defaults, counters
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// Prints the path of the kernel's socket
#[derive(Args, Debug)]
pub struct SocketArgs {
    /// Start the kernel first, if there is none
    #[arg(long)]
    start: bool,
}

/// Runs one of them.
pub fn run(command: &KernelCommand) -> Outcome {
    match command {
        KernelCommand::Info(args) => info(args),
        KernelCommand::Socket(args) => socket(args),
        KernelCommand::Check(args) => check(args),
    }
}

fn info(args: &InfoArgs) -> Outcome {
    let Some(mut session) = Session::open_if_running("clove kernel info")? else {
        let paths = Paths::from_env()?;
        if args.json {
            json::print(
                &json!({"id": null, "running": false, "data_dir": paths.data_dir, "socket": paths.socket()}),
            );
            return Ok(0);
        }
        return Err(Failure::new(format!("no kernel is running for {}", paths.data_dir.display()))
            .hint("the next command that needs one starts it; `clove kernel socket --start` only starts it")
            .code(1));
    };
    let reply = session.call(&KernelInfo { state_hash: true })?;
    if args.json {
        let mut value = serde_json::to_value(&reply).unwrap_or_default();
        value["id"] = json!(reply.pid);
        value["running"] = json!(true);
        json::print(&value);
    } else {
        stdio::show(&text(&reply));
    }
    Ok(0)
}

/// The three hashes, and the answers and effects of each record. The hashes are only equal when nothing happens between taking them, so a busy kernel is looked at again.
fn check(args: &CheckArgs) -> Outcome {
    let paths = Paths::from_env()?;
    let journal = paths.data_dir.join("journal");
    let failed =
        |e: crate::daemon::BookError| Failure::new("the journal can't be checked").why(e.to_string()).code(1);
    let mut session = Session::open_if_running("clove kernel check")?;
    for attempt in 0.. {
        let before = match &mut session {
            Some(s) => Some(s.call(&KernelInfo { state_hash: true })?),
            None => None,
        };
        let hashes = crate::daemon::rerun(&journal).map_err(failed)?;
        let after = match &mut session {
            Some(s) => Some(s.call(&KernelInfo { state_hash: true })?.journal_seq),
            None => None,
        };
        let busy = before.as_ref().map(|b| b.journal_seq) != after;
        if busy && attempt < 20 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        }
        let live = before.and_then(|b| b.state_hash);
        let (applied, rerun, differs) = match hashes {
            Some(r) => (Some(r.applied), Some(r.again), r.differs),
            None => (None, None, None),
        };
        let equal = !busy
            && differs.is_none()
            && applied == rerun
            && (live.is_none() || applied.is_none() || live == applied);
        if args.json {
            let differs = differs.map(|d| json!({"record": d.seq, "recorded": d.recorded, "again": d.again}));
            json::print(&json!({
                "id": "state", "equal": equal, "live": live, "applied": applied, "rerun": rerun, "differs": differs
            }));
        } else {
            if let Some(d) = &differs {
                let seq = d.seq;
                stdio::say(&format!("record {seq} was answered or acted on otherwise when it was run again"));
                stdio::say(&format!("recorded: {}", d.recorded));
                stdio::say(&format!("again:    {}", d.again));
            }
            let show = |h: &Option<String>| h.clone().unwrap_or_else(|| "not to be had".to_owned());
            let word = if equal { "equal" } else { "DIFFERENT" };
            let mut page = Page::new();
            for (what, hash) in [("live   ", &live), ("applied", &applied), ("rerun  ", &rerun)] {
                page.line(format_args!("{what}  {}", show(hash)));
            }
            page.line(word);
            stdio::show(&page);
        }
        return Ok(i32::from(!equal));
    }
    Ok(1)
}

fn text(i: &KernelInfoReply) -> Page {
    let rows = [
        ("version", format!("{} (build {})", i.version, i.build)),
        ("process", format!("{} (its launcher {})", i.pid, i.launcher_pid)),
        ("started", format!("{} by {}", ago(i.started_ms), i.started_by)),
        ("data", i.data_dir.clone()),
        ("socket", i.socket.clone()),
        ("cgroups", i.cgroup_backend.clone()),
        (
            "capacity",
            format!(
                "{} CPUs, {} of memory, {} of it set aside now",
                i.cpus,
                Bytes(i.capacity_bytes),
                Bytes(i.reserved_bytes)
            ),
        ),
        ("busy with", format!("{}, {}", counted(i.agents, "agent"), counted(i.runs_active, "run"))),
        ("defaults", limit_flags::in_words(&i.default_limits)),
        ("journal", format!("record {}, durable to {}", i.journal_seq, i.durable_seq)),
        ("calls", i.calls.to_string()),
        ("state", i.state_hash.clone().unwrap_or_default()),
    ];
    let mut page = Page::new();
    rows.iter().for_each(|(word, text)| page.line(format_args!("{word:<10} {text}")));
    page
}

fn socket(args: &SocketArgs) -> Outcome {
    let socket = if args.start {
        Session::open("clove kernel socket")?.paths.socket()
    } else {
        Paths::from_env()?.socket()
    };
    stdio::path(&socket);
    Ok(0)
}
