//! The kernel's whole state as plain data, changed only by [`State::apply`].

use crate::change::Change;
use crate::input::Tail;
use clove_abi::calls::{AgentState, ExceptionText};
use clove_abi::certificate::{Certificate, KilledBy};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::limits::Limits;
use clove_abi::run::{Mount, Profile, RunKind, RunSpec, RunState, TaskSpec, TaskState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Ended agents that are remembered for `ps -a`, `inspect` and `wait`.
pub const REMEMBERED_AGENTS: usize = 4_000;
/// Learned durations that are kept for longest-first.
const REMEMBERED_DURATIONS: usize = 20_000;

/// Why an agent's end was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Killed(KilledBy),
    Timeout,
    /// With its run.
    Cancelled,
    /// The command that it was attached to has ended.
    Detached,
    /// A worker that isn't needed any more, or one that has grown.
    Retired,
    /// Its task is done, but the process didn't leave.
    Lingering,
    Shutdown,
}

/// What kind of process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    Cold,
    Warm,
    Worker,
}

impl AgentKind {
    /// As it is listed.
    pub fn word(self) -> &'static str {
        match self {
            AgentKind::Cold => "cold",
            AgentKind::Warm => "warm",
            AgentKind::Worker => "worker",
        }
    }
}

/// One agent, living or remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    pub id: AgentId,
    pub name: String,
    pub kind: AgentKind,
    pub state: AgentState,
    /// For a task of a run: which run.
    pub run: Option<RunId>,
    /// The task that it works on now (or worked on last).
    pub task: Option<TaskIndex>,
    pub attempt: u32,
    /// A worker without a task, or a warm agent whose result was taken.
    pub idle: bool,
    /// Tasks that it was given so far.
    pub tasks_given: u32,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub cwd: Option<String>,
    pub tty: Option<(u16, u16)>,
    pub stdin: bool,
    #[serde(default)]
    pub profile: Profile,
    pub allow_degraded: bool,
    pub remove: bool,
    pub limits: Limits,
    /// Thousandths of a CPU that admission counts.
    pub cpu_cost_milli: u32,
    /// It counts in the admission's sums.
    pub admitted: bool,
    pub pid: Option<u32>,
    pub started_wall_ms: u64,
    pub deadline_mono_ms: Option<u64>,
    /// Connection that it ends with.
    pub attached: Option<ConnId>,
    pub ending: Option<Ending>,
    /// The last signal that was sent to its program through CloveOS, and by whom.
    pub signalled: Option<(i32, KilledBy)>,
    pub missing_walls: Vec<String>,
    pub missing_limits: Vec<String>,
    pub certificate: Option<Box<Certificate>>,
}

/// One task of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub spec: TaskSpec,
    pub payload: Tail,
    pub state: TaskState,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts that ended in a death, and by an exception or a non-zero exit.
    pub deaths: u32,
    pub failures: u32,
    pub agent: Option<AgentId>,
    pub result: Option<Value>,
    pub opaque: Tail,
    pub blob: Option<String>,
    pub exception: Option<ExceptionText>,
    pub certificates: Vec<Certificate>,
    pub started_wall_ms: Option<u64>,
    pub ended_wall_ms: Option<u64>,
    pub elapsed_us: Option<u64>,
    pub due_mono_ms: u64,
    pub memory_bytes: Option<u64>,
    /// What it is expected to take, milliseconds: as its owner says, or as learned before it was submitted.
    pub expected_ms: u64,
    /// The run's version at its last change.
    pub changed: u64,
}

/// A sweep or an executor session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub spec: RunSpec,
    pub state: RunState,
    pub message: String,
    pub closed: bool,
    pub submitted_wall_ms: u64,
    pub ended_wall_ms: Option<u64>,
    pub attached: Option<ConnId>,
    pub next_index: TaskIndex,
    pub tasks: BTreeMap<TaskIndex, Task>,
    /// Rises with every change of a task.
    pub version: u64,
    /// CPU time of its ended agents, microseconds.
    pub cpu_us: u64,
    pub peak_memory_bytes: u64,
    /// Agents that work on a task of it right now.
    pub running: u32,
    /// Tasks forgotten by `run.push`, so that totals stay true.
    pub forgotten: [u32; 7],
    /// Derived: how many tasks are in each state.
    #[serde(skip)]
    pub counts: [u32; 7],
    /// Derived: tasks that can start, longest expected first.
    #[serde(skip)]
    pub ready: BTreeSet<(Reverse<u64>, TaskIndex)>,
    /// Derived: tasks that wait for their next attempt.
    #[serde(skip)]
    pub backoff: BTreeSet<(u64, TaskIndex)>,
    /// Derived: tasks by their last change.
    #[serde(skip)]
    pub by_change: BTreeMap<u64, TaskIndex>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub boots: u64,
    pub capacity_bytes: u64,
    pub cpus: u32,
    pub defaults: Limits,
    pub next_run: u64,
    /// Generation of each slot that was ever used.
    pub generations: Vec<u32>,
    pub free_slots: BTreeSet<u32>,
    pub agents: BTreeMap<AgentId, Agent>,
    pub names: BTreeMap<String, AgentId>,
    /// Ended agents in the order of their end.
    pub ended: Vec<AgentId>,
    pub runs: BTreeMap<RunId, Run>,
    /// What tasks took, by digest of program and configuration, milliseconds.
    pub durations: BTreeMap<u64, u64>,
    /// Sums over admitted agents.
    pub reserved_bytes: u64,
    pub reserved_cpu_milli: u64,
}

impl Default for State {
    fn default() -> Self {
        State {
            boots: 0,
            capacity_bytes: 0,
            cpus: 1,
            defaults: Limits {
                memory_bytes: 0,
                memory_reserve_bytes: 0,
                cpu_milli: 0,
                cpu_weight: 100,
                pids: 512,
                disk_bytes: 0,
                nofile: 1024,
                wall_ms: 0,
                output_bytes: 16 << 20,
            },
            next_run: 1,
            generations: Vec::new(),
            free_slots: BTreeSet::new(),
            agents: BTreeMap::new(),
            names: BTreeMap::new(),
            ended: Vec::new(),
            runs: BTreeMap::new(),
            durations: BTreeMap::new(),
            reserved_bytes: 0,
            reserved_cpu_milli: 0,
        }
    }
}

fn at(state: TaskState) -> usize {
    match state {
        TaskState::Pending => 0,
        TaskState::Backoff => 1,
        TaskState::Running => 2,
        TaskState::Done => 3,
        TaskState::Failed => 4,
        TaskState::Quarantined => 5,
        TaskState::Cancelled => 6,
    }
}

impl Run {
    /// Tasks in this state, forgotten ones too.
    pub fn count(&self, state: TaskState) -> u32 {
        self.counts[at(state)] + self.forgotten[at(state)]
    }

    /// All tasks, forgotten ones too.
    pub fn total(&self) -> u32 {
        self.next_index
    }

    /// Every task is final.
    pub fn is_drained(&self) -> bool {
        self.counts[0] == 0 && self.counts[1] == 0 && self.counts[2] == 0
    }

    /// Tasks at a time.
    pub fn jobs(&self, cpus: u32) -> u32 {
        if self.spec.jobs == 0 { cpus.max(1) } else { self.spec.jobs }
    }

    /// The task's name, or its index.
    pub fn task_name(&self, index: TaskIndex) -> String {
        match self.tasks.get(&index) {
            Some(t) if !t.spec.name.is_empty() => t.spec.name.clone(),
            _ => format!("{}-{index}", self.id),
        }
    }

    fn unfile(&mut self, index: TaskIndex) {
        let Some(t) = self.tasks.get(&index) else { return };
        match t.state {
            TaskState::Pending => {
                self.ready.remove(&(Reverse(t.expected_ms), index));
            }
            TaskState::Backoff => {
                self.backoff.remove(&(t.due_mono_ms, index));
            }
            _ => {}
        }
        self.by_change.remove(&t.changed);
        self.counts[at(t.state)] -= 1;
    }

    fn file(&mut self, index: TaskIndex) {
        self.version += 1;
        let version = self.version;
        if let Some(t) = self.tasks.get_mut(&index) {
            t.changed = version;
        }
        self.refile(index);
    }

    fn refile(&mut self, index: TaskIndex) {
        let Some(t) = self.tasks.get(&index) else { return };
        match t.state {
            TaskState::Pending => {
                self.ready.insert((Reverse(t.expected_ms), index));
            }
            TaskState::Backoff => {
                self.backoff.insert((t.due_mono_ms, index));
            }
            _ => {}
        }
        self.by_change.insert(t.changed, index);
        self.counts[at(t.state)] += 1;
    }
}

/// Names a task's work across runs: program and configuration.
pub fn duration_key(run: &RunSpec, task: &TaskSpec) -> u64 {
    let mut h = Sha256::new();
    h.update(serde_json::to_vec(&run.program).unwrap_or_default());
    h.update([0]);
    h.update(serde_json::to_vec(&task.config).unwrap_or_default());
    let d = h.finalize();
    u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
}

impl State {
    /// A living or remembered agent.
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(&id)
    }

    /// Agents that live.
    pub fn live(&self) -> impl Iterator<Item = &Agent> {
        self.names.values().filter_map(|id| self.agents.get(id))
    }

    /// SHA-256 over the whole state in its canonical JSON form (maps are ordered).
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A checkpoint: self-contained.
    pub fn to_checkpoint(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a checkpoint and derives what isn't stored.
    ///
    /// # Errors
    /// When the bytes aren't a checkpoint of a version this build can read.
    pub fn from_checkpoint(bytes: &[u8]) -> Result<State, serde_json::Error> {
        let mut s: State = serde_json::from_slice(bytes)?;
        for run in s.runs.values_mut() {
            let indexes: Vec<_> = run.tasks.keys().copied().collect();
            for i in indexes {
                run.refile(i);
            }
        }
        Ok(s)
    }

    fn with_task(&mut self, run: RunId, task: TaskIndex, f: impl FnOnce(&mut Task)) {
        if let Some(r) = self.runs.get_mut(&run)
            && r.tasks.contains_key(&task)
        {
            r.unfile(task);
            if let Some(t) = r.tasks.get_mut(&task) {
                f(t);
            }
            r.file(task);
        }
    }

    fn release(&mut self, id: AgentId) {
        if let Some(a) = self.agents.get_mut(&id)
            && a.admitted
        {
            a.admitted = false;
            self.reserved_bytes = self.reserved_bytes.saturating_sub(a.limits.memory_reserve_bytes);
            self.reserved_cpu_milli = self.reserved_cpu_milli.saturating_sub(u64::from(a.cpu_cost_milli));
            if let Some(run) = a.run.and_then(|r| self.runs.get_mut(&r)) {
                run.running = run.running.saturating_sub(1);
            }
        }
    }

    fn admit(&mut self, id: AgentId) {
        if let Some(a) = self.agents.get_mut(&id)
            && !a.admitted
        {
            a.admitted = true;
            self.reserved_bytes += a.limits.memory_reserve_bytes;
            self.reserved_cpu_milli += u64::from(a.cpu_cost_milli);
            if let Some(run) = a.run.and_then(|r| self.runs.get_mut(&r)) {
                run.running += 1;
            }
        }
    }

    /// Carries out one change. Total: a change that doesn't fit (from a damaged journal) does nothing.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Booted { capacity_bytes, cpus, defaults } => {
                self.boots += 1;
                self.capacity_bytes = *capacity_bytes;
                self.cpus = *cpus;
                self.defaults = defaults.clone();
            }
            Change::AgentCreated { agent } => {
                let id = agent.id;
                let slot = id.slot as usize;
                while self.generations.len() <= slot {
                    self.free_slots.insert(self.generations.len() as u32);
                    self.generations.push(0);
                }
                self.generations[slot] = id.generation;
                self.free_slots.remove(&id.slot);
                self.names.insert(agent.name.clone(), id);
                self.agents.insert(id, (**agent).clone());
                self.admit(id);
            }
            Change::AgentReady { id, pid, wall_ms, missing_walls, missing_limits } => {
                if let Some(a) = self.agents.get_mut(id) {
                    if a.state == AgentState::Starting {
                        a.state = AgentState::Running;
                    }
                    // A program may be over before anybody could learn its pid.
                    a.pid = (*pid != 0).then_some(*pid);
                    a.started_wall_ms = *wall_ms;
                    a.missing_walls.clone_from(missing_walls);
                    a.missing_limits.clone_from(missing_limits);
                }
                // Whoever watches the run learns the pid.
                let working = self.agents.get(id).and_then(|a| Some((a.run?, a.task?)));
                if let Some((run, task)) = working {
                    self.with_task(run, task, |_| {});
                }
            }
            Change::AgentDeadline { id, mono_ms } => {
                if let Some(a) = self.agents.get_mut(id) {
                    a.deadline_mono_ms = *mono_ms;
                }
            }
            Change::AgentEnding { id, why } => {
                if let Some(a) = self.agents.get_mut(id)
                    && a.state != AgentState::Ended
                {
                    a.state = AgentState::Ending;
                    a.deadline_mono_ms = None;
                    if a.ending.is_none() {
                        a.ending = Some(why.clone());
                    }
                }
            }
            Change::AgentSignalled { id, signal, by } => {
                if let Some(a) = self.agents.get_mut(id) {
                    a.signalled = Some((*signal, by.clone()));
                }
            }
            Change::AgentEnded { id, certificate } => {
                self.release(*id);
                if let Some(a) = self.agents.get_mut(id) {
                    a.state = AgentState::Ended;
                    a.deadline_mono_ms = None;
                    // One that is to be removed is forgotten when its connection ends.
                    if !a.remove {
                        a.attached = None;
                    }
                    a.certificate = Some(certificate.clone());
                    if self.names.get(&a.name) == Some(id) {
                        self.names.remove(&a.name);
                    }
                    self.ended.push(*id);
                }
            }
            Change::AgentForgotten { id } => {
                self.release(*id);
                if let Some(a) = self.agents.remove(id) {
                    if self.names.get(&a.name) == Some(id) {
                        self.names.remove(&a.name);
                    }
                    self.ended.retain(|e| e != id);
                    self.free_slots.insert(id.slot);
                }
            }
            Change::WorkerTask { id, task, attempt } => {
                if task.is_some() {
                    self.admit(*id);
                } else {
                    self.release(*id);
                }
                if let Some(a) = self.agents.get_mut(id) {
                    a.idle = task.is_none();
                    if let Some(t) = task {
                        a.task = Some(*t);
                        a.attempt = *attempt;
                        a.tasks_given += 1;
                    }
                }
            }
            Change::RunCreated { id, spec, submitted_ms, conn } => {
                self.next_run = self.next_run.max(id.0 + 1);
                self.runs.insert(
                    *id,
                    Run {
                        id: *id,
                        spec: (**spec).clone(),
                        state: RunState::Active,
                        message: String::new(),
                        closed: spec.kind == RunKind::Sweep,
                        submitted_wall_ms: *submitted_ms,
                        ended_wall_ms: None,
                        attached: *conn,
                        next_index: 0,
                        tasks: BTreeMap::new(),
                        version: 0,
                        cpu_us: 0,
                        peak_memory_bytes: 0,
                        running: 0,
                        forgotten: [0; 7],
                        counts: [0; 7],
                        ready: BTreeSet::new(),
                        backoff: BTreeSet::new(),
                        by_change: BTreeMap::new(),
                    },
                );
            }
            Change::TasksAdded { run, tasks, tails } => {
                if let Some(r) = self.runs.get_mut(run) {
                    for (i, spec) in tasks.iter().enumerate() {
                        let index = r.next_index;
                        r.next_index += 1;
                        // Executor calls are opaque: there is nothing to know them again by.
                        let learned = (r.spec.kind == RunKind::Sweep)
                            .then(|| self.durations.get(&duration_key(&r.spec, spec)).copied())
                            .flatten();
                        r.tasks.insert(
                            index,
                            Task {
                                spec: spec.clone(),
                                payload: tails.get(i).cloned().unwrap_or_default(),
                                state: TaskState::Pending,
                                attempts: 0,
                                deaths: 0,
                                failures: 0,
                                agent: None,
                                result: None,
                                opaque: Tail::default(),
                                blob: None,
                                exception: None,
                                certificates: Vec::new(),
                                started_wall_ms: None,
                                ended_wall_ms: None,
                                elapsed_us: None,
                                due_mono_ms: 0,
                                memory_bytes: None,
                                expected_ms: spec.expected_ms.or(learned).unwrap_or(0),
                                changed: 0,
                            },
                        );
                        r.file(index);
                    }
                }
            }
            Change::RunClosed { run } => {
                if let Some(r) = self.runs.get_mut(run) {
                    r.closed = true;
                }
            }
            Change::RunMoved { run, state, message, ended_ms } => {
                if let Some(r) = self.runs.get_mut(run) {
                    r.state = *state;
                    r.message.clone_from(message);
                    r.ended_wall_ms = *ended_ms;
                    r.version += 1;
                    if *state != RunState::Active {
                        r.attached = None;
                    }
                }
            }
            Change::TaskStarted { run, task, agent, attempt, wall_ms } => self.with_task(*run, *task, |t| {
                t.state = TaskState::Running;
                t.agent = Some(*agent);
                t.attempts = *attempt;
                t.started_wall_ms = Some(*wall_ms);
                t.ended_wall_ms = None;
            }),
            Change::TaskDone { run, task, result, opaque, blob, elapsed_us, wall_ms } => {
                self.with_task(*run, *task, |t| {
                    t.state = TaskState::Done;
                    t.result.clone_from(result);
                    t.opaque = opaque.clone();
                    t.blob.clone_from(blob);
                    t.exception = None;
                    t.elapsed_us = Some(*elapsed_us);
                    t.ended_wall_ms = Some(*wall_ms);
                });
                if let Some(r) = self.runs.get(run)
                    && r.spec.kind == RunKind::Sweep
                    && let Some(t) = r.tasks.get(task)
                    && self.durations.len() < REMEMBERED_DURATIONS
                {
                    let key = duration_key(&r.spec, &t.spec);
                    self.durations.insert(key, elapsed_us / 1000);
                }
            }
            Change::TaskFailed {
                run,
                task,
                state,
                exception,
                opaque,
                certificate,
                due_mono_ms,
                memory_bytes,
                wall_ms,
            } => {
                self.with_task(*run, *task, |t| {
                    t.state = *state;
                    t.due_mono_ms = *due_mono_ms;
                    t.memory_bytes = memory_bytes.or(t.memory_bytes);
                    t.ended_wall_ms = Some(*wall_ms);
                    t.opaque = opaque.clone();
                    let raised = exception.is_some();
                    if raised {
                        t.exception.clone_from(exception);
                    }
                    if let Some(c) = certificate {
                        if c.cause.is_death() {
                            if *state != TaskState::Pending {
                                t.deaths += 1;
                            }
                        } else {
                            t.failures += 1;
                        }
                        t.certificates.push((**c).clone());
                    } else if raised {
                        t.failures += 1;
                    }
                });
            }
            Change::TaskReset { run, task } => self.with_task(*run, *task, |t| {
                t.state = TaskState::Pending;
                t.deaths = 0;
                t.failures = 0;
                t.due_mono_ms = 0;
            }),
            Change::TaskDue { run, task } => self.with_task(*run, *task, |t| t.state = TaskState::Pending),
            Change::TaskCancelled { run, task, wall_ms } => self.with_task(*run, *task, |t| {
                t.state = TaskState::Cancelled;
                t.ended_wall_ms = Some(*wall_ms);
            }),
            Change::TasksForgotten { run, tasks } => {
                if let Some(r) = self.runs.get_mut(run) {
                    for i in tasks {
                        if let Some(t) = r.tasks.get(i) {
                            let state = at(t.state);
                            r.unfile(*i);
                            r.tasks.remove(i);
                            r.forgotten[state] += 1;
                        }
                    }
                }
            }
            Change::RunCharged { run, cpu_us, peak_memory_bytes } => {
                if let Some(r) = self.runs.get_mut(run) {
                    r.cpu_us += cpu_us;
                    r.peak_memory_bytes = r.peak_memory_bytes.max(*peak_memory_bytes);
                }
            }
        }
    }
}
