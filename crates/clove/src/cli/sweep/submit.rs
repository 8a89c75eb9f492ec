//! `clove sweep run`: from a file, or a script and flags, to a run.

use super::follow;
use super::workload::{self, Additions};
use crate::cli::counted::counted;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::limit_flags::{self, LimitFlags};
use crate::cli::run::current_folder;
use crate::cli::session::Session;
use crate::cli::{json, stdio, visibility};
use clap::Args;
use clove_abi::RunId;
use clove_abi::calls::{KernelInfo, RunSubmit};
use clove_abi::run::{OnOom, Profile, RunSpec, TaskSpec};
use clove_client::ClientError;
use clove_manifest::configurations::Axes;
use clove_manifest::random::Random;
use clove_manifest::task_name::Pattern;
use clove_manifest::{Diagnostic, Entry, Located, Sweep, flags, source};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Runs a sweep: a TOML file, or a script with --grid, --list or --random
#[derive(Args, Debug)]
#[command(after_long_help = "\
A Python script defines run(config, shared) and returns its result; setup() may load once what
all share. Any other program finds its configuration in the JSON file $CLOVE_CONFIG and writes
its result to $CLOVE_RESULT.

A sweep belongs to the kernel: it goes on when the terminal is closed. Ctrl-C twice cancels it.

Exit codes: 0 every task is done, 1 some failed, 125 the sweep couldn't be run, 130 cancelled.

Examples:
  clove sweep run sweep.toml
  clove sweep run train.py --grid lr=0.1,0.01 --grid depth=2,4,8 --memory 1g
  clove sweep run train.py --random lr=1e-4..1e-1:log --samples 200 --seed 7 -d
  clove sweep run ./trial.sh --list configurations.jsonl --jobs 8")]
pub struct RunArgs {
    /// A sweep file (.toml), a Python script (.py), or a program
    #[arg(value_name = "FILE|SCRIPT")]
    file: PathBuf,
    /// Values of one key; every combination is run
    #[arg(long, value_name = "KEY=A,B,...")]
    grid: Vec<String>,
    /// Configurations as a JSON array, or one JSON object per line
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Draw a key at random: 1..10, 0.1..1, 1e-4..1e-1:log or a|b|c
    #[arg(long, value_name = "KEY=RANGE")]
    random: Vec<String>,
    /// How many configurations --random draws
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// The draws and the tasks' seeds follow from it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Tasks at a time; as many as there are CPUs when absent
    #[arg(long, short = 'j', value_name = "N")]
    jobs: Option<u32>,
    /// Name in listings
    #[arg(long)]
    name: Option<String>,
    /// Names of the tasks, such as {model}-{lr}
    #[arg(long, value_name = "PATTERN")]
    task_name: Option<String>,
    /// The interpreter; the active virtual environment's, or python3, when absent
    #[arg(long, value_name = "PATH")]
    python: Option<String>,
    /// Module to import once, before the tasks are forked
    #[arg(long, value_name = "MODULE")]
    preload: Vec<String>,
    /// Tasks that one isolated worker takes in a row; 1 is a fresh process for each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reuse: Option<u32>,
    /// Further attempts after a crash, running out of memory, a timeout or a kill
    #[arg(long, value_name = "N")]
    retry_deaths: Option<u32>,
    /// Further attempts after an exception or an exit code
    #[arg(long, value_name = "N")]
    retry_failures: Option<u32>,
    /// A task that ran out of memory is tried again with the same, or twice as much
    #[arg(long, value_name = "keep|double", value_parser = ["keep", "double"])]
    on_oom: Option<String>,
    /// Sweeps of higher priority go first
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    priority: Option<i32>,
    #[command(flatten)]
    limits: LimitFlags,
    /// Environment variable; without a value, the caller's
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Show a folder or file of the host: SRC:DST, read-only; SRC:DST:rw to let tasks write
    #[arg(long = "volume", short = 'v', visible_alias = "mount", value_name = "SRC:DST[:rw]")]
    mounts: Vec<String>,
    /// Shell command to run at its end, or when it stalls
    #[arg(long, value_name = "COMMAND")]
    notify: Option<String>,
    /// Start although a limit can't be enforced here; marked on every listing
    #[arg(long)]
    allow_degraded: bool,
    /// Which system calls tasks may make: strict has only those that the supported runtimes are known to need
    #[arg(long, value_name = "default|strict", value_parser = ["default", "strict"])]
    profile: Option<String>,
    /// Print its id and leave it running
    #[arg(long, short = 'd')]
    detach: bool,
    /// Print what would be run as JSON, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Outcome {
    let folder = current_folder()?;
    let sweep = sweep(args, &folder)?;
    let tasks = sweep.tasks()?;
    let file = source::absolute(&args.file, &folder);
    let add = Additions { env: &args.env, mounts: &args.mounts, folder, allow_degraded: args.allow_degraded };
    let spec = workload::spec(&sweep, file.parent().unwrap_or(Path::new("/")), &add)?;
    if args.dry_run {
        let tasks: Vec<_> = tasks
            .iter()
            .enumerate()
            .map(|(i, t)| json!({"id": i, "name": t.name, "config": t.config, "expected_ms": t.expected_ms}))
            .collect();
        json::print(&json!({"spec": spec, "tasks": tasks}));
        return Ok(0);
    }
    can_be_kept(spec.profile)?;
    let mut session = Session::open("clove sweep run")?;
    let total = tasks.len();
    let run = submit(&mut session, spec.clone(), tasks)?;
    if args.detach {
        if args.json {
            json::print(&json!({"id": run, "name": spec.name, "total": total}));
        } else {
            stdio::line(run);
        }
        return Ok(0);
    }
    say_limits(&mut session, &spec);
    stdio::say(&format!(
        "{run}: {} of {}; Ctrl-C twice cancels, closing the terminal doesn't",
        counted(total as u64, "task"),
        spec.name
    ));
    follow::to_the_end(session, run, args.json)
}

/// The launcher refuses each start of such a task; said here, it is said once.
fn can_be_kept(profile: Profile) -> Result<(), Failure> {
    if profile == Profile::Strict && clove_sys::landlock::abi().is_none() {
        return Err(Failure::new("the strict profile needs Landlock, which this host's Linux hasn't got")
            .hint("use the default profile; `clove doctor` says what would give this host Landlock"));
    }
    Ok(())
}

fn submit(session: &mut Session, spec: RunSpec, tasks: Vec<TaskSpec>) -> Result<RunId, Failure> {
    let total = tasks.len();
    match session.call(&RunSubmit { spec, tasks }) {
        Ok(reply) => Ok(reply.run),
        Err(ClientError::TooLong { bytes, most, .. }) => Err(Failure::new(format!(
            "the sweep's {total} configurations take {} MiB, more than one submission holds ({} MiB)",
            bytes >> 20,
            most >> 20
        ))
        .hint("split it, or give each task a number and let the script look the rest up in a file")),
        Err(e) => Err(e.into()),
    }
}

/// Tells the limits that will hold, and that they can be changed. Nothing is lost when they can't be asked for.
fn say_limits(session: &mut Session, spec: &RunSpec) {
    let Ok(info) = session.call(&KernelInfo { state_hash: false }) else { return };
    let l = &spec.limits;
    let given = [l.memory_bytes.is_some(), l.pids.is_some(), l.disk_bytes.is_some(), l.wall_ms.is_some()];
    let note = if given.iter().all(|g| *g) {
        ""
    } else if given.iter().any(|g| *g) {
        " (where not given, defaults; [limits] or --memory, --timeout, ... change them)"
    } else {
        " (defaults; [limits] or --memory, --timeout, ... change them)"
    };
    stdio::say(&format!(
        "limits of each task: {}{note}",
        limit_flags::in_words(&l.resolve(&info.default_limits))
    ));
}

fn sweep(args: &RunArgs, folder: &Path) -> Result<Sweep, Failure> {
    let mut sweep = load(args, folder)?;
    sweep.limits = sweep.limits.overlaid(&args.limits.spec()?);
    if let Some(n) = args.jobs {
        sweep.jobs = n;
    }
    if let Some(n) = args.seed {
        sweep.seed = n;
    }
    if let Some(n) = args.priority {
        sweep.priority = n;
    }
    if let Some(n) = args.reuse {
        sweep.reuse = n;
    }
    if let Some(n) = args.retry_deaths {
        sweep.retry.deaths = n;
    }
    if let Some(n) = args.retry_failures {
        sweep.retry.failures = n;
    }
    if let Some(word) = &args.on_oom {
        sweep.on_oom = if word == "double" { OnOom::Double } else { OnOom::Keep };
    }
    if let Some(word) = &args.profile {
        sweep.profile = if word == "strict" { Profile::Strict } else { Profile::Default };
    }
    if let Some(name) = &args.name {
        sweep.name.clone_from(name);
    }
    if let Some(command) = &args.notify {
        sweep.notify = Some(command.clone());
    }
    sweep.preload.extend(args.preload.iter().cloned());
    if let Some(python) = &args.python {
        let path = if python.contains('/') {
            source::absolute(Path::new(python), folder).display().to_string()
        } else {
            python.clone()
        };
        sweep.python = Some(Located::nowhere(path));
    }
    if let Some(pattern) = &args.task_name {
        let pattern = Pattern::parse(pattern).map_err(|what| {
            Failure::usage(format!("--task-name: {what}")).hint("write for example {model}-{lr}")
        })?;
        sweep.task_name = Some(Located::nowhere(pattern));
    }
    axes(args, &mut sweep.axes)?;
    Ok(sweep)
}

/// A TOML file says everything itself; a script is a sweep of its own name.
fn load(args: &RunArgs, folder: &Path) -> Result<Sweep, Failure> {
    let path = &args.file;
    let is_program = (source::is_python(path) && path.is_file())
        || (path.extension().is_none_or(|e| e != "toml") && executable(path));
    if !is_program {
        if path.extension().is_none_or(|e| e != "toml") && path.is_file() {
            return Err(Failure::new(format!(
                "{} is neither a sweep file (.toml), nor a Python script (.py), nor executable",
                path.display()
            ))
            .hint(format!("rename it, or chmod +x {}", visibility::shell_path(path))));
        }
        return Ok(source::read_sweep(path)?);
    }
    let name = clove_manifest::sweep::name_of_file(path);
    let entry = Entry::Script(Located::nowhere(path.clone()));
    let mut sweep = Sweep::of(path.display().to_string(), name, entry);
    source::anchor(&mut sweep, folder)?;
    Ok(sweep)
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// What the flags say about configurations takes the place of what the file says about the same key.
fn axes(args: &RunArgs, axes: &mut Axes) -> Result<(), Failure> {
    let mut given = Vec::new();
    for text in &args.grid {
        let (key, values) = flags::grid(text)?;
        if given.contains(&key) {
            return Err(Failure::usage(format!("--grid {key} is given twice"))
                .hint(format!("write all its values at once: --grid {key}=A,B,...")));
        }
        given.push(key.clone());
        match axes.grid.iter_mut().find(|(k, _)| *k == key) {
            Some(axis) => axis.1 = values,
            None => axes.grid.push((key, values)),
        }
    }
    if let Some(path) = &args.list {
        let text = source::read_text(path, "a file of configurations")?;
        let list = flags::list(&text)
            .map_err(|e| Diagnostic::new(path.display().to_string(), e.what).hint(e.hint))?;
        axes.list = Some(list);
    }
    if !args.random.is_empty() || args.samples.is_some() {
        let random = axes.random.get_or_insert_with(Random::default);
        for text in &args.random {
            let (key, draw) = flags::random(text)?;
            match random.params.iter_mut().find(|(k, _)| *k == key) {
                Some(param) => param.1 = draw,
                None => random.params.push((key, draw)),
            }
        }
        if let Some(n) = args.samples {
            random.samples = n;
        }
        if random.params.is_empty() {
            return Err(
                Failure::usage("--samples has nothing to draw from").hint("add --random lr=1e-4..1e-1:log")
            );
        }
        if random.samples == 0 {
            return Err(Failure::usage("--random doesn't say how many to draw").hint("add --samples 100"));
        }
    }
    Ok(())
}
