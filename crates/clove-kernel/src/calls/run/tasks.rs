//! `run.tasks`.

use crate::core::{Caller, Decision, Tx, json};
use crate::effect::Effect;
use crate::view;
use clove_abi::calls::{RunTasks, RunTasksReply};
use clove_abi::error::SysError;

/// A page, waiting for the disk: what is shown as done is durable.
pub fn handle(tx: &mut Tx<'_>, caller: &Caller, args: &RunTasks) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    let max = args.max.unwrap_or(500).clamp(1, 2_000) as usize;
    let mut indexes = run.tasks.range(args.from..).map(|(i, _)| *i);
    let page: Vec<_> = indexes.by_ref().take(max).collect();
    let next = indexes.next();
    let tasks = page.iter().map(|i| view::task(tx.state, run, *i, args.full)).collect();
    let body = json(&RunTasksReply { tasks, next });
    tx.effect(Effect::Reply { to: caller.to, body, durable: true });
    Ok(Decision::Later)
}
