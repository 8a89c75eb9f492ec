//! `run.resume`.

use crate::change::Change;
use crate::core::{Caller, Decision, Tx};
use crate::view;
use clove_abi::calls::{RunResume, RunResumeReply};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::TaskIndex;
use clove_abi::run::{RunKind, RunState, TaskState};

/// What is done stays done; the rest runs. With `failed`, failed and quarantined tasks get new attempts.
pub fn handle(tx: &mut Tx<'_>, _: &Caller, args: &RunResume) -> Result<Decision, SysError> {
    let run = view::find_run(tx.state, args.run)?;
    if run.spec.kind != RunKind::Sweep {
        return Err(SysError::new(ErrorCode::WrongState, format!("{} is an executor session: only sweeps resume", args.run)));
    }
    let again: Vec<TaskIndex> = run
        .tasks
        .iter()
        .filter(|(_, t)| match t.state {
            TaskState::Cancelled => run.state != RunState::Active,
            TaskState::Failed | TaskState::Quarantined => args.failed,
            // Its due time belongs to the clock of the kernel that died.
            TaskState::Backoff => run.state == RunState::Interrupted,
            _ => false,
        })
        .map(|(i, _)| *i)
        .collect();
    for task in again {
        tx.change(Change::TaskReset { run: args.run, task });
    }
    let Some(run) = tx.state.runs.get(&args.run) else { return Err(view::no_run(args.run)) };
    let pending = run.count(TaskState::Pending) + run.count(TaskState::Backoff) + run.count(TaskState::Running);
    let done = run.count(TaskState::Done);
    if run.state != RunState::Active && pending > 0 {
        tx.change(Change::RunMoved { run: args.run, state: RunState::Active, message: String::new(), ended_ms: None });
    } else if run.state == RunState::Interrupted {
        let ended_ms = Some(tx.wall_ms);
        tx.change(Change::RunMoved { run: args.run, state: RunState::Finished, message: String::new(), ended_ms });
    }
    Ok(Decision::reply(&RunResumeReply { pending, done }))
}
