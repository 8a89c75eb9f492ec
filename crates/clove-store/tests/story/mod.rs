//! Random journals, as rows, and a look at all that a store holds.

// Each test binary uses a part of it.
#![allow(dead_code)]

use clove_abi::calls::{AgentInfo, AgentState, ExceptionText};
use clove_abi::certificate::{Cause, Certificate, KilledBy, Usage};
use clove_abi::ids::{AgentId, RunId};
use clove_abi::limits::{Limits, LimitsSpec};
use clove_abi::run::{Profile, Program, Retry, RunKind, RunSpec, RunState, TaskState};
use clove_store::{AuditRow, Row, RunRow, Store, Taken, TaskProgress, TaskRow};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

pub fn spec(name: &str) -> RunSpec {
    RunSpec {
        kind: RunKind::Sweep,
        name: name.to_owned(),
        program: Program::Cold { argv: vec!["/bin/true".into(), "a'b\u{0}\u{1b}[2J".into()] },
        jobs: 2,
        limits: LimitsSpec { memory_bytes: Some(u64::MAX), ..LimitsSpec::default() },
        retry: Retry::default(),
        on_oom: Default::default(),
        priority: -3,
        reuse: 1,
        env: [("A".to_owned(), "1".to_owned())].into(),
        mounts: Vec::new(),
        cwd: None,
        seed: u64::MAX,
        notify: None,
        attached: false,
        allow_degraded: false,
        profile: Profile::Default,
    }
}

pub fn run_row(run: u64) -> RunRow {
    RunRow {
        run: RunId(run),
        spec: spec(&format!("sweep {run}")),
        state: RunState::Active,
        message: String::new(),
        jobs: 2,
        submitted_ms: 1_700_000_000_000 + run,
        ended_ms: None,
        cpu_us: 0,
        peak_memory_bytes: 0,
        taken: Taken::default(),
    }
}

pub fn pending() -> TaskProgress {
    TaskProgress {
        state: TaskState::Pending,
        attempts: 0,
        agent: None,
        result: None,
        exception: None,
        started_ms: None,
        ended_ms: None,
        elapsed_us: None,
        payload_bytes: 0,
        payload_blob: None,
    }
}

pub fn task_row(run: u64, task: u32) -> TaskRow {
    TaskRow {
        run: RunId(run),
        task,
        name: String::new(),
        config: json!({"lr": 0.1, "n": task}),
        progress: pending(),
    }
}

pub fn certificate(agent: AgentId, place: Option<(u64, u32, u32)>, cause: Cause) -> Certificate {
    Certificate {
        agent,
        name: format!("agent-{}", agent.slot),
        run: place.map(|p| RunId(p.0)),
        task: place.map(|p| p.1),
        attempt: place.map_or(0, |p| p.2),
        cause,
        exit_code: (cause == Cause::Exit).then_some(3),
        signal: (cause == Cause::Signal).then_some(11),
        killed_by: (cause == Cause::Killed).then(|| KilledBy {
            kind: "operator".into(),
            uid: Some(1000),
            pid: None,
            command: Some("clove".into()),
        }),
        message: "it crashed with SIGSEGV, after 2 s".into(),
        suggestion: String::new(),
        usage: Usage { peak_memory_bytes: 1 << 20, ..Usage::default() },
        limits: Limits {
            memory_bytes: 1 << 30,
            memory_reserve_bytes: 1 << 30,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 512,
            disk_bytes: 1 << 30,
            nofile: 1024,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        started_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_002_000,
        tail: "last words \u{202e}\n".into(),
        output_dropped_bytes: 0,
        missing_walls: vec!["landlock".into()],
        missing_limits: Vec::new(),
    }
}

pub fn agent_info(id: AgentId, place: Option<(u64, u32, u32)>) -> AgentInfo {
    AgentInfo {
        id,
        name: format!("agent-{}", id.slot),
        kind: "cold".into(),
        state: AgentState::Running,
        run: place.map(|p| RunId(p.0)),
        task: place.map(|p| p.1),
        attempt: place.map_or(0, |p| p.2),
        command: "train.py".into(),
        pid: Some(4711),
        started_ms: 1_700_000_000_000 + u64::from(id.generation),
        ended_ms: None,
        memory_limit_bytes: 1 << 30,
        ended: None,
        missing_walls: Vec::new(),
        missing_limits: Vec::new(),
        profile: if id.slot.is_multiple_of(2) { Profile::Default } else { Profile::Strict },
    }
}

const RUNS: std::ops::Range<u64> = 1..4;
const TASKS: std::ops::Range<u32> = 0..5;

fn a_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"$float": "nan"})),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| json!(x)),
        any::<i64>().prop_map(|x| json!(x)),
        any::<u64>().prop_map(|x| json!(x)),
        any::<bool>().prop_map(|x| json!(x)),
        ".{0,12}".prop_map(|x| json!(x)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn a_task_state() -> impl Strategy<Value = TaskState> {
    prop::sample::select(vec![
        TaskState::Pending,
        TaskState::Backoff,
        TaskState::Running,
        TaskState::Done,
        TaskState::Failed,
        TaskState::Quarantined,
        TaskState::Cancelled,
    ])
}

fn an_agent() -> impl Strategy<Value = AgentId> {
    (0..6u32, 1..3u32).prop_map(|(slot, generation)| AgentId { slot, generation })
}

fn a_time() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0..i64::MAX as u64)
}

fn a_progress() -> impl Strategy<Value = TaskProgress> {
    let raised = ("\\PC{0,9}", ".{0,9}", ".{0,9}").prop_map(|(class, message, traceback)| ExceptionText {
        class,
        message,
        traceback,
    });
    (
        a_task_state(),
        any::<u32>(),
        prop::option::of(an_agent()),
        prop::option::of(a_value()),
        prop::option::of(raised),
        (a_time(), a_time(), a_time()),
        (0..1u64 << 40, prop::option::of("[0-9a-f]{8}")),
    )
        .prop_map(
            |(
                state,
                attempts,
                agent,
                result,
                exception,
                (started_ms, ended_ms, elapsed_us),
                (bytes, blob),
            )| {
                TaskProgress {
                    state,
                    attempts,
                    agent,
                    result,
                    exception,
                    started_ms,
                    ended_ms,
                    elapsed_us,
                    payload_bytes: bytes,
                    payload_blob: blob,
                }
            },
        )
}

fn a_taken() -> impl Strategy<Value = Taken> {
    (0..9u32, 0..9u32, 0..9u32, 0..9u32).prop_map(|(done, failed, quarantined, cancelled)| Taken {
        done,
        failed,
        quarantined,
        cancelled,
    })
}

fn a_cause() -> impl Strategy<Value = Cause> {
    prop::sample::select(vec![Cause::Exit, Cause::Signal, Cause::Oom, Cause::Killed, Cause::Lost])
}

fn a_place() -> impl Strategy<Value = (u64, u32, u32)> {
    (RUNS, TASKS, 1..4u32)
}

/// Any row about a few runs, tasks and agents, whether or not it fits.
pub fn a_row() -> impl Strategy<Value = Row> {
    let run_state = prop::sample::select(vec![
        RunState::Active,
        RunState::Interrupted,
        RunState::Finished,
        RunState::Cancelled,
        RunState::Failed,
    ]);
    prop_oneof![
        3 => (RUNS, a_taken()).prop_map(|(run, taken)| Row::RunUpsert(Box::new(RunRow { taken, ..run_row(run) }))),
        2 => (RUNS, run_state, ".{0,9}", a_time()).prop_map(|(run, state, message, ended_ms)| Row::RunState {
            run: RunId(run), state, message, ended_ms
        }),
        1 => (RUNS, 0..1u64 << 50, 0..1u64 << 50).prop_map(|(run, cpu_us, peak_memory_bytes)| Row::RunUsage {
            run: RunId(run), cpu_us, peak_memory_bytes
        }),
        1 => RUNS.prop_map(|run| Row::RunForgotten { run: RunId(run) }),
        8 => (RUNS, TASKS, ".{0,5}", a_value(), a_progress()).prop_map(|(run, task, name, config, progress)| {
            Row::TaskUpsert(Box::new(TaskRow { run: RunId(run), task, name, config, progress }))
        }),
        8 => (RUNS, TASKS, a_progress()).prop_map(|(run, task, progress)| Row::TaskState {
            run: RunId(run), task, progress: Box::new(progress)
        }),
        1 => (RUNS, prop::collection::vec(TASKS, 0..3), a_taken()).prop_map(|(run, tasks, taken)| Row::TasksTaken {
            run: RunId(run), tasks, taken
        }),
        5 => (an_agent(), a_place(), a_cause()).prop_map(|(agent, place, cause)| Row::Attempt {
            certificate: Box::new(certificate(agent, Some(place), cause))
        }),
        4 => (an_agent(), prop::option::of(a_place()))
            .prop_map(|(agent, place)| Row::AgentUpsert(Box::new(agent_info(agent, place)))),
        4 => (an_agent(), prop::option::of(a_place()), a_cause()).prop_map(|(agent, place, cause)| Row::AgentEnded {
            certificate: Box::new(certificate(agent, place, cause)), ended: cause.word().to_owned()
        }),
        3 => (1..200u64, 0..9999u64, prop::option::of(an_agent())).prop_map(|(seq, wall_ms, agent)| {
            Row::Audit(AuditRow {
                seq, wall_ms, kind: "proc.kill".into(), actor: "operator:1000:7".into(), agent, run: None
            })
        }),
    ]
}

/// A journal: what each record says, from record 1 on.
pub fn a_journal() -> impl Strategy<Value = Vec<Vec<Row>>> {
    prop::collection::vec(prop::collection::vec(a_row(), 0..5), 1..40)
}

/// Leaves out what can't happen: rows about runs and tasks that aren't there, agents that change their run or
/// live again.
pub fn well_formed(journal: Vec<Vec<Row>>) -> Vec<Vec<Row>> {
    let (mut runs, mut tasks, mut ended) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let placed = |id: AgentId, run: Option<RunId>| {
        run == u64::from(id.slot).checked_sub(2).filter(|n| *n > 0).map(RunId)
    };
    let mut fits = |row: &Row| match row {
        Row::RunUpsert(r) => {
            runs.insert(r.run);
            true
        }
        Row::RunForgotten { run } => {
            tasks.retain(|(r, _)| r != run);
            runs.remove(run)
        }
        Row::RunState { run, .. } | Row::RunUsage { run, .. } => runs.contains(run),
        Row::TaskUpsert(t) => {
            let fits = runs.contains(&t.run);
            if fits {
                tasks.insert((t.run, t.task));
            }
            fits
        }
        Row::TaskState { run, task, .. } => tasks.contains(&(*run, *task)),
        Row::TasksTaken { run, tasks: taken, .. } => {
            tasks.retain(|(r, t)| r != run || !taken.contains(t));
            runs.contains(run)
        }
        Row::Attempt { certificate: c } => c.run.zip(c.task).is_some_and(|at| tasks.contains(&at)),
        Row::AgentUpsert(a) => placed(a.id, a.run) && !ended.contains(&a.id),
        Row::AgentEnded { certificate: c, .. } => placed(c.agent, c.run) && ended.insert(c.agent),
        Row::Audit(_) => true,
    };
    journal.into_iter().map(|rows| rows.into_iter().filter(&mut fits).collect()).collect()
}

/// The rows of records `first..=last`.
pub fn window(journal: &[Vec<Row>], first: usize, last: usize) -> Vec<Row> {
    journal[first - 1..last].concat()
}

pub fn open(path: &Path) -> Store {
    let (store, applied) = Store::open(path).expect("the store opens");
    assert_eq!(store.applied(), applied);
    store
}

/// All content, table by table, in a form that can be compared.
pub fn content(path: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(path).expect("the database opens");
    let mut all = Vec::new();
    for (table, order) in [
        ("projection", "one"),
        ("runs", "run"),
        ("tasks", "run, task"),
        ("attempts", "run, task, attempt"),
        ("agents", "agent"),
        ("audit", "seq"),
        ("run_summary", "run"),
        ("results", "run, task"),
    ] {
        let mut s =
            db.prepare(&format!("SELECT * FROM {table} ORDER BY {order}")).expect("the table is there");
        let columns = s.column_count();
        let mut rows = s.query([]).expect("the table can be read");
        while let Some(row) = rows.next().expect("a row") {
            let cells: Vec<rusqlite::types::Value> =
                (0..columns).map(|i| row.get(i).expect("a cell")).collect();
            all.push(format!("{table} {cells:?}"));
        }
    }
    all
}

/// What the store answers to every question that there is.
pub fn answers(store: &Store) -> Vec<String> {
    let mut all = vec![format!("{:?}", store.runs().expect("runs"))];
    for run in RUNS {
        let run = RunId(run);
        all.push(format!("{:?} {:?}", store.run(run).expect("run"), store.show(run).expect("show")));
        for full in [false, true] {
            all.push(format!("{:?}", store.tasks(run, 0, 3, full).expect("tasks")));
        }
        for task in TASKS {
            all.push(format!("{:?}", store.certificates(run, task).expect("certificates")));
        }
    }
    for slot in 0..6 {
        all.push(format!("{:?}", store.agent(&format!("agent-{slot}")).expect("by name")));
        all.push(format!("{:?}", store.agent(&format!("a{slot}.1")).expect("by id")));
    }
    all.push(format!("{:?}", store.audit(0, 1000).expect("audit")));
    all
}
