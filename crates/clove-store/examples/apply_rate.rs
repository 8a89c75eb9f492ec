//! Prints how many rows a second the store takes in batches of 1,000, how long a batch takes, and what questions cost.
//!
//! `cargo run --release -p clove-store --example apply_rate [DIR [TASKS]]`; DIR should lie on the disk that is meant.

#[path = "../tests/story/mod.rs"]
mod story;

use clove_abi::certificate::Cause;
use clove_abi::ids::{AgentId, RunId};
use clove_abi::run::TaskState;
use clove_store::{AuditRow, Row, Store, TaskProgress};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

const BATCH: usize = 1_000;
/// Tasks of a run.
const RUN: u32 = 2_000;

/// What a task's life says: it is added, started with its agent, done; its agent ends; each with an audit row.
fn life(run: u64, task: u32, seq: &mut u64, rows: &mut Vec<Row>) {
    let agent = AgentId { slot: task, generation: run as u32 };
    let place = Some((run, task, 1));
    let mut audit = |rows: &mut Vec<Row>, kind: &str| {
        *seq += 1;
        let (kind, actor) = (kind.to_owned(), agent.to_string());
        rows.push(Row::Audit(AuditRow {
            seq: *seq,
            wall_ms: *seq,
            kind,
            actor,
            agent: Some(agent),
            run: Some(RunId(run)),
        }));
    };
    rows.push(Row::TaskUpsert(Box::new(story::task_row(run, task))));
    let started =
        TaskProgress { state: TaskState::Running, attempts: 1, agent: Some(agent), ..story::pending() };
    rows.push(Row::AgentUpsert(Box::new(story::agent_info(agent, place))));
    rows.push(Row::TaskState { run: RunId(run), task, progress: Box::new(started.clone()) });
    audit(rows, "task.next");
    let result = Some(
        json!({"rmse": f64::from(task) / 7.0, "auc": 0.9, "digest": "0123456789abcdef0123456789abcdef"}),
    );
    let done = TaskProgress { state: TaskState::Done, result, elapsed_us: Some(u64::from(task)), ..started };
    rows.push(Row::TaskState { run: RunId(run), task, progress: Box::new(done) });
    audit(rows, "task.done");
    let c = story::certificate(agent, place, Cause::Exit);
    rows.push(Row::AgentEnded { certificate: Box::new(c), ended: "exit 0".into() });
    audit(rows, "exited");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let tasks: u32 = std::env::args().nth(2).map_or(Ok(20_000), |text| text.parse())?;
    let dir = parent.join(format!("clove-apply-rate-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let path = dir.join("state.db");

    let (mut rows, mut seq, mut run) = (Vec::new(), 0, 0);
    for n in 0..tasks {
        if n % RUN == 0 {
            run += 1;
            rows.push(Row::RunUpsert(Box::new(story::run_row(run))));
        }
        life(run, n % RUN, &mut seq, &mut rows);
    }
    let (mut store, _) = Store::open(&path)?;
    let mut times = Vec::new();
    let began = Instant::now();
    for (i, batch) in rows.chunks(BATCH).enumerate() {
        let start = Instant::now();
        store.apply(i as u64 + 1, batch)?;
        times.push(start.elapsed());
    }
    let took = began.elapsed();
    times.sort_unstable();
    let at = |q: usize| times[(times.len() - 1) * q / 100];
    println!("{} rows in {took:.2?}: {:.0} rows/s", rows.len(), rows.len() as f64 / took.as_secs_f64());
    println!("a batch of {BATCH}: median {:.2?}, 99 % {:.2?}, longest {:.2?}", at(50), at(99), at(100));
    let timed = |what: &str, start: Instant| println!("{what}: {:.2?}", start.elapsed());

    let start = Instant::now();
    store.sync()?;
    timed("sync", start);
    let start = Instant::now();
    let runs = store.runs()?.len();
    timed(&format!("runs(), {runs} runs"), start);
    let start = Instant::now();
    let page = store.tasks(RunId(1), 0, 2_000, true)?.tasks.len();
    timed(&format!("tasks(), {page} in full"), start);
    let start = Instant::now();
    store.show(RunId(1))?;
    timed("show()", start);
    let start = Instant::now();
    drop(store);
    timed("close", start);
    let bytes = std::fs::metadata(&path)?.len();
    let start = Instant::now();
    let (mut store, _) = Store::open(&path)?;
    timed(&format!("open, {} MiB", bytes >> 20), start);
    let start = Instant::now();
    store.check()?;
    timed("check()", start);
    let start = Instant::now();
    store.apply(u64::MAX >> 1, &[Row::RunForgotten { run: RunId(1) }])?;
    timed(&format!("a run of {RUN} forgotten"), start);
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
