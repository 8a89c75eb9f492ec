//! Other clients' work beside what is measured: one that waits for the disk all the time, one that reads long lists all the time.

use crate::Failure;
use clove_abi::calls::{ProcList, RunCancel, RunList, RunSubmit, RunTasks};
use clove_abi::ids::RunId;
use clove_abi::run::{RunKind, RunSpec, TaskSpec};
use clove_client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// Tasks of the run whose pages are read.
    tasks: u32,
}

/// Says `ready`, works until standard input is closed, then tells how often each client came around.
pub fn run(mut writer: Client, mut reader: Client, orders: &Orders) -> Result<Value, Failure> {
    let listed = long_run(&mut writer, orders.tasks)?;
    println!("ready");
    let over = AtomicBool::new(false);
    let (syncs, scans) = std::thread::scope(|threads| {
        let syncing = threads.spawn(|| until(&over, || sync(&mut writer)));
        let scanning = threads.spawn(|| until(&over, || scan(&mut reader, listed)));
        // Whatever way it ends, the two have to end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
        (syncing.join(), scanning.join())
    });
    let died = |_| "a client's thread died";
    let (syncs, scans) = (syncs.map_err(died)??, scans.map_err(died)??);
    Ok(json!({ "syncs": syncs, "scans": scans }))
}

fn until(over: &AtomicBool, mut once: impl FnMut() -> Result<(), Failure>) -> Result<u64, String> {
    let mut times = 0;
    while !over.load(Ordering::Relaxed) {
        once().map_err(|e| e.to_string())?;
        times += 1;
    }
    Ok(times)
}

/// A run with many tasks, none of which is carried out any more.
fn long_run(client: &mut Client, tasks: u32) -> Result<RunId, Failure> {
    let tasks = (0..tasks).map(|i| TaskSpec { config: json!({ "number": i }), ..TaskSpec::default() });
    let run = client.call(&RunSubmit { spec: spec(RunKind::Sweep)?, tasks: tasks.collect() })?.run;
    client.call(&RunCancel { run, task: None })?;
    Ok(run)
}

/// Two calls whose replies wait for fdatasync.
fn sync(client: &mut Client) -> Result<(), Failure> {
    let run = client.call(&RunSubmit { spec: spec(RunKind::Executor)?, tasks: Vec::new() })?.run;
    client.call(&RunCancel { run, task: None })?;
    Ok(())
}

/// The three longest answers that there are.
fn scan(client: &mut Client, run: RunId) -> Result<(), Failure> {
    client.call(&RunTasks { run, from: 0, max: Some(2000), full: true })?;
    client.call(&RunList {})?;
    client.call(&ProcList { all: true })?;
    Ok(())
}

/// As a client of the wire writes it: what is left out has its default.
fn spec(kind: RunKind) -> Result<RunSpec, serde_json::Error> {
    serde_json::from_value(json!({
        "kind": kind,
        "name": "load",
        "program": { "cold": { "argv": ["/bin/true"] } },
        "jobs": 1,
        "limits": { "memory_bytes": 16 << 20 },
    }))
}
