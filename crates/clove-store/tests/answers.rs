//! Questions are answered as the kernel answers them.

mod story;

use clove_abi::calls::{AgentState, ExceptionText};
use clove_abi::certificate::Cause;
use clove_abi::ids::{AgentId, RunId};
use clove_abi::run::{RunState, TaskState};
use clove_store::{AuditRow, Row, Taken, TaskProgress, Trimmed};
use serde_json::json;
use story::{agent_info, certificate, open, pending, run_row, task_row};

fn agent(slot: u32) -> AgentId {
    AgentId { slot, generation: 1 }
}

fn moved(task: u32, progress: TaskProgress) -> Row {
    Row::TaskState { run: RunId(3), task, progress: Box::new(progress) }
}

/// A run of six tasks: two done, one failed by an exception, one given up after two deaths, one running, one waiting.
fn a_run() -> Vec<Row> {
    let mut rows = vec![Row::RunUpsert(Box::new(run_row(3)))];
    rows.extend((0..6).map(|i| Row::TaskUpsert(Box::new(task_row(3, i)))));
    for (task, us) in [(0, 1_500_000), (1, 250_000)] {
        let result = Some(json!({"rmse": 0.1 + 0.2, "n": u64::MAX}));
        let (agent, elapsed_us) = (Some(agent(task)), Some(us));
        let done =
            TaskProgress { state: TaskState::Done, attempts: 1, agent, result, elapsed_us, ..pending() };
        rows.push(moved(task, done));
    }
    let exception = Some(ExceptionText {
        class: "ValueError".into(),
        message: "x\u{0}y".into(),
        traceback: "...".into(),
    });
    rows.push(moved(2, TaskProgress { state: TaskState::Failed, attempts: 1, exception, ..pending() }));
    for (attempt, cause) in [(1, Cause::Oom), (2, Cause::Signal)] {
        rows.push(Row::Attempt {
            certificate: Box::new(certificate(agent(9), Some((3, 3, attempt)), cause)),
        });
    }
    rows.push(moved(3, TaskProgress { state: TaskState::Quarantined, attempts: 2, ..pending() }));
    rows.push(moved(
        4,
        TaskProgress { state: TaskState::Running, attempts: 1, agent: Some(agent(4)), ..pending() },
    ));
    rows
}

#[test]
fn a_run_is_summed_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("state.db"));
    store.apply(1, &a_run()).expect("applies");
    store
        .apply(2, &[Row::RunUsage { run: RunId(3), cpu_us: 2_500_000, peak_memory_bytes: 77 }])
        .expect("applies");
    let info = store.run(RunId(3)).expect("answers").expect("is there");
    assert_eq!((info.total, info.pending, info.running, info.done), (6, 1, 1, 2));
    assert_eq!((info.failed, info.quarantined, info.cancelled), (1, 1, 0));
    assert_eq!((info.name.as_str(), info.state, info.jobs), ("sweep 3", RunState::Active, 2));
    assert_eq!(store.runs().expect("answers"), vec![info.clone()]);
    assert_eq!(store.run(RunId(4)).expect("answers"), None);
    assert_eq!(store.run(RunId(u64::MAX)).map_err(|e| e.kind), Ok(None));

    let show = store.show(RunId(3)).expect("answers").expect("is there");
    assert_eq!(show.info, info);
    assert_eq!(show.spec, run_row(3).spec);
    assert_eq!(show.failures, [("exception".to_owned(), 1), ("signal".to_owned(), 1)].into());
    assert_eq!(show.deaths, [("oom".to_owned(), 1), ("signal".to_owned(), 1)].into());
    assert_eq!(show.slowest, vec![(0, "r3-0".to_owned(), 1.5), (1, "r3-1".to_owned(), 0.25)]);
    assert_eq!((show.cpu_seconds, show.peak_memory_bytes), (2.5, 77));

    let ended =
        Row::RunState { run: RunId(3), state: RunState::Finished, message: "m".into(), ended_ms: Some(5) };
    store.apply(3, &[ended]).expect("applies");
    let info = store.run(RunId(3)).expect("answers").expect("is there");
    assert_eq!((info.state, info.message.as_str(), info.ended_ms), (RunState::Finished, "m", Some(5)));
}

#[test]
fn tasks_come_in_pages() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("state.db"));
    store.apply(1, &a_run()).expect("applies");
    let page = store.tasks(RunId(3), 0, 4, true).expect("answers");
    assert_eq!(page.next, Some(4));
    let ids: Vec<_> = page.tasks.iter().map(|t| (t.id.as_str(), t.name.as_str(), t.attempts)).collect();
    assert_eq!(ids, [("r3/0", "r3-0", 1), ("r3/1", "r3-1", 1), ("r3/2", "r3-2", 1), ("r3/3", "r3-3", 2)]);
    assert_eq!(page.tasks[0].result, Some(json!({"rmse": 0.1 + 0.2, "n": u64::MAX})));
    assert_eq!(page.tasks[0].config, Some(json!({"lr": 0.1, "n": 0})));
    assert_eq!((page.tasks[0].seconds, page.tasks[0].agent.as_deref()), (Some(1.5), Some("a0.1")));
    assert_eq!(page.tasks[2].exception.as_ref().map(|e| e.message.as_str()), Some("x\u{0}y"));
    let causes: Vec<_> = page.tasks[3].certificates.iter().map(|c| c.cause).collect();
    assert_eq!(causes, [Cause::Oom, Cause::Signal]);
    assert_eq!(store.certificates(RunId(3), 3).expect("answers"), page.tasks[3].certificates);

    let rest = store.tasks(RunId(3), 4, 4, false).expect("answers");
    assert_eq!((rest.tasks.len(), rest.next), (2, None));
    let states = store.tasks(RunId(3), 3, 1, false).expect("answers");
    assert_eq!(states.tasks[0].config, None);
    assert_eq!(states.tasks[0].certificates.iter().map(|c| c.cause).collect::<Vec<_>>(), [Cause::Signal]);
    assert_eq!(store.tasks(RunId(8), 0, u32::MAX, true).expect("answers").tasks, vec![]);
}

#[test]
fn tasks_that_were_taken_in_still_count() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("state.db"));
    store.apply(1, &a_run()).expect("applies");
    let taken = Taken { done: 2, ..Taken::default() };
    store.apply(2, &[Row::TasksTaken { run: RunId(3), tasks: vec![0, 1], taken }]).expect("applies");
    let info = store.run(RunId(3)).expect("answers").expect("is there");
    assert_eq!((info.total, info.done), (6, 2));
    assert_eq!(store.tasks(RunId(3), 0, 1, true).expect("answers").tasks[0].index, 2);
}

#[test]
fn an_agent_is_found_by_its_living_name_then_its_id_then_its_latest_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("state.db"));
    let ended = |slot, at: u64| {
        let mut c = certificate(agent(slot), None, Cause::Exit);
        (c.name, c.ended_ms) = ("dock".into(), at);
        Row::AgentEnded { certificate: Box::new(c), ended: "exit 3".into() }
    };
    let mut info = agent_info(agent(2), None);
    info.name = "dock".into();
    store.apply(1, &[Row::AgentUpsert(Box::new(info)), ended(1, 900), ended(0, 800)]).expect("applies");
    let by =
        |store: &clove_store::Store, target: &str| store.agent(target).expect("answers").map(|a| a.info.id);
    assert_eq!(by(&store, "dock"), Some(agent(2)), "the one that lives");
    assert_eq!(by(&store, "a0.1"), Some(agent(0)));
    assert_eq!((by(&store, "a0.2"), by(&store, "nobody")), (None, None));
    store.apply(2, &[ended(2, 700)]).expect("applies");
    assert_eq!(by(&store, "dock"), Some(agent(1)), "the one that ended last");
    let found = store.agent("a2.1").expect("answers").expect("is there");
    assert_eq!((found.info.state, found.info.pid), (AgentState::Ended, None));
    assert_eq!((found.info.command.as_str(), found.info.ended.as_deref()), ("train.py", Some("exit 3")));
    assert_eq!(found.certificate.map(|c| c.ended_ms), Some(700));
}

#[test]
fn a_forgotten_run_leaves_only_its_audit_rows_and_old_ones_are_trimmed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(&dir.path().join("state.db"));
    let audit = |seq, wall_ms| {
        let (kind, actor) = ("run.submit".into(), "operator:1000:1".into());
        Row::Audit(AuditRow { seq, wall_ms, kind, actor, agent: None, run: Some(RunId(3)) })
    };
    let mut rows = a_run();
    rows.push(Row::AgentUpsert(Box::new(agent_info(agent(4), Some((3, 4, 1))))));
    rows.push(Row::AgentEnded {
        certificate: Box::new(certificate(agent(5), None, Cause::Exit)),
        ended: "exit 3".into(),
    });
    rows.extend([audit(1, 10), audit(2, 20)]);
    store.apply(2, &rows).expect("applies");
    store.apply(3, &[Row::RunForgotten { run: RunId(3) }]).expect("applies");
    assert_eq!(store.runs().expect("answers"), vec![]);
    assert_eq!(store.certificates(RunId(3), 3).expect("answers"), vec![]);
    assert_eq!(store.agent("a4.1").expect("answers"), None);
    assert!(store.agent("a5.1").expect("answers").is_some());
    assert_eq!(store.audit(0, 9).expect("answers").len(), 2);
    assert_eq!(store.trim(15).expect("trims"), Trimmed { audit: 1, agents: 0 });
    assert_eq!(store.trim(u64::MAX).expect("trims"), Trimmed { audit: 1, agents: 1 });
    assert_eq!(store.sync().expect("syncs"), store.applied());
    assert_eq!(store.check().expect("checks"), None);
}

/// What the README shows.
#[test]
fn people_can_ask_in_sql() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    let mut store = open(&path);
    store.apply(1, &a_run()).expect("applies");
    let db = rusqlite::Connection::open(&path).expect("opens beside the store");
    let best: (u32, f64) = db
        .query_row(
            "SELECT task, result ->> '$.rmse' AS rmse FROM results WHERE run = 3 AND state = 'done' ORDER BY rmse, task LIMIT 1",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .expect("answers");
    assert_eq!(best.0, 0);
    let causes: String = db
        .query_row(
            "SELECT group_concat(cause ORDER BY cause) FROM results WHERE cause IS NOT NULL",
            [],
            |r| r.get(0),
        )
        .expect("answers");
    assert_eq!(causes, "exception,signal");
}
