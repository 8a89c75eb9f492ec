//! What happens to an agent, and to its task, from its start to its certificate.

use crate::change::Change;
use crate::core::Tx;
use crate::effect::Effect;
use crate::input::{ExitStatus, Tail};
use crate::judge::{self, Evidence};
use crate::retry;
use crate::state::{Agent, AgentKind, Ending, REMEMBERED_AGENTS};
use clove_abi::calls::{AgentState, ExceptionText, ProcSpawnReply};
use clove_abi::certificate::{Cause, Certificate, Usage};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::limits::Limits;
use clove_abi::run::{OnOom, RunKind, RunState, TaskState};
use serde_json::Value;

/// A process that has handed in its result gets this long to leave.
const LINGER_MS: u64 = 5_000;

/// How an agent ended, as the launcher saw it.
pub struct End<'a> {
    pub status: ExitStatus,
    pub usage: &'a Usage,
    pub output_tail: &'a str,
    pub output_dropped: u64,
    pub result: Option<&'a Value>,
    pub result_error: Option<&'a str>,
}

/// The kernel has started: whatever lived is gone, active sweeps wait for `run.resume`.
pub fn boot(tx: &mut Tx<'_>, capacity_bytes: u64, cpus: u32, defaults: &Limits) {
    tx.change(Change::Booted { capacity_bytes, cpus, defaults: defaults.clone() });
    let lost: Vec<AgentId> = tx.state.live().map(|a| a.id).collect();
    for id in lost {
        let Some(a) = tx.state.agent(id) else { continue };
        let c = judge::certify_unseen(
            a,
            Cause::Lost,
            "the kernel or the machine died while it ran".into(),
            "clove sweep resume goes on with a sweep".into(),
            None,
            tx.wall_ms,
        );
        let (run, task, idle) = (a.run, a.task, a.idle);
        if let (Some(run), Some(task), false) = (run, task, idle) {
            fail_task(tx, run, task, id, Some(c.clone()), None, Tail::default());
        }
        tx.change(Change::AgentEnded { id, certificate: Box::new(c) });
    }
    let active: Vec<(RunId, RunKind)> =
        tx.state.runs.values().filter(|r| r.state == RunState::Active).map(|r| (r.id, r.spec.kind)).collect();
    for (run, kind) in active {
        let (state, message) = match kind {
            RunKind::Sweep => (RunState::Interrupted, "the kernel died while it ran"),
            RunKind::Executor => (RunState::Cancelled, "its owner's connection ended with the kernel"),
        };
        tx.change(Change::RunMoved { run, state, message: message.into(), ended_ms: Some(tx.wall_ms) });
    }
}

/// A connection has ended: its waiting calls, its attached agents and runs go with it.
pub fn gone(tx: &mut Tx<'_>, conn: ConnId) {
    tx.waiting.forget(conn);
    let agents: Vec<AgentId> = tx.state.live().filter(|a| a.attached == Some(conn)).map(|a| a.id).collect();
    for id in agents {
        end(tx, id, Ending::Detached);
    }
    let state = &*tx.state;
    let was_its = |id: &AgentId| state.agent(*id).is_some_and(|a| a.attached == Some(conn));
    let ended: Vec<AgentId> = state.ended.iter().copied().filter(was_its).collect();
    for id in ended {
        forget(tx, id);
    }
    let runs: Vec<RunId> =
        tx.state.runs.values().filter(|r| r.attached == Some(conn)).map(|r| r.id).collect();
    for run in runs {
        cancel_run(tx, run, "its owner's connection ended");
    }
}

/// Asks for an agent's end; the first reason counts.
pub fn end(tx: &mut Tx<'_>, id: AgentId, why: Ending) {
    let Some(a) = tx.state.agent(id) else { return };
    if a.state == AgentState::Ended || a.ending.is_some() {
        return;
    }
    tx.change(Change::AgentEnding { id, why });
    tx.effect(Effect::Kill { agent: id });
}

/// Ends a run: its waiting tasks are cancelled, its agents killed. Returns how many tasks were cancelled.
pub fn cancel_run(tx: &mut Tx<'_>, run: RunId, message: &str) -> u32 {
    let Some(r) = tx.state.runs.get(&run) else { return 0 };
    if !matches!(r.state, RunState::Active | RunState::Interrupted) {
        return 0;
    }
    let open: Vec<TaskIndex> = r.tasks.iter().filter(|(_, t)| !t.state.is_final()).map(|(i, _)| *i).collect();
    let cancelled = open.len() as u32;
    for task in open {
        tx.change(Change::TaskCancelled { run, task, wall_ms: tx.wall_ms });
    }
    let ended_ms = Some(tx.wall_ms);
    tx.change(Change::RunMoved { run, state: RunState::Cancelled, message: message.into(), ended_ms });
    tx.change(Change::RunClosed { run });
    let agents: Vec<AgentId> = tx.state.live().filter(|a| a.run == Some(run)).map(|a| a.id).collect();
    for id in agents {
        end(tx, id, Ending::Cancelled);
    }
    tx.effect(Effect::RunEnded { run });
    cancelled
}

/// The walls stand and the program runs.
pub fn ready(tx: &mut Tx<'_>, id: AgentId, pid: u32, missing_walls: &[String], missing_limits: &[String]) {
    let Some(a) = tx.state.agent(id) else { return };
    if a.state == AgentState::Ended {
        return;
    }
    tx.change(Change::AgentReady {
        id,
        pid,
        wall_ms: tx.wall_ms,
        missing_walls: missing_walls.to_vec(),
        missing_limits: missing_limits.to_vec(),
    });
    // The clock of its timeout starts here: what a template takes to load isn't the agent's time.
    if let Some(a) = tx.state.agent(id)
        && a.limits.wall_ms > 0
        && a.ending.is_none()
    {
        let mono_ms = Some(tx.mono_ms.saturating_add(a.limits.wall_ms));
        tx.change(Change::AgentDeadline { id, mono_ms });
    }
    if let Some(to) = tx.waiting.take_spawn(id)
        && let Some(a) = tx.state.agent(id)
    {
        let body = ProcSpawnReply {
            agent: id,
            name: a.name.clone(),
            limits: a.limits.clone(),
            missing_walls: a.missing_walls.clone(),
            missing_limits: a.missing_limits.clone(),
        };
        tx.reply(to, &body, false);
    }
}

/// Nothing was started.
pub fn spawn_failed(tx: &mut Tx<'_>, id: AgentId, stage: &str, message: &str, hint: &str, code: Option<i32>) {
    let Some(a) = tx.state.agent(id) else { return };
    if a.state == AgentState::Ended {
        return;
    }
    let text = if code.is_some() { message.to_owned() } else { format!("{stage}: {message}") };
    let mut c = judge::certify_unseen(a, Cause::Spawn, text.clone(), hint.to_owned(), code, tx.wall_ms);
    if let Some(ending) = &a.ending
        && matches!(ending, Ending::Cancelled | Ending::Detached | Ending::Shutdown)
    {
        c.cause = Cause::Cancelled;
    }
    let (run, task) = (a.run, a.task);
    if let (Some(run), Some(task)) = (run, task) {
        fail_task(tx, run, task, id, Some(c.clone()), None, Tail::default());
    }
    finish(tx, id, c);
    if let Some(to) = tx.waiting.take_spawn(id) {
        let error = match code {
            Some(127) => ErrorCode::ProgramNotFound,
            Some(_) => ErrorCode::NotExecutable,
            None if stage == "limits" => ErrorCode::CannotEnforce,
            None if stage == "mounts" || stage == "policy" => ErrorCode::BadMount,
            None => ErrorCode::SpawnFailed,
        };
        tx.effect(Effect::Fail { to, error: SysError::new(error, text).hint(hint) });
    }
}

/// The whole tree is gone.
pub fn exited(tx: &mut Tx<'_>, id: AgentId, e: &End<'_>) {
    let Some(a) = tx.state.agent(id) else { return };
    if a.state == AgentState::Ended {
        return;
    }
    let evidence = Evidence {
        status: e.status,
        usage: e.usage,
        output_tail: e.output_tail,
        output_dropped: e.output_dropped,
        wall_ms: tx.wall_ms,
    };
    let mut c = judge::certify(a, &evidence);
    let (run, task, idle, kind) = (a.run, a.task, a.idle, a.kind);
    if let Some(run) = run {
        let cpu_us = e.usage.cpu_user_us + e.usage.cpu_system_us;
        tx.change(Change::RunCharged { run, cpu_us, peak_memory_bytes: e.usage.peak_memory_bytes });
    }
    if let (Some(run), Some(task), false) = (run, task, idle) {
        let ok = c.cause == Cause::Exit && c.exit_code == Some(0);
        match (kind, ok, e.result) {
            (AgentKind::Cold, true, Some(result)) => {
                let elapsed_us = c.wall_ms() * 1000;
                let wall_ms = tx.wall_ms;
                tx.change(Change::TaskDone {
                    run,
                    task,
                    result: Some(result.clone()),
                    opaque: Tail::default(),
                    blob: None,
                    elapsed_us,
                    wall_ms,
                });
            }
            _ => {
                if ok {
                    c.message = match (kind, e.result_error) {
                        (AgentKind::Cold, Some(why)) => {
                            format!("it exited with 0, but its result can't be taken: {why}")
                        }
                        (AgentKind::Cold, None) => "it exited with 0 without writing $CLOVE_RESULT".into(),
                        _ => "its process left before it handed in a result (os._exit?)".into(),
                    };
                }
                fail_task(tx, run, task, id, Some(c.clone()), None, Tail::default());
            }
        }
    }
    finish(tx, id, c);
    if let Some(to) = tx.waiting.take_spawn(id) {
        tx.effect(Effect::Fail {
            to,
            error: SysError::new(ErrorCode::SpawnFailed, "it ended while it was being started"),
        });
    }
}

/// Notes the end, forgets what needn't be remembered.
fn finish(tx: &mut Tx<'_>, id: AgentId, certificate: Certificate) {
    tx.change(Change::AgentEnded { id, certificate: Box::new(certificate) });
    let forget_now = tx.state.agent(id).is_some_and(|a| a.remove && a.run.is_some());
    if forget_now {
        forget(tx, id);
    }
    while tx.state.ended.len() > REMEMBERED_AGENTS {
        let oldest = tx.state.ended[0];
        forget(tx, oldest);
    }
}

/// Frees an ended agent's slot.
pub fn forget(tx: &mut Tx<'_>, id: AgentId) {
    tx.change(Change::AgentForgotten { id });
    tx.effect(Effect::Forget { agent: id });
}

/// The process that worked on the task has ended otherwise than with a result, or has raised: what now?
fn fail_task(
    tx: &mut Tx<'_>,
    run: RunId,
    task: TaskIndex,
    agent: AgentId,
    certificate: Option<Certificate>,
    exception: Option<&ExceptionText>,
    opaque: Tail,
) {
    let Some(r) = tx.state.runs.get(&run) else { return };
    let Some(t) = r.tasks.get(&task) else { return };
    if t.state != TaskState::Running || t.agent != Some(agent) {
        return;
    }
    let retry_rule = &r.spec.retry;
    let cause = certificate.as_ref().map_or(Cause::Exception, |c| c.cause);
    let attempt = t.attempts;
    let wait = || retry::wait_ms(retry_rule, r.spec.seed, task, attempt.saturating_add(1));
    let (state, due) = match cause {
        // Nobody's fault: the attempt doesn't count.
        Cause::Lost => (TaskState::Pending, 0),
        Cause::Cancelled => (TaskState::Cancelled, 0),
        // A program that isn't there won't be there next time.
        Cause::Spawn if certificate.as_ref().is_some_and(|c| c.exit_code.is_some()) => (TaskState::Failed, 0),
        c if c.is_death() => {
            if t.deaths < retry_rule.deaths {
                (TaskState::Backoff, tx.mono_ms.saturating_add(wait()))
            } else if r.spec.kind == RunKind::Executor {
                (TaskState::Failed, 0)
            } else {
                (TaskState::Quarantined, 0)
            }
        }
        _ => {
            if t.failures < retry_rule.failures {
                (TaskState::Backoff, tx.mono_ms.saturating_add(wait()))
            } else {
                (TaskState::Failed, 0)
            }
        }
    };
    let memory_bytes = match (&certificate, r.spec.on_oom, state) {
        (Some(c), OnOom::Double, TaskState::Backoff) if c.cause == Cause::Oom => {
            Some(c.limits.memory_bytes.saturating_mul(2).min(tx.state.capacity_bytes))
        }
        _ => None,
    };
    tx.change(Change::TaskFailed {
        run,
        task,
        state,
        exception: exception.cloned(),
        opaque,
        certificate: certificate.map(Box::new),
        due_mono_ms: due,
        memory_bytes,
        wall_ms: tx.wall_ms,
    });
}

/// What an agent handed in with `task.done`.
pub struct Handed<'a> {
    pub result: Option<&'a Value>,
    pub exception: Option<&'a ExceptionText>,
    pub opaque: Tail,
    pub blob: Option<&'a String>,
    pub elapsed_us: u64,
    pub rss_bytes: u64,
}

/// A warm agent handed in its task.
///
/// # Errors
/// [`ErrorCode::WrongState`] when it isn't the agent's current task.
pub fn task_done(
    tx: &mut Tx<'_>,
    id: AgentId,
    run: RunId,
    task: TaskIndex,
    attempt: u32,
    h: &Handed<'_>,
) -> Result<(), SysError> {
    let wrong = || {
        SysError::new(
            ErrorCode::WrongState,
            format!("task {run}/{task} attempt {attempt} isn't this agent's current task"),
        )
    };
    let a = tx.state.agent(id).ok_or_else(wrong)?;
    if a.run != Some(run) || a.task != Some(task) || a.attempt != attempt || a.idle {
        return Err(wrong());
    }
    let (worker, given) = (a.kind == AgentKind::Worker, a.tasks_given);
    let limit = a.limits.memory_bytes;
    let open = tx
        .state
        .runs
        .get(&run)
        .and_then(|r| r.tasks.get(&task))
        .is_some_and(|t| t.state == TaskState::Running && t.agent == Some(id));
    if open {
        let wall_ms = tx.wall_ms;
        if h.exception.is_some() {
            fail_task(tx, run, task, id, None, h.exception, h.opaque.clone());
        } else {
            tx.change(Change::TaskDone {
                run,
                task,
                result: h.result.cloned(),
                opaque: h.opaque.clone(),
                blob: h.blob.cloned(),
                elapsed_us: h.elapsed_us,
                wall_ms,
            });
        }
    }
    tx.change(Change::WorkerTask { id, task: None, attempt: 0 });
    let reuse = tx.state.runs.get(&run).map_or(1, |r| r.spec.reuse);
    // A worker that has grown to half of its limit is replaced before it can fail somebody's task.
    let stays = worker && given < reuse && h.rss_bytes < limit / 2;
    if stays {
        tx.change(Change::AgentDeadline { id, mono_ms: None });
    } else if worker && given < reuse {
        end(tx, id, Ending::Retired);
    } else {
        tx.change(Change::AgentDeadline { id, mono_ms: Some(tx.mono_ms + LINGER_MS) });
    }
    Ok(())
}

/// The run's template can't be built: nothing of it can run.
pub fn template_failed(tx: &mut Tx<'_>, run: RunId, message: &str) {
    let Some(r) = tx.state.runs.get(&run) else { return };
    if r.state != RunState::Active {
        return;
    }
    let running: Vec<Agent> = tx.state.live().filter(|a| a.run == Some(run)).cloned().collect();
    let open: Vec<TaskIndex> = r.tasks.iter().filter(|(_, t)| !t.state.is_final()).map(|(i, _)| *i).collect();
    for a in running {
        let c = judge::certify_unseen(&a, Cause::Spawn, message.to_owned(), String::new(), None, tx.wall_ms);
        finish(tx, a.id, c);
    }
    for task in open {
        tx.change(Change::TaskCancelled { run, task, wall_ms: tx.wall_ms });
    }
    let ended_ms = Some(tx.wall_ms);
    tx.change(Change::RunMoved { run, state: RunState::Failed, message: message.to_owned(), ended_ms });
    tx.change(Change::RunClosed { run });
    tx.effect(Effect::RunEnded { run });
}

/// Deadlines that have come: timeouts, lingering processes, tasks due again.
pub fn timer(tx: &mut Tx<'_>) {
    let now = tx.mono_ms;
    let due: Vec<(AgentId, bool)> = tx
        .state
        .live()
        .filter(|a| a.deadline_mono_ms.is_some_and(|d| d <= now))
        .map(|a| (a.id, a.idle))
        .collect();
    for (id, idle) in due {
        end(tx, id, if idle { Ending::Lingering } else { Ending::Timeout });
    }
    let tasks: Vec<(RunId, TaskIndex)> = tx
        .state
        .runs
        .values()
        .filter(|r| r.state == RunState::Active)
        .flat_map(|r| r.backoff.iter().take_while(|(at, _)| *at <= now).map(|(_, i)| (r.id, *i)))
        .collect();
    for (run, task) in tasks {
        tx.change(Change::TaskDue { run, task });
    }
}
