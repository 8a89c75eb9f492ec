//! The shell's books about cells: what the launcher has made, and which agent lives in it.

use super::foreign::Foreign;
use super::sdk::{LIBRARY_INSIDE, PYTHON_INSIDE, Sdk};
use clove_abi::ids::{AgentId, ConnId};
use clove_abi::run::{Mount, RunKind, TemplateSpec};
use clove_kernel::effect::ReplyTo;
use clove_kernel::state::{Agent, Run, State};
use clove_sandbox::protocol::{CellPolicy, Token};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

/// Inside, an agent's own socket.
pub const SOCKET_INSIDE: &str = "/run/clove/kernel.sock";
/// Inside, a cold task's configuration.
pub const CONFIG_INSIDE: &str = "/run/clove/config.json";
/// Inside, where a cold task writes its result; `work/result.json` in the scratch folder.
pub const RESULT_INSIDE: &str = "/work/result.json";
/// Inside, what a template is to load.
pub const TEMPLATE_SPEC_INSIDE: &str = "/run/clove/template.json";

/// What a cell is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A program of its own.
    Cold,
    /// Forked from this template, into this pool.
    Embryo {
        template: Token,
        pool: String,
    },
    Template,
}

/// One cell, from its request to its end.
pub struct Cell {
    pub purpose: Purpose,
    /// Whose it is; an embryo has none yet.
    pub agent: Option<AgentId>,
    /// The walls stand, and the program runs or the embryo is verified.
    pub started: bool,
    pub pid: u32,
    /// The agent's uid on the host.
    pub uid: u32,
    pub missing_walls: Vec<String>,
    pub missing_limits: Vec<String>,
    /// Its own listening socket: those who knock there are it.
    pub listener: Option<Foreign>,
    /// Its scratch folder (tmpfs).
    pub scratch: Option<OwnedFd>,
    /// Read ends that no log has taken yet.
    pub output: Option<(OwnedFd, Option<OwnedFd>)>,
    /// Write end of its standard input, or its terminal.
    pub stdin: Option<Stdin>,
    pub tty: Option<OwnedFd>,
    /// An embryo's own connection, and its `task.next` that waits for an answer.
    pub conn: Option<ConnId>,
    pub next_call: Option<ReplyTo>,
    /// Its end was asked for.
    pub killed: bool,
    /// Connections that its programs have opened.
    pub connections: u32,
    /// What it has stored in the blob store, and how much that is.
    pub blobs: std::collections::HashSet<String>,
    pub blob_bytes: u64,
    /// A checkpoint is being put back before it starts.
    pub held: bool,
    /// A result of it is on its way to the core.
    pub handing_in: bool,
}

impl Cell {
    /// One that was just asked for.
    pub fn new(purpose: Purpose, agent: Option<AgentId>) -> Cell {
        Cell {
            purpose,
            agent,
            started: false,
            pid: 0,
            uid: 0,
            missing_walls: Vec::new(),
            missing_limits: Vec::new(),
            listener: None,
            scratch: None,
            output: None,
            stdin: None,
            tty: None,
            conn: None,
            next_call: None,
            killed: false,
            connections: 0,
            blobs: std::collections::HashSet::new(),
            blob_bytes: 0,
            held: false,
            handing_in: false,
        }
    }
}

/// What is on its way to a program's standard input.
pub struct Stdin {
    pub fd: OwnedFd,
    pub queue: VecDeque<StdinPiece>,
    /// Close it when the queue is empty.
    pub closing: bool,
    pub is_tty: bool,
}

/// One `proc.stdin` call.
pub struct StdinPiece {
    pub bytes: Vec<u8>,
    pub sent: usize,
    pub to: ReplyTo,
}

/// Threads that BLAS and OpenMP get: what the CPU limit allows, else an even share.
pub fn threads_for(state: &State, run: &Run, cpu_milli: u32) -> u32 {
    if cpu_milli > 0 {
        return cpu_milli.div_ceil(1000).max(1);
    }
    (state.cpus / run.jobs(state.cpus).max(1)).max(1)
}

/// What every agent finds in its environment unless its owner said otherwise.
fn base_env(env: &mut Vec<(String, String)>) {
    for (k, v) in [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/work"),
        ("LANG", "C.UTF-8"),
        ("USER", "clove"),
        ("TMPDIR", "/tmp"),
        ("CLOVE_SOCKET", SOCKET_INSIDE),
        ("CLOVE_OUT", "/out"),
        ("CLOVE_CHECKPOINT", "/checkpoint"),
    ] {
        if !env.iter().any(|(have, _)| have == k) {
            env.push((k.to_owned(), v.to_owned()));
        }
    }
}

/// The names that libraries read for their number of threads, when they are loaded.
const THREAD_NAMES: [&str; 4] =
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

/// The threads of a task in a process of a template: what its owner asked for, else `threads_for`. The environment
/// is told too, for libraries that the task loads itself.
pub fn warm_threads(state: &State, run: &Run, cpu_milli: u32, env: &mut BTreeMap<String, String>) -> u32 {
    let asked = run.spec.env.get(THREAD_NAMES[0]).and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let threads = asked.unwrap_or_else(|| threads_for(state, run, cpu_milli));
    for k in THREAD_NAMES {
        env.entry(k.to_owned()).or_insert_with(|| threads.to_string());
    }
    threads
}

fn thread_env(env: &mut Vec<(String, String)>, threads: u32) {
    for k in THREAD_NAMES {
        if !env.iter().any(|(have, _)| have == k) {
            env.push((k.to_owned(), threads.to_string()));
        }
    }
}

/// `CLOVE_*` names of one attempt at a task.
pub fn task_env(run: &Run, agent: &Agent, seed: u64) -> Vec<(String, String)> {
    let mut env = vec![
        ("CLOVE_AGENT".to_owned(), agent.name.clone()),
        ("CLOVE_AGENT_ID".to_owned(), agent.id.to_string()),
        ("CLOVE_RUN".to_owned(), run.id.to_string()),
        ("CLOVE_ATTEMPT".to_owned(), agent.attempt.to_string()),
        ("CLOVE_SEED".to_owned(), seed.to_string()),
    ];
    if let Some(task) = agent.task {
        env.push(("CLOVE_TASK".to_owned(), task.to_string()));
    }
    env
}

/// A host name made from an agent's name.
pub fn label(name: &str) -> String {
    let s: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .skip_while(|c| *c == '-')
        .take(50)
        .collect();
    let s = s.trim_end_matches('-').to_owned();
    if s.is_empty() { "agent".to_owned() } else { s }
}

/// Who owns the user's files.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// The cell of a cold agent.
pub fn cold_policy(state: &State, agent: &Agent, owner: Owner) -> CellPolicy {
    let mut env: Vec<(String, String)> = agent.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut files = Vec::new();
    if let Some(run) = agent.run.and_then(|r| state.runs.get(&r)) {
        let seed = clove_kernel::retry::task_seed(run.spec.seed, agent.task.unwrap_or(0));
        env.extend(task_env(run, agent, seed));
        env.push(("CLOVE_CONFIG".to_owned(), CONFIG_INSIDE.to_owned()));
        env.push(("CLOVE_RESULT".to_owned(), RESULT_INSIDE.to_owned()));
        thread_env(&mut env, threads_for(state, run, agent.limits.cpu_milli));
        if let Some(task) = agent.task.and_then(|t| run.tasks.get(&t)) {
            files.push((CONFIG_INSIDE.to_owned(), format!("{}\n", task.spec.config)));
        }
    } else {
        env.push(("CLOVE_AGENT".to_owned(), agent.name.clone()));
        env.push(("CLOVE_AGENT_ID".to_owned(), agent.id.to_string()));
        if agent.limits.cpu_milli > 0 {
            thread_env(&mut env, agent.limits.cpu_milli.div_ceil(1000).max(1));
        }
    }
    base_env(&mut env);
    CellPolicy {
        label: label(&agent.name),
        limits: agent.limits.clone(),
        mounts: agent.mounts.clone(),
        env,
        cwd: agent.cwd.clone().unwrap_or_else(|| "/work".to_owned()),
        profile: agent.profile,
        tty: agent.tty,
        files,
        operator_uid: owner.uid,
        operator_gid: owner.gid,
        allow_degraded: agent.allow_degraded,
    }
}

fn sdk_mounts(mounts: &[Mount], sdk: &Sdk) -> Vec<Mount> {
    let mut all = mounts.to_vec();
    let text = |p: &std::path::Path| p.to_string_lossy().into_owned();
    all.push(Mount { source: text(&sdk.python), target: PYTHON_INSIDE.to_owned(), writable: false });
    all.push(Mount { source: text(&sdk.library), target: LIBRARY_INSIDE.to_owned(), writable: false });
    all
}

/// The environment that a template and all its agents share.
fn warm_env(run: &Run) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = run.spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    // One thread while it loads, whatever its tasks get: threads can't be forked. Each task sets its own number.
    env.retain(|(k, _)| !THREAD_NAMES.contains(&k.as_str()));
    thread_env(&mut env, 1);
    for (k, v) in [
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUNBUFFERED", "1"),
        // Forking costs less with memory in huge pages (facts: 7.2 to 3.9 ms for a large template).
        ("PYTHONMALLOC", "malloc"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ] {
        if !env.iter().any(|(have, _)| have == k) {
            env.push((k.to_owned(), v.to_owned()));
        }
    }
    // The user's own PYTHONPATH comes first, but the library must be found too.
    match env.iter_mut().find(|(k, _)| k == "PYTHONPATH") {
        Some((_, v)) => *v = format!("{v}:{PYTHON_INSIDE}"),
        None => env.push(("PYTHONPATH".to_owned(), PYTHON_INSIDE.to_owned())),
    }
    base_env(&mut env);
    env
}

/// The cell of a run's template. What it may use itself is bounded by the machine, not by one task's limits.
pub fn template_policy(state: &State, run: &Run, spec: &TemplateSpec, sdk: &Sdk, owner: Owner) -> CellPolicy {
    let mut env = warm_env(run);
    env.push(("CLOVE_TEMPLATE_SPEC".to_owned(), TEMPLATE_SPEC_INSIDE.to_owned()));
    env.push(("CLOVE_TEMPLATE_LIB".to_owned(), LIBRARY_INSIDE.to_owned()));
    let mut limits = state.defaults.clone();
    limits.memory_bytes = state.capacity_bytes;
    limits.memory_reserve_bytes = state.capacity_bytes;
    limits.pids = 4096;
    limits.disk_bytes = limits.disk_bytes.max(256 << 20);
    limits.wall_ms = 0;
    let body = serde_json::to_string(spec).unwrap_or_else(|_| "{}".to_owned());
    CellPolicy {
        label: label(&format!("template-{}", run.id)),
        limits,
        mounts: sdk_mounts(&run.spec.mounts, sdk),
        env,
        // As its agents: `setup()` finds what `run()` finds.
        cwd: run.spec.cwd.clone().unwrap_or_else(|| "/work".to_owned()),
        profile: run.spec.profile,
        tty: None,
        files: vec![(TEMPLATE_SPEC_INSIDE.to_owned(), body)],
        operator_uid: owner.uid,
        operator_gid: owner.gid,
        allow_degraded: run.spec.allow_degraded,
    }
}

/// The cell of an embryo: everything that a handing over can't set.
pub fn embryo_policy(run: &Run, limits: &clove_abi::Limits, sdk: &Sdk, owner: Owner) -> CellPolicy {
    CellPolicy {
        label: label(&run.spec.name),
        limits: limits.clone(),
        mounts: sdk_mounts(&run.spec.mounts, sdk),
        env: warm_env(run),
        cwd: "/work".to_owned(),
        profile: run.spec.profile,
        tty: None,
        files: Vec::new(),
        operator_uid: owner.uid,
        operator_gid: owner.gid,
        allow_degraded: run.spec.allow_degraded,
    }
}

/// How a warm agent gets its task.
pub fn task_mode(run: &Run) -> &'static str {
    match run.spec.kind {
        RunKind::Sweep => "script",
        RunKind::Executor => "call",
    }
}
