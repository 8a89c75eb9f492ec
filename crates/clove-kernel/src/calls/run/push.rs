//! `run.push`.

use crate::calls::run::submit::check_tasks;
use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::effect::Effect;
use crate::input::Tail;
use crate::view;
use clove_abi::calls::{RunPush, RunPushReply};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::TaskIndex;
use clove_abi::run::{RunKind, RunState};

/// Tasks that an executor session may have waiting.
const MAX_OPEN: usize = 1_000_000;

/// Adds tasks, and forgets those whose results their owner has taken in. The shell has split the tail: the inputs'
/// keys follow the first one.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunPush) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    if run.spec.kind != RunKind::Executor || run.closed || run.state != RunState::Active {
        return Err(SysError::new(ErrorCode::RunClosed, format!("{} takes no more tasks", args.run)));
    }
    check_tasks(&args.tasks, run.next_index)?;
    if run.tasks.len() + args.tasks.len() > MAX_OPEN {
        return Err(SysError::new(ErrorCode::Full, format!("{} has {} tasks open", args.run, run.tasks.len())));
    }
    let wanted: u64 = args.tasks.iter().map(|t| t.payload_bytes).fold(0, u64::saturating_add);
    if wanted != caller.tail.bytes {
        return Err(SysError::new(
            ErrorCode::BadArgument,
            format!("the tasks' inputs have {wanted} bytes together, the tail has {}", caller.tail.bytes),
        ));
    }
    let first = run.next_index;
    let taken: Vec<TaskIndex> = run
        .by_change
        .range(..=args.collected)
        .filter(|(_, i)| run.tasks.get(i).is_some_and(|t| t.state.is_final()))
        .map(|(_, i)| *i)
        .collect();
    if !taken.is_empty() {
        tx.change(Change::TasksForgotten { run: args.run, tasks: taken.clone() });
        tx.effect(Effect::DropPayloads { run: args.run, tasks: taken });
    }
    let tails = args
        .tasks
        .iter()
        .enumerate()
        .map(|(i, t)| Tail { bytes: t.payload_bytes, key: if t.payload_bytes > 0 { caller.tail.key + i as u64 } else { 0 } })
        .collect();
    tx.change(Change::TasksAdded { run: args.run, tasks: args.tasks.clone(), tails });
    Ok(Decision::reply(&RunPushReply { first }))
}
