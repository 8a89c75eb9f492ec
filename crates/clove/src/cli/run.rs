//! `clove run`: one program as an isolated agent.

use crate::cli::ending;
use crate::cli::environment::{self, Wishes};
use crate::cli::failure::{Failure, NOT_FOUND, Outcome};
use crate::cli::hints::{self, Scene};
use crate::cli::interpreter::{self, Program};
use crate::cli::limit_flags::{self, LimitFlags};
use crate::cli::session::Session;
use crate::cli::stdio::Stream;
use crate::cli::{json, relay, stdio, terminal, visibility};
use clap::Args;
use clove_abi::calls::{ProcSpawn, ProcSpawnReply, ProcWait};
use clove_abi::run::{Mount, Profile};
use clove_abi::untrusted::Untrusted;
use clove_manifest::suggestion::nearest;
use clove_manifest::units::Bytes;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Runs a program in isolation, and ends as it ends
#[derive(Args, Debug)]
#[command(after_long_help = "\
Exit codes: the program's own; 124 timeout, 125 CloveOS refused or failed, 126 not executable,
127 not found, 137 out of memory, 128+N ended by signal N. The last line on standard error
names the cause: `clove: oom: ...`.

Standard input is handed on with -i, and always when it is a pipe or a file; write `< /dev/null`
to keep it back.

Examples:
  clove run -- echo hello
  clove run --here --memory 2g -- python3 train.py
  clove run -it --rm -- bash
  clove run -d --name miner -v /data:/data -- ./mine /data")]
pub struct RunArgs {
    /// Name, unique among live agents; made from the program when absent
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    limits: LimitFlags,
    /// Environment variable; without a value, the caller's. Nothing else of the caller's environment is seen
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Show a folder or file of the host: SRC:DST, read-only; SRC:DST:rw to let it write
    #[arg(long = "volume", short = 'v', visible_alias = "mount", value_name = "SRC:DST[:rw]")]
    mounts: Vec<String>,
    /// Working folder inside; /work when absent
    #[arg(long, short = 'w', value_name = "DIR")]
    workdir: Option<String>,
    /// Show the current folder, read-only at the same path, and work in it
    #[arg(long)]
    here: bool,
    /// Hand standard input on
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Give it a terminal of its own
    #[arg(long, short = 't')]
    tty: bool,
    /// Print its id and leave it running
    #[arg(long, short = 'd')]
    detach: bool,
    /// Forget it, its certificate and output when it has ended
    #[arg(long)]
    rm: bool,
    /// Print its end as JSON; its standard output goes to standard error then
    #[arg(long)]
    json: bool,
    /// Start although a limit can't be enforced here; marked on every listing
    #[arg(long)]
    allow_degraded: bool,
    /// Which system calls it may make: strict has only those that the supported runtimes are known to need
    #[arg(long, value_name = "default|strict", value_parser = ["default", "strict"])]
    profile: Option<String>,
    /// The program with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM [ARGS]"
    )]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Outcome {
    let folder = current_folder()?;
    if args.tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(Failure::new("-it needs a terminal, and standard input isn't one")
            .hint("leave -t out to hand on a pipe"));
    }
    let call = spawn_call(args, &folder)?;
    let mounts = call.mounts.clone();
    let mut session = Session::open("clove run")?;
    let started = session.call(&call)?;
    say_what_is_missing(&started);
    say_defaults_once(&session, args, &started);
    if args.detach {
        if args.json {
            json::print(&started_json(&started));
        } else {
            stdio::line(started.agent);
        }
        return Ok(0);
    }
    attend(args, session, &started, call.stdin, &folder, &mounts)
}

fn spawn_call(args: &RunArgs, folder: &Path) -> Result<ProcSpawn, Failure> {
    let mut mounts = Vec::new();
    if args.here {
        mounts.extend(visibility::here(folder, "the current folder")?);
    }
    mounts.extend(visibility::from_flags(&args.mounts, folder)?);
    let program = program(args, folder, &mounts)?;
    mounts.extend(program.mounts.iter().cloned());
    let env = environment::build(
        &Wishes {
            path_folders: &program.path_folders,
            interpreter: &program.env,
            tty: args.tty,
            flags: &args.env,
        },
        environment::of_caller,
    )?;
    let cwd = match &args.workdir {
        Some(dir) if !dir.starts_with('/') => {
            return Err(Failure::usage(format!("-w {dir} isn't absolute"))
                .hint(format!("write -w {}", Untrusted::new(&format!("/work/{dir}")).shell_path())));
        }
        Some(dir) => Some(dir.clone()),
        None if args.here => Some(folder.display().to_string()),
        None => None,
    };
    let mut argv = args.command.clone();
    if let Some(first) = argv.first_mut() {
        first.clone_from(&program.path);
    }
    Ok(ProcSpawn {
        name: args.name.clone(),
        argv,
        limits: args.limits.spec()?,
        env,
        mounts: visibility::without_repeats(mounts),
        cwd,
        tty: args.tty.then(|| terminal::size().unwrap_or((24, 80))),
        stdin: args.interactive || (!args.detach && !args.tty && relay::stdin_is_piped()),
        attached: !args.detach,
        profile: match args.profile.as_deref() {
            Some("strict") => Profile::Strict,
            _ => Profile::Default,
        },
        allow_degraded: args.allow_degraded,
        remove: args.rm,
    })
}

/// What the first word means. A program that only the sandbox has (in a mount, or on a PATH given by `-e`) is left to
/// the kernel to find.
fn program(args: &RunArgs, folder: &Path, mounts: &[Mount]) -> Result<Program, Failure> {
    let name = &args.command[0];
    if name.starts_with('-') {
        return Err(unknown_flag(name));
    }
    let inside = Program { path: name.clone(), ..Program::default() };
    let in_a_mount = mounts.iter().any(|m| m.source != m.target && Path::new(name).starts_with(&m.target));
    if in_a_mount {
        return Ok(inside);
    }
    let path_variable =
        environment::of_caller("PATH").unwrap_or_else(|| environment::DEFAULT_PATH.to_owned());
    match interpreter::resolve(name, &path_variable, folder) {
        Err(e) if e.code == NOT_FOUND && args.env.iter().any(|v| v.starts_with("PATH=")) => Ok(inside),
        other => other,
    }
}

/// Everything after the first word that is no flag of ours belongs to the program, so clap takes a mistyped flag for one.
fn unknown_flag(word: &str) -> Failure {
    let command = RunArgs::augment_args(clap::Command::new("run"));
    let known: Vec<String> = command
        .get_arguments()
        .flat_map(|a| {
            let names = a.get_long().into_iter().chain(a.get_all_aliases().unwrap_or_default());
            names.map(|n| format!("--{n}")).collect::<Vec<_>>()
        })
        .collect();
    let bare = word.split('=').next().unwrap_or(word);
    let f = Failure::usage(format!("`{bare}` is no flag of `clove run`"));
    match nearest(bare, known.iter().map(String::as_str)) {
        Some(near) => f.hint(format!("did you mean {near}?")),
        None => f.hint("`clove run --help` lists them; the program's own flags come after its name"),
    }
}

fn attend(
    args: &RunArgs,
    mut session: Session,
    started: &ProcSpawnReply,
    with_stdin: bool,
    folder: &Path,
    mounts: &[Mount],
) -> Outcome {
    let id = started.agent.to_string();
    let handed_on = relay::hand_on_signals(session.again()?, id.clone())?;
    let raw = if args.tty && args.interactive { Some(terminal::RawTerminal::enter()?) } else { None };
    if with_stdin {
        relay::feed(session.again()?, id.clone());
    }
    let mut pumps = vec![relay::pump(
        session.again()?,
        id.clone(),
        Some("out"),
        if args.json { Stream::Err } else { Stream::Out },
    )];
    if !args.tty {
        pumps.push(relay::pump(session.again()?, id.clone(), Some("err"), Stream::Err));
    }
    let mut relayed = Ok(());
    let mut missed = 0;
    for pump in pumps {
        match pump.join() {
            Ok(Ok(n)) => missed += n,
            Ok(Err(e)) => relayed = Err(e),
            Err(_) => {
                return Err(
                    Failure::new("a thread that relays output failed").hint("report this: it is a bug")
                );
            }
        }
    }
    // Asked only after all of its output was taken: with --rm, the answer is the last that is known of it.
    let waited = session.call(&ProcWait { target: id.clone(), timeout_ms: None });
    drop(raw);
    let reply = match (relayed, waited) {
        (_, Ok(reply)) => reply,
        (_, Err(e)) => {
            return Err(Failure::from(e)
                .why(format!("{id} was attached to this command, so it ended with the kernel")));
        }
    };
    let Some(c) = reply.certificate else {
        return Err(
            Failure::new(format!("the kernel has no certificate of {id}")).hint("report this: it is a bug")
        );
    };
    let code = reply.code.unwrap_or_else(|| c.shell_code());
    if code != 0 {
        let scene = Scene { mounts, folder, here: args.here, home: visibility::home() };
        for hint in hints::from_tail(&c.tail, &scene) {
            stdio::say(&format!("hint: {hint}"));
        }
    }
    if missed > 0 {
        stdio::say(&format!("note: {} of its output were lost", Bytes(missed)));
    }
    // A program that ended by the Ctrl-C which we handed on needs no explanation.
    let by_our_signal = handed_on.load(Ordering::Relaxed) && c.signal.is_some_and(|s| s == 2 || s == 15);
    if !by_our_signal {
        ending::tell(&c);
    }
    if args.json {
        let mut value = json!({
            "id": id,
            "name": started.name,
            "code": code,
            "cause": c.cause.word(),
            "message": c.message,
            "seconds": c.wall_ms() as f64 / 1000.0,
        });
        value["certificate"] = serde_json::to_value(&c).unwrap_or_default();
        json::print(&value);
    }
    Ok(code)
}

fn started_json(s: &ProcSpawnReply) -> serde_json::Value {
    json!({
        "id": s.agent,
        "name": s.name,
        "limits": s.limits,
        "missing_walls": s.missing_walls,
        "missing_limits": s.missing_limits,
    })
}

fn say_what_is_missing(s: &ProcSpawnReply) {
    if !s.missing_limits.is_empty() {
        stdio::say(&format!("warning: not enforced on this host: {}", s.missing_limits.join(", ")));
    }
}

/// Tells the limits that nobody asked for, once in a kernel's life, and only to a person.
fn say_defaults_once(session: &Session, args: &RunArgs, started: &ProcSpawnReply) {
    let l = &args.limits;
    let all_given = l.memory.is_some() && l.pids_limit.is_some() && l.disk.is_some() && l.timeout.is_some();
    if all_given || !stdio::stderr_is_lively() || args.tty {
        return;
    }
    let mark = session.paths.runtime_dir.join("defaults-told");
    if std::fs::OpenOptions::new().write(true).create_new(true).open(mark).is_ok() {
        stdio::say(&format!(
            "limits: {} (where not given, defaults; --memory, --pids, ... change them; not told again)",
            limit_flags::in_words(&started.limits)
        ));
    }
}

/// The caller's folder, by the path that the caller knows it by.
///
/// # Errors
/// It was removed.
pub fn current_folder() -> Result<PathBuf, Failure> {
    let real = std::env::current_dir().map_err(|e| {
        Failure::new("the current folder can't be found")
            .why(clove_client::paths::in_words(&e))
            .hint("cd to a folder that exists")
    })?;
    // $PWD keeps links as the shell shows them, but only if it is still right.
    let logical = std::env::var_os("PWD").map(PathBuf::from).filter(|p| p.is_absolute());
    Ok(logical.filter(|p| p.canonicalize().is_ok_and(|c| c == real)).unwrap_or(real))
}
