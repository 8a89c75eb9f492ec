//! Admission: which waiting task starts next, and whether the machine has room for it.
//!
//! Order: higher priority first; among equals the run with the fewest agents at work for its size, then the one that
//! has used less CPU, then the older. Within a run the longest expected task first (LPT, Graham 1969). A task that
//! doesn't fit holds back those behind it, so that a large one isn't starved by small ones.

use crate::change::Change;
use crate::core::Tx;
use crate::effect::Effect;
use crate::state::{Agent, AgentKind, Run, State};
use clove_abi::calls::AgentState;
use clove_abi::ids::{AgentId, RunId, TaskIndex};
use clove_abi::limits::Limits;
use clove_abi::run::{Program, RunKind, RunState, TaskState};

/// Limits of one task: the run's, the task's own over them, a raised memory over both.
pub fn task_limits(state: &State, run: &Run, index: TaskIndex) -> Limits {
    let mut defaults = state.defaults.clone();
    let share = state.capacity_bytes / u64::from(run.jobs(state.cpus).max(1));
    defaults.memory_bytes = share;
    defaults.memory_reserve_bytes = share;
    let Some(task) = run.tasks.get(&index) else { return defaults };
    let mut limits = run.spec.limits.overlaid(&task.spec.limits).resolve(&defaults);
    if let Some(raised) = task.memory_bytes {
        let ratio_kept = limits.memory_reserve_bytes == limits.memory_bytes;
        limits.memory_bytes = limits.memory_bytes.max(raised);
        if ratio_kept {
            limits.memory_reserve_bytes = limits.memory_bytes;
        }
    }
    limits
}

/// What admission counts for one agent of the run, in thousandths of a CPU: its quota, or a whole CPU, or less when
/// its owner asked for more jobs than there are CPUs.
fn cpu_cost(state: &State, run: &Run, limits: &Limits) -> u32 {
    if limits.cpu_milli > 0 {
        return limits.cpu_milli;
    }
    let jobs = run.jobs(state.cpus).max(1);
    (state.cpus.max(1) * 1000 / jobs).clamp(1, 1000)
}

/// Names an agent after its task, with the run's id in front when the name is taken.
fn agent_name(state: &State, run: &Run, index: TaskIndex) -> String {
    let name = run.task_name(index);
    if !state.names.contains_key(&name) {
        return name;
    }
    let name = format!("{}-{index}", run.id);
    if !state.names.contains_key(&name) {
        return name;
    }
    (2..)
        .map(|n| format!("{}-{index}-{n}", run.id))
        .find(|n| !state.names.contains_key(n))
        .unwrap_or_default()
}

/// The id that the next agent gets: the lowest free slot, its generation raised.
pub fn next_id(state: &State) -> AgentId {
    let slot = state.free_slots.first().copied().unwrap_or(state.generations.len() as u32);
    let generation = state.generations.get(slot as usize).copied().unwrap_or(0).wrapping_add(1).max(1);
    AgentId { slot, generation }
}

fn best_run(state: &State, passed: &[RunId]) -> Option<RunId> {
    state
        .runs
        .values()
        .filter(|r| r.state == RunState::Active && !r.ready.is_empty() && r.running < r.jobs(state.cpus))
        .filter(|r| !passed.contains(&r.id))
        .min_by_key(|r| {
            let jobs = u64::from(r.jobs(state.cpus).max(1));
            (std::cmp::Reverse(r.spec.priority), u64::from(r.running) * 1_000_000 / jobs, r.cpu_us, r.id)
        })
        .map(|r| r.id)
}

/// Starts what can start now, and closes runs that are through.
pub fn schedule(tx: &mut Tx<'_>) {
    let mut passed = Vec::new();
    while let Some(run_id) = best_run(tx.state, &passed) {
        let Some(run) = tx.state.runs.get(&run_id) else { return };
        let Some(&(_, index)) = run.ready.first() else { return };
        let limits = task_limits(tx.state, run, index);
        let cost = cpu_cost(tx.state, run, &limits);
        let fits = tx.state.reserved_bytes.saturating_add(limits.memory_reserve_bytes)
            <= tx.state.capacity_bytes
            && tx.state.reserved_cpu_milli + u64::from(cost) <= u64::from(tx.state.cpus) * 1000;
        // An idle machine takes anything that was let in, so that nothing waits for ever.
        if !fits && tx.state.reserved_bytes > 0 {
            passed.push(run_id);
            // Those of the same or a higher priority wait behind it; nobody overtakes for memory.
            if tx.state.reserved_bytes.saturating_add(limits.memory_reserve_bytes) > tx.state.capacity_bytes {
                break;
            }
            continue;
        }
        start(tx, run_id, index, limits, cost);
    }
    close_drained(tx);
}

fn start(tx: &mut Tx<'_>, run_id: RunId, index: TaskIndex, limits: Limits, cost: u32) {
    let Some(run) = tx.state.runs.get(&run_id) else { return };
    let Some(task) = run.tasks.get(&index) else { return };
    let attempt = task.attempts + 1;
    let idle = (run.spec.reuse > 1).then(|| {
        tx.state.live().find(|a| {
            a.run == Some(run_id)
                && a.kind == AgentKind::Worker
                && a.idle
                && a.state == AgentState::Running
                && a.limits == limits
                && a.tasks_given < run.spec.reuse
        })
    });
    let agent = if let Some(Some(worker)) = idle {
        let id = worker.id;
        tx.change(Change::WorkerTask { id, task: Some(index), attempt });
        tx.effect(Effect::Assign { agent: id });
        // A worker is ready already; a fresh agent's time begins when it is.
        if limits.wall_ms > 0 {
            tx.change(Change::AgentDeadline { id, mono_ms: Some(tx.mono_ms.saturating_add(limits.wall_ms)) });
        }
        id
    } else {
        let id = next_id(tx.state);
        let Some(run) = tx.state.runs.get(&run_id) else { return };
        let (kind, argv) = match &run.spec.program {
            Program::Cold { argv } => (AgentKind::Cold, argv.clone()),
            Program::Warm(_) if run.spec.reuse > 1 => (AgentKind::Worker, Vec::new()),
            Program::Warm(_) => (AgentKind::Warm, Vec::new()),
        };
        let agent = Agent {
            id,
            name: agent_name(tx.state, run, index),
            kind,
            state: AgentState::Starting,
            run: Some(run_id),
            task: Some(index),
            attempt,
            idle: false,
            tasks_given: 1,
            argv,
            env: run.spec.env.clone(),
            mounts: run.spec.mounts.clone(),
            cwd: run.spec.cwd.clone(),
            tty: None,
            stdin: false,
            profile: run.spec.profile,
            allow_degraded: run.spec.allow_degraded,
            remove: run.spec.kind == RunKind::Executor,
            limits,
            cpu_cost_milli: cost,
            admitted: false,
            pid: None,
            started_wall_ms: tx.wall_ms,
            deadline_mono_ms: None,
            attached: None,
            ending: None,
            signalled: None,
            missing_walls: Vec::new(),
            missing_limits: Vec::new(),
            certificate: None,
        };
        tx.change(Change::AgentCreated { agent: Box::new(agent) });
        tx.effect(Effect::Start { agent: id });
        id
    };
    tx.change(Change::TaskStarted { run: run_id, task: index, agent, attempt, wall_ms: tx.wall_ms });
}

/// A closed run whose tasks are all final is finished; workers that no run needs are let go.
fn close_drained(tx: &mut Tx<'_>) {
    let drained: Vec<RunId> = tx
        .state
        .runs
        .values()
        .filter(|r| r.state == RunState::Active && r.closed && r.is_drained())
        .map(|r| r.id)
        .collect();
    for id in drained {
        let ended_ms = Some(tx.wall_ms);
        tx.change(Change::RunMoved { run: id, state: RunState::Finished, message: String::new(), ended_ms });
        tx.effect(Effect::RunEnded { run: id });
        retire_idle(tx, id);
    }
}

/// Ends the run's workers that have nothing to do.
pub fn retire_idle(tx: &mut Tx<'_>, run: RunId) {
    let idle: Vec<AgentId> = tx
        .state
        .live()
        .filter(|a| a.run == Some(run) && a.kind == AgentKind::Worker && a.idle && a.ending.is_none())
        .map(|a| a.id)
        .collect();
    for id in idle {
        crate::lifecycle::end(tx, id, crate::state::Ending::Retired);
    }
}

/// Whether the run still has anything that could start or restart.
pub fn has_work(run: &Run) -> bool {
    run.tasks.values().any(|t| matches!(t.state, TaskState::Pending | TaskState::Backoff))
}
