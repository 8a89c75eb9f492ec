//! `run.submit`.

use crate::calls::proc::spawn::{check_cpus, check_env};
use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::scheduler;
use crate::view::json_len;
use clove_abi::calls::{RunSubmit, RunSubmitReply};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::RunId;
use clove_abi::run::{Program, RunKind, RunSpec, TaskSpec};
use std::collections::BTreeSet;

/// Tasks of one run.
pub const MAX_TASKS: usize = 1_000_000;

/// Checks everything that can be checked before anything starts.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunSubmit) -> Result<Decision, SysError> {
    check_spec(&args.spec)?;
    check_tasks(&args.tasks, 0)?;
    for limits in std::iter::once(&args.spec.limits).chain(args.tasks.iter().map(|t| &t.limits)) {
        check_cpus(limits, tx.state.cpus)?;
    }
    let bad = |m: String| SysError::new(ErrorCode::BadArgument, m);
    if args.spec.kind == RunKind::Sweep && args.tasks.is_empty() {
        return Err(bad("a sweep needs at least one task".into()));
    }
    if args.tasks.iter().any(|t| t.payload_bytes > 0) {
        return Err(bad("opaque inputs come with run.push".into()));
    }
    let mut names = BTreeSet::new();
    for t in args.tasks.iter().filter(|t| !t.name.is_empty()) {
        if !names.insert(t.name.as_str()) {
            return Err(bad(format!("two tasks are named `{}`", t.name)));
        }
    }
    let id = RunId(tx.state.next_run);
    let conn = args.spec.attached.then_some(caller.conn());
    tx.change(Change::RunCreated { id, spec: Box::new(args.spec.clone()), submitted_ms: tx.wall_ms, conn });
    if !args.tasks.is_empty() {
        tx.change(Change::TasksAdded { run: id, tasks: args.tasks.clone(), tails: Vec::new() });
    }
    let largest = tx.state.runs.get(&id).map(|r| {
        r.tasks.keys().map(|i| scheduler::task_limits(tx.state, r, *i).memory_reserve_bytes).max().unwrap_or(0)
    });
    if largest.unwrap_or(0) > tx.state.capacity_bytes {
        let message = format!(
            "a task asks for {} of memory, more than this machine can give away ({})",
            crate::judge::bytes(largest.unwrap_or(0)),
            crate::judge::bytes(tx.state.capacity_bytes)
        );
        crate::lifecycle::cancel_run(tx, id, &message);
        return Err(SysError::new(ErrorCode::TooLarge, message).hint("ask for less memory"));
    }
    Ok(Decision::reply(&RunSubmitReply { run: id }))
}

/// Longest configuration of a task, as JSON: with its result it has to fit into one answer.
const MOST_CONFIG: usize = 4 << 20;

fn check_spec(spec: &RunSpec) -> Result<(), SysError> {
    let bad = |m: String| SysError::new(ErrorCode::BadArgument, m);
    // It goes into environments (NUL can't) and is told by other programs than ours.
    if spec.name.is_empty() || spec.name.len() > 200 || spec.name.chars().any(char::is_control) {
        return Err(bad("a run's name has 1 to 200 bytes and no control characters".into()));
    }
    if spec.jobs > 100_000 {
        return Err(bad(format!("jobs = {} is out of range: 1 to 100000", spec.jobs)));
    }
    if !(1..=1_000_000).contains(&spec.reuse) {
        return Err(bad(format!("reuse = {} is out of range: 1 (a fresh process each) to 1000000", spec.reuse)));
    }
    match &spec.program {
        Program::Cold { argv } if argv.first().is_none_or(String::is_empty) => {
            return Err(bad("the program is empty".into()));
        }
        Program::Cold { .. } if spec.reuse > 1 => {
            return Err(bad("reuse needs a Python script: another program is started for each task".into()));
        }
        Program::Warm(t) if !t.python.starts_with('/') => {
            return Err(bad(format!("python = `{}` must be an absolute path", t.python)));
        }
        _ => {}
    }
    check_env(&spec.env)?;
    spec.limits.check().map_err(bad)
}

/// Names, limits and sizes of tasks.
pub fn check_tasks(tasks: &[TaskSpec], already: u32) -> Result<(), SysError> {
    let bad = |m: String| SysError::new(ErrorCode::BadArgument, m);
    if tasks.len() + already as usize > MAX_TASKS && already == 0 {
        return Err(bad(format!("{} tasks are more than the {MAX_TASKS} that a run can have", tasks.len())));
    }
    for (i, t) in tasks.iter().enumerate() {
        if t.name.len() > 128 || t.name.chars().any(char::is_control) {
            return Err(bad(format!("task {i}: a name has at most 128 bytes and no control characters")));
        }
        t.limits.check().map_err(|m| bad(format!("task {i}: {m}")))?;
        let bytes = json_len(&t.config);
        if bytes > MOST_CONFIG {
            return Err(bad(format!("task {i}: its configuration has {bytes} bytes, at most {MOST_CONFIG} are taken")));
        }
    }
    Ok(())
}
