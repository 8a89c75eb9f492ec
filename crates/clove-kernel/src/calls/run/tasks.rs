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
    let mut page = view::Page::new(max);
    let (mut tasks, mut next) = (Vec::new(), None);
    for (i, t) in run.tasks.range(args.from..) {
        if !page.takes(t, args.full) {
            next = Some(*i);
            break;
        }
        tasks.push(view::task(tx.state, run, *i, args.full));
    }
    let body = json(&RunTasksReply { tasks, next });
    tx.effect(Effect::Reply { to: caller.to, body, durable: true });
    Ok(Decision::Later)
}
