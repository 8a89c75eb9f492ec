//! `proc.spawn`.

use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::scheduler;
use crate::state::{Agent, AgentKind};
use clove_abi::calls::{AgentState, ProcSpawn};
use clove_abi::error::{ErrorCode, SysError};
use std::collections::BTreeMap;

/// What an unlimited cold agent reserves: a 64th of the machine, as most of them are small.
const DEFAULT_RESERVE_SHARE: u64 = 64;

/// Checks, admits, starts. Answered when the program runs or can't be started.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &ProcSpawn) -> Result<Decision, SysError> {
    let bad = |m: String| SysError::new(ErrorCode::BadArgument, m);
    let program = args.argv.first().filter(|a| !a.is_empty()).ok_or_else(|| bad("argv is empty: name a program".into()))?;
    if args.argv.iter().any(|a| a.contains('\0')) {
        return Err(bad("argv has a NUL byte in it".into()));
    }
    check_env(&args.env)?;
    args.limits.check().map_err(bad)?;
    let name = match &args.name {
        Some(n) => {
            check_name(n)?;
            if tx.state.names.contains_key(n) {
                return Err(SysError::new(ErrorCode::NameTaken, format!("a live agent is named `{n}` already"))
                    .hint("choose another --name, or end it with clove kill"));
            }
            n.clone()
        }
        None => free_name(tx, program),
    };
    let mut defaults = tx.state.defaults.clone();
    defaults.memory_bytes = tx.state.capacity_bytes / u64::from(tx.state.cpus.max(1));
    defaults.memory_reserve_bytes = tx.state.capacity_bytes / DEFAULT_RESERVE_SHARE;
    let limits = args.limits.resolve(&defaults);
    check_cpus(&args.limits, tx.state.cpus)?;
    if limits.memory_reserve_bytes > tx.state.capacity_bytes {
        return Err(SysError::new(
            ErrorCode::TooLarge,
            format!(
                "memory = {} is more than this machine can give away ({})",
                crate::judge::bytes(limits.memory_reserve_bytes),
                crate::judge::bytes(tx.state.capacity_bytes)
            ),
        ));
    }
    if tx.state.reserved_bytes.saturating_add(limits.memory_reserve_bytes) > tx.state.capacity_bytes {
        return Err(SysError::new(
            ErrorCode::Full,
            format!(
                "{} of {} are reserved by running agents, and this one asks for {}",
                crate::judge::bytes(tx.state.reserved_bytes),
                crate::judge::bytes(tx.state.capacity_bytes),
                crate::judge::bytes(limits.memory_reserve_bytes)
            ),
        )
        .hint("wait for some to end (clove ps), or ask for less --memory"));
    }
    let id = scheduler::next_id(tx.state);
    let agent = Agent {
        id,
        name,
        kind: AgentKind::Cold,
        state: AgentState::Starting,
        run: None,
        task: None,
        attempt: 1,
        idle: false,
        tasks_given: 0,
        argv: args.argv.clone(),
        env: args.env.clone(),
        mounts: args.mounts.clone(),
        cwd: args.cwd.clone(),
        tty: args.tty,
        stdin: args.stdin,
        profile: args.profile,
        allow_degraded: args.allow_degraded,
        remove: args.remove,
        // A single program isn't scheduled: it doesn't hold a CPU against sweeps.
        cpu_cost_milli: 0,
        limits,
        admitted: false,
        pid: None,
        started_wall_ms: tx.wall_ms,
        deadline_mono_ms: None,
        attached: args.attached.then_some(caller.conn()),
        ending: None,
        signalled: None,
        missing_walls: Vec::new(),
        missing_limits: Vec::new(),
        certificate: None,
    };
    tx.change(Change::AgentCreated { agent: Box::new(agent) });
    tx.effect(Effect::Start { agent: id });
    tx.waiting.add_spawn(id, caller.to);
    Ok(Decision::Later)
}

/// A name is what a host name may be, plus `_` and `.`.
pub fn check_name(name: &str) -> Result<(), SysError> {
    let ok = !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if ok && name.parse::<clove_abi::AgentId>().is_err() {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(SysError::new(
        ErrorCode::BadArgument,
        format!("name `{shown}` won't do: 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit, and not like an id"),
    ))
}

/// A quota of more CPUs than there are promises what can't be kept.
pub fn check_cpus(limits: &clove_abi::LimitsSpec, cpus: u32) -> Result<(), SysError> {
    match limits.cpu_milli {
        Some(milli) if milli > cpus.saturating_mul(1000) => Err(SysError::new(
            ErrorCode::TooLarge,
            format!("cpus = {} is more than the {cpus} of this machine", f64::from(milli) / 1000.0),
        )),
        _ => Ok(()),
    }
}

/// Names and values that execve(2) can carry.
pub fn check_env(env: &BTreeMap<String, String>) -> Result<(), SysError> {
    for (k, v) in env {
        if k.is_empty() || k.contains('=') || k.contains('\0') || v.contains('\0') {
            let shown: String = k.chars().take(60).collect();
            return Err(SysError::new(
                ErrorCode::BadArgument,
                format!("environment variable `{shown}`: a name can't be empty or hold `=` or NUL, a value can't hold NUL"),
            ));
        }
    }
    Ok(())
}

fn free_name(tx: &Tx<'_>, program: &str) -> String {
    let base: String = program
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(40)
        .collect();
    let base = if base.is_empty() { "agent".to_owned() } else { base };
    (1..).map(|n| format!("{base}-{n}")).find(|n| !tx.state.names.contains_key(n)).unwrap_or(base)
}
