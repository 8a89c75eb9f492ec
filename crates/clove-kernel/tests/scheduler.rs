//! Properties of admission, over random machines and runs: never overcommitted, never idle without a reason, fair
//! between equals, priorities first.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is wrong")]

use clove_abi::calls::{RunSubmit, RunSubmitReply, TaskDone};
use clove_abi::ids::{AgentId, ConnId, RunId};
use clove_abi::limits::{Limits, LimitsSpec};
use clove_abi::run::{
    OnOom, Profile, Program, Retry, RunKind, RunSpec, RunState, TaskSpec, TaskState, TemplateSpec,
};
use clove_abi::table::Call;
use clove_kernel::{Core, Effect, Event, Input, Peer, Tail, scheduler};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// What a generated run asks for.
#[derive(Clone, Debug)]
struct Wish {
    jobs: u32,
    memory_mib: u64,
    cpu_milli: Option<u32>,
    priority: i32,
    tasks: usize,
}

struct Machine {
    core: Core,
    now: u64,
    started: Vec<AgentId>,
    correlation: u64,
}

impl Machine {
    fn new(capacity_mib: u64, cpus: u32) -> Machine {
        let mut m = Machine { core: Core::default(), now: 0, started: Vec::new(), correlation: 0 };
        let defaults = Limits {
            memory_bytes: capacity_mib * MIB / u64::from(cpus),
            memory_reserve_bytes: capacity_mib * MIB / u64::from(cpus),
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 512,
            disk_bytes: MIB,
            nofile: 1024,
            wall_ms: 0,
            output_bytes: MIB,
        };
        m.event(Event::Boot { capacity_bytes: capacity_mib * MIB, cpus, defaults });
        m
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        self.now += 1;
        let outcome = self.core.handle(&Input { wall_ms: self.now, mono_ms: self.now, event });
        for e in &outcome.effects {
            if let Effect::Start { agent } = e {
                self.started.push(*agent);
            }
        }
        outcome.effects
    }

    fn call(&mut self, peer: Peer, call: Call) -> Vec<Effect> {
        self.correlation += 1;
        let correlation = self.correlation;
        self.event(Event::Call { conn: ConnId(1), correlation, peer, call, tail: Tail::default() })
    }

    fn submit(&mut self, w: &Wish) -> Option<RunId> {
        let spec = RunSpec {
            kind: RunKind::Sweep,
            name: "r".into(),
            program: Program::Warm(TemplateSpec {
                python: "/usr/bin/python3".into(),
                ..TemplateSpec::default()
            }),
            jobs: w.jobs,
            limits: LimitsSpec {
                memory_bytes: Some(w.memory_mib * MIB),
                cpu_milli: w.cpu_milli,
                ..LimitsSpec::default()
            },
            retry: Retry::default(),
            on_oom: OnOom::Keep,
            priority: w.priority,
            reuse: 1,
            env: BTreeMap::new(),
            mounts: vec![],
            cwd: None,
            seed: 0,
            notify: None,
            attached: false,
            allow_degraded: false,
            profile: Profile::Default,
        };
        let tasks = vec![TaskSpec::default(); w.tasks];
        let peer = Peer::Operator { uid: 0, pid: 1, command: "test".into() };
        self.call(peer, Call::RunSubmit(RunSubmit { spec, tasks })).into_iter().find_map(|e| match e {
            Effect::Reply { body, .. } => Some(serde_json::from_slice::<RunSubmitReply>(&body).unwrap().run),
            _ => None,
        })
    }

    /// One agent hands in its result and leaves.
    fn finish(&mut self, which: usize) {
        let id = self.started.remove(which % self.started.len());
        let a = self.core.state.agents[&id].clone();
        self.event(Event::Ready { agent: id, pid: 9, missing_walls: vec![], missing_limits: vec![] });
        let done = TaskDone {
            run: a.run.unwrap(),
            task: a.task.unwrap(),
            attempt: a.attempt,
            result: Some(1.into()),
            ..TaskDone::default()
        };
        self.call(Peer::Agent(id), Call::TaskDone(done));
        self.event(Event::Exited {
            agent: id,
            status: clove_kernel::input::ExitStatus::Code(0),
            usage: clove_abi::certificate::Usage { cpu_user_us: 1000, ..Default::default() },
            output_tail: String::new(),
            output_dropped: 0,
            result: None,
            result_error: None,
        });
    }

    fn check(&self) {
        let s = &self.core.state;
        assert!(s.reserved_bytes <= s.capacity_bytes, "memory is overcommitted");
        assert!(
            s.reserved_cpu_milli <= u64::from(s.cpus) * 1000 || s.live().count() == 1,
            "{} thousandths of {} CPUs",
            s.reserved_cpu_milli,
            s.cpus
        );
        // The first in line waits only for want of room.
        let waiting = s
            .runs
            .values()
            .filter(|r| r.state == RunState::Active && !r.ready.is_empty() && r.running < r.jobs(s.cpus))
            .min_by_key(|r| {
                let share = u64::from(r.running) * 1_000_000 / u64::from(r.jobs(s.cpus));
                (std::cmp::Reverse(r.spec.priority), share, r.cpu_us, r.id)
            });
        if let Some(r) = waiting {
            let limits = scheduler::task_limits(s, r, r.ready.first().unwrap().1);
            let cost = if limits.cpu_milli > 0 {
                u64::from(limits.cpu_milli)
            } else {
                u64::from((s.cpus * 1000 / r.jobs(s.cpus)).clamp(1, 1000))
            };
            let fits = s.reserved_bytes + limits.memory_reserve_bytes <= s.capacity_bytes
                && s.reserved_cpu_milli + cost <= u64::from(s.cpus) * 1000;
            assert!(!fits, "{} could start, but waits", r.id);
            assert!(s.live().next().is_some(), "an idle machine lets {} wait", r.id);
        }
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    (0..6u32, 16..600u64, prop::option::of(1..2000u32), 0..3i32, 1..12usize).prop_map(
        |(jobs, memory_mib, cpu_milli, priority, tasks)| Wish {
            jobs,
            memory_mib,
            cpu_milli,
            priority,
            tasks,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn never_overcommitted_and_never_idle(
        cpus in 2..9u32,
        wishes in prop::collection::vec(wish(), 1..6),
        order in prop::collection::vec(0..64usize, 0..200),
    ) {
        let mut m = Machine::new(1024, cpus);
        for w in &wishes {
            m.submit(w);
            m.check();
        }
        for which in order.into_iter().chain(std::iter::repeat_n(0, 100)) {
            if m.started.is_empty() {
                break;
            }
            m.finish(which);
            m.check();
        }
        for r in m.core.state.runs.values() {
            prop_assert!(r.tasks.values().all(|t| t.state == TaskState::Done), "{} was starved", r.id);
        }
    }

    #[test]
    fn equal_runs_share_equally(cpus in 2..9u32, order in prop::collection::vec(0..64usize, 0..60)) {
        let mut m = Machine::new(16_384, cpus);
        let w = Wish { jobs: cpus, memory_mib: 16, cpu_milli: Some(1000), priority: 0, tasks: 100 };
        let (a, b) = (m.submit(&w).unwrap(), m.submit(&w).unwrap());
        // The first one had the machine to itself: from the first full turnover on they share.
        for _ in 0..cpus {
            m.finish(0);
        }
        for which in order {
            m.finish(which);
            let (x, y) = (m.core.state.runs[&a].running, m.core.state.runs[&b].running);
            prop_assert!(x.abs_diff(y) <= cpus.div_ceil(2) + 1, "{x} against {y}");
            if which % 8 == 0 {
                // Whoever has fewer gets the next place.
                let before = (x, y);
                m.finish(0);
                let after = (m.core.state.runs[&a].running, m.core.state.runs[&b].running);
                prop_assert_eq!(before.0 + before.1, after.0 + after.1);
            }
        }
    }

    #[test]
    fn a_higher_priority_goes_first(low in 1..20usize, high in 1..20usize) {
        let mut m = Machine::new(4096, 2);
        let wish = |priority, tasks| Wish { jobs: 2, memory_mib: 16, cpu_milli: Some(1000), priority, tasks };
        let l = m.submit(&wish(0, low)).unwrap();
        let h = m.submit(&wish(5, high)).unwrap();
        let first = low.min(2);
        for _ in 0..first {
            m.finish(0);
        }
        while m.core.state.runs[&h].ready.len() > 1 {
            prop_assert!(m.core.state.runs[&l].running == 0, "the lower one runs while the higher one waits");
            m.finish(0);
        }
    }
}
