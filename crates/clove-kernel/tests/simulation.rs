//! The whole core under a simulated host: random schedules, crashes, kills, timeouts, lost connections and restarts of
//! the kernel, thousands of times, each from a printed seed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is wrong")]

use clove_abi::calls::*;
use clove_abi::certificate::{Cause, Usage};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::limits::{Limits, LimitsSpec};
use clove_abi::run::*;
use clove_abi::table::Call;
use clove_kernel::input::ExitStatus;
use clove_kernel::state::AgentKind;
use clove_kernel::{Change, Core, Effect, Event, Input, Outgoing, Peer, State, Tail};
use std::collections::{BTreeMap, BTreeSet};

const GIB: u64 = 1 << 30;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = clove_kernel::retry::splitmix64(self.0);
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the simulated host knows of one agent.
#[derive(Clone, Debug)]
struct Process {
    ready: bool,
    killed: bool,
    /// It has a task and hasn't handed it in.
    working: bool,
}

struct World {
    core: Core,
    rng: Rng,
    mono: u64,
    processes: BTreeMap<AgentId, Process>,
    journal: Vec<(Vec<u8>, Vec<Change>, Outgoing)>,
    /// (run, task) shown as done, with its result.
    done: BTreeMap<(RunId, TaskIndex), serde_json::Value>,
    replies: BTreeMap<u64, Result<Vec<u8>, clove_abi::SysError>>,
    next_correlation: u64,
}

fn operator() -> Peer {
    Peer::Operator { uid: 0, pid: 1, command: "test".into() }
}

impl World {
    fn new(seed: u64) -> World {
        let mut w = World {
            core: Core::default(),
            rng: Rng(seed),
            mono: 0,
            processes: BTreeMap::new(),
            journal: Vec::new(),
            done: BTreeMap::new(),
            replies: BTreeMap::new(),
            next_correlation: 1,
        };
        w.boot();
        w
    }

    fn boot(&mut self) {
        let defaults = Limits {
            memory_bytes: 4 * GIB,
            memory_reserve_bytes: 4 * GIB,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 512,
            disk_bytes: GIB,
            nofile: 1024,
            wall_ms: 0,
            output_bytes: 1 << 20,
        };
        self.event(Event::Boot { capacity_bytes: 8 * GIB, cpus: 4, defaults });
    }

    fn event(&mut self, event: Event) {
        let input = Input { wall_ms: 1_000_000 + self.mono, mono_ms: self.mono, event };
        let bytes = serde_json::to_vec(&input).unwrap();
        let outcome = self.core.handle(&input);
        if !outcome.changes.is_empty() {
            self.journal.push((bytes, outcome.changes, Outgoing::of(&input, &outcome.effects)));
        }
        for e in outcome.effects {
            self.perform(e);
        }
        self.check();
    }

    fn call(&mut self, conn: u64, peer: Peer, call: Call) -> Option<Result<Vec<u8>, clove_abi::SysError>> {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        self.event(Event::Call { conn: ConnId(conn), correlation, peer, call, tail: Tail::default() });
        self.replies.remove(&correlation)
    }

    fn perform(&mut self, e: Effect) {
        match e {
            Effect::Reply { to, body, .. } | Effect::Collect { to, body, .. } => {
                self.replies.insert(to.correlation, Ok(body));
            }
            Effect::Fail { to, error } => {
                self.replies.insert(to.correlation, Err(error));
            }
            Effect::Start { agent } => {
                let old =
                    self.processes.insert(agent, Process { ready: false, killed: false, working: true });
                assert!(old.is_none(), "{agent} was started twice");
            }
            Effect::Assign { agent } => {
                self.processes.get_mut(&agent).expect("an assigned worker lives").working = true
            }
            Effect::Kill { agent } => {
                if let Some(p) = self.processes.get_mut(&agent) {
                    p.killed = true;
                }
            }
            _ => {}
        }
    }

    /// Invariants that hold between any two events.
    fn check(&self) {
        let s = &self.core.state;
        let admitted: Vec<_> = s.agents.values().filter(|a| a.admitted).collect();
        assert_eq!(s.reserved_bytes, admitted.iter().map(|a| a.limits.memory_reserve_bytes).sum::<u64>());
        assert_eq!(s.reserved_cpu_milli, admitted.iter().map(|a| u64::from(a.cpu_cost_milli)).sum::<u64>());
        assert!(s.reserved_bytes <= s.capacity_bytes, "the machine is overcommitted");
        for (name, id) in &s.names {
            let a = &s.agents[id];
            assert!(a.name == *name && a.state != AgentState::Ended, "{name} names a dead agent");
        }
        for r in s.runs.values() {
            let mut counts = [0u32; 7];
            for t in r.tasks.values() {
                counts[t.state as usize] += 1;
                if t.state == TaskState::Running {
                    let a = &s.agents[&t.agent.expect("a running task has an agent")];
                    assert!(a.state != AgentState::Ended, "a running task's agent is dead");
                }
            }
            assert_eq!(counts, r.counts, "{}", r.id);
            assert!(r.running <= r.jobs(s.cpus), "{} runs {} of {}", r.id, r.running, r.jobs(s.cpus));
            assert_eq!(r.ready.len() as u32, counts[0]);
            assert_eq!(r.by_change.len(), r.tasks.len());
            if r.state == RunState::Finished {
                assert!(r.is_drained());
            }
        }
        for ((run, task), result) in &self.done {
            let t = &s.runs[run].tasks[task];
            assert_eq!(t.state, TaskState::Done, "{run}/{task} was shown as done");
            assert_eq!(t.result.as_ref(), Some(result), "{run}/{task} changed its result");
        }
    }

    /// One random thing happens.
    fn step(&mut self) {
        self.mono += self.rng.below(50);
        let ids: Vec<AgentId> = self.processes.keys().copied().collect();
        if self.core.next_deadline().is_some_and(|d| d <= self.mono) {
            return self.event(Event::Timer);
        }
        if ids.is_empty() {
            if let Some(d) = self.core.next_deadline() {
                self.mono = d;
                self.event(Event::Timer);
            }
            return;
        }
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        let p = self.processes[&id].clone();
        let kind = self.core.state.agents.get(&id).map(|a| a.kind);
        if p.killed {
            self.processes.remove(&id);
            return self.exit(id, ExitStatus::Signal(9), Usage::default());
        }
        if !p.ready {
            if self.rng.chance(3) {
                self.processes.remove(&id);
                return self.event(Event::SpawnFailed {
                    agent: id,
                    stage: "limits".into(),
                    message: "no".into(),
                    hint: String::new(),
                    code: None,
                });
            }
            self.processes.get_mut(&id).unwrap().ready = true;
            return self.event(Event::Ready {
                agent: id,
                pid: 7,
                missing_walls: vec![],
                missing_limits: vec![],
            });
        }
        match self.rng.below(100) {
            0..5 => {
                self.processes.remove(&id);
                self.exit(id, ExitStatus::Signal(11), Usage::default());
            }
            5..9 => {
                self.processes.remove(&id);
                let usage = Usage { oom_kills: 1, ..Usage::default() };
                self.exit(id, ExitStatus::Signal(9), usage);
            }
            9..11 => {
                let _ = self.call(
                    99,
                    operator(),
                    Call::ProcKill(ProcKill { target: id.to_string(), signal: None }),
                );
            }
            11..60 if kind != Some(AgentKind::Cold) && p.working => self.hand_in(id),
            60..80 if !p.working || kind == Some(AgentKind::Cold) => {
                if kind == Some(AgentKind::Worker) {
                    return;
                }
                self.processes.remove(&id);
                self.exit(id, ExitStatus::Code(0), Usage::default());
            }
            _ => {}
        }
    }

    fn exit(&mut self, agent: AgentId, status: ExitStatus, usage: Usage) {
        let cold = self.core.state.agents.get(&agent).is_some_and(|a| a.kind == AgentKind::Cold);
        let result = (cold && status == ExitStatus::Code(0)).then(|| serde_json::json!({"cold": true}));
        self.event(Event::Exited {
            agent,
            status,
            usage,
            output_tail: String::new(),
            output_dropped: 0,
            result,
            result_error: None,
        });
    }

    fn hand_in(&mut self, id: AgentId) {
        let a = self.core.state.agents[&id].clone();
        let (run, task) = (a.run.unwrap(), a.task.unwrap());
        let raised = self.rng.chance(8);
        let result = serde_json::json!({ "task": task, "attempt": a.attempt });
        self.processes.get_mut(&id).unwrap().working = false;
        let open = self.core.state.runs[&run].tasks[&task].state == TaskState::Running;
        let reply = self.call(
            1000 + u64::from(id.slot),
            Peer::Agent(id),
            Call::TaskDone(TaskDone {
                run,
                task,
                attempt: a.attempt,
                result: (!raised).then(|| result.clone()),
                exception: raised.then(ExceptionText::default),
                blob: None,
                elapsed_us: 1000,
                rss_bytes: 0,
            }),
        );
        assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
        if !raised && open {
            self.done.insert((run, task), result);
        }
        // The same result again, or somebody else's task, is refused.
        let again = self.call(
            1000 + u64::from(id.slot),
            Peer::Agent(id),
            Call::TaskDone(TaskDone { run, task, attempt: a.attempt, ..TaskDone::default() }),
        );
        if self.core.state.agents.get(&id).is_some_and(|now| now.idle) {
            assert!(matches!(again, Some(Err(_))), "a second result was taken");
        }
    }

    /// The kernel dies: what the journal holds must be what it was; processes are gone.
    fn restart(&mut self) {
        let hash = self.core.state.hash();
        let upto = self.rng.below(self.journal.len() as u64 + 1) as usize;
        // From a checkpoint in the middle, then the outcomes behind it.
        let mut first = Core::default();
        first.recover(self.journal[..upto].iter().flat_map(|(_, c, _)| c));
        let state = State::from_checkpoint(&first.state.to_checkpoint()).unwrap();
        let mut recovered = Core::new(state);
        recovered.recover(self.journal[upto..].iter().flat_map(|(_, c, _)| c));
        assert_eq!(recovered.state.hash(), hash, "recovery gives another state");
        assert_eq!(recovered.state, self.core.state, "recovery derives another index");
        // Re-running the inputs is a check within one version.
        let mut again = Core::default();
        for (input, changes, outgoing) in &self.journal {
            let input: Input = serde_json::from_slice(input).unwrap();
            let now = again.handle(&input);
            assert_eq!(&now.changes, changes, "the same input led to other changes");
            assert_eq!(
                Outgoing::of(&input, &now.effects).without_waiters(),
                outgoing.clone().without_waiters(),
                "the same input led to other answers or effects"
            );
        }
        assert_eq!(again.state.hash(), hash, "re-running gives another state");
        self.core = recovered;
        self.processes.clear();
        self.mono = self.rng.below(100);
        self.boot();
        let interrupted: Vec<RunId> = self
            .core
            .state
            .runs
            .values()
            .filter(|r| r.state == RunState::Interrupted)
            .map(|r| r.id)
            .collect();
        for run in interrupted {
            let reply = self.call(99, operator(), Call::RunResume(RunResume { run, failed: false }));
            assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
        }
    }
}

fn spec(rng: &mut Rng, warm: bool) -> RunSpec {
    RunSpec {
        kind: RunKind::Sweep,
        name: "sweep".into(),
        program: if warm {
            Program::Warm(TemplateSpec { python: "/usr/bin/python3".into(), ..TemplateSpec::default() })
        } else {
            Program::Cold { argv: vec!["/bin/true".into()] }
        },
        jobs: rng.below(5) as u32,
        limits: LimitsSpec {
            memory_bytes: Some(GIB + rng.below(2) * GIB),
            wall_ms: Some(2_000),
            ..LimitsSpec::default()
        },
        retry: Retry {
            deaths: rng.below(4) as u32,
            failures: rng.below(2) as u32,
            backoff_ms: 50,
            backoff_max_ms: 500,
        },
        on_oom: if rng.chance(50) { OnOom::Double } else { OnOom::Keep },
        priority: rng.below(3) as i32,
        reuse: if warm && rng.chance(40) { 3 } else { 1 },
        env: BTreeMap::new(),
        mounts: vec![],
        cwd: None,
        seed: rng.next(),
        notify: None,
        attached: false,
        allow_degraded: false,
        profile: Profile::Default,
    }
}

fn simulate(seed: u64) {
    let mut w = World::new(seed);
    let restarts = w.rng.chance(40);
    for _ in 0..=w.rng.below(3) {
        let warm = w.rng.chance(70);
        let mut spec = spec(&mut w.rng, warm);
        spec.attached = w.rng.chance(10);
        let tasks = (0..1 + w.rng.below(25))
            .map(|i| TaskSpec {
                config: serde_json::json!({ "i": i }),
                expected_ms: w.rng.chance(50).then(|| i * 10),
                ..TaskSpec::default()
            })
            .collect();
        let reply = w.call(5, operator(), Call::RunSubmit(RunSubmit { spec, tasks }));
        assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
    }
    let mut steps = 0u64;
    while w.core.state.runs.values().any(|r| r.state == RunState::Active) || !w.processes.is_empty() {
        w.step();
        steps += 1;
        if restarts && w.rng.below(400) == 0 {
            w.restart();
        }
        if w.rng.below(3000) == 0 {
            w.event(Event::Gone { conn: ConnId(5) });
        }
        assert!(steps < 200_000, "it never ends");
    }
    // Nobody is left behind, and each task has exactly one final state.
    assert_eq!(w.core.state.live().count(), 0);
    assert_eq!(w.core.state.reserved_bytes, 0);
    for r in w.core.state.runs.values() {
        assert!(r.tasks.values().all(|t| t.state.is_final()), "{} left a task open", r.id);
        for t in r.tasks.values() {
            let lost = t.certificates.iter().filter(|c| c.cause == Cause::Lost).count() as u32;
            assert!(t.deaths <= r.spec.retry.deaths + 1, "{} deaths, {lost} lost", t.deaths);
        }
    }
    w.restart();
}

#[test]
fn thousands_of_random_schedules_keep_every_promise() {
    let count: u64 = std::env::var("CLOVE_SIMULATIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(500);
    let base: u64 = std::env::var("CLOVE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    eprintln!("{count} schedules, seeds {base} to {}", base + count - 1);
    for seed in base..base + count {
        let r = std::panic::catch_unwind(|| simulate(seed));
        if let Err(e) = r {
            eprintln!("seed {seed} fails; repeat it with CLOVE_SIMULATIONS=1 CLOVE_SEED={seed}");
            std::panic::resume_unwind(e);
        }
    }
}

#[test]
fn agents_cannot_make_operators_calls() {
    let mut w = World::new(1);
    let id = AgentId { slot: 0, generation: 1 };
    for call in [
        Call::ProcList(ProcList { all: true }),
        Call::RunList(RunList {}),
        Call::KernelShutdown(KernelShutdown { force: true }),
    ] {
        let reply = w.call(7, Peer::Agent(id), call.clone());
        assert!(matches!(reply, Some(Err(e)) if e.code == clove_abi::ErrorCode::NotPermitted));
        // The positive control: an operator may.
        assert!(matches!(w.call(8, operator(), call), Some(Ok(_))));
    }
}

#[test]
fn stale_ids_are_told_dead_and_never_reach_a_successor() {
    let mut w = World::new(3);
    let spawn = |name: &str| {
        Call::ProcSpawn(ProcSpawn {
            name: Some(name.into()),
            argv: vec!["/bin/true".into()],
            remove: true,
            attached: true,
            ..ProcSpawn::default()
        })
    };
    w.call(1, operator(), spawn("one"));
    let first = *w.core.state.names.get("one").unwrap();
    w.event(Event::Ready { agent: first, pid: 3, missing_walls: vec![], missing_limits: vec![] });
    w.processes.remove(&first);
    w.exit(first, ExitStatus::Code(0), Usage::default());
    let waited = w.call(2, operator(), Call::ProcWait(ProcWait { target: "one".into(), timeout_ms: None }));
    assert!(matches!(waited, Some(Ok(_))));
    w.event(Event::Gone { conn: ConnId(1) });
    w.call(2, operator(), spawn("two"));
    let second = *w.core.state.names.get("two").unwrap();
    assert_eq!((first.slot, first.generation + 1), (second.slot, second.generation), "the slot is reused");
    let reply = w.call(1, operator(), Call::ProcKill(ProcKill { target: first.to_string(), signal: None }));
    assert!(matches!(reply, Some(Err(e)) if e.code == clove_abi::ErrorCode::Dead));
    assert!(!w.processes[&second].killed, "the successor was hit");
}

#[test]
fn longest_expected_first_and_priorities_count() {
    let mut w = World::new(4);
    let mut rng = Rng(9);
    let mut low = spec(&mut rng, true);
    (low.jobs, low.priority, low.limits.memory_bytes, low.reuse) = (1, 0, Some(GIB), 1);
    let tasks = |ms: &[u64]| {
        ms.iter().map(|m| TaskSpec { expected_ms: Some(*m), ..TaskSpec::default() }).collect::<Vec<_>>()
    };
    w.call(1, operator(), Call::RunSubmit(RunSubmit { spec: low, tasks: tasks(&[10, 500, 30]) }));
    let run = w.core.state.runs.values().next().unwrap();
    let started: BTreeSet<TaskIndex> =
        run.tasks.iter().filter(|(_, t)| t.state == TaskState::Running).map(|(i, _)| *i).collect();
    assert_eq!(started, BTreeSet::from([1]), "the longest one first");
}
