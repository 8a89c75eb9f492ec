//! Prints how many records a second the journal takes: written, and durable.
//!
//! `cargo run --release -p clove-journal --example append_rate [DIR [SEGMENT_MIB]]`; DIR should lie on the
//! disk that is meant.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clove_journal::{Journal, Options, RecordRef, verify};

const RECORDS: u64 = 1_000_000;
const BATCH: u64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("clove-append-rate-{}", std::process::id()));
    let segment_mib: u64 = std::env::args().nth(2).map_or(Ok(16), |text| text.parse())?;
    let options = Options { segment_bytes: segment_mib << 20, ..Options::default() };
    let (mut journal, _) = Journal::open(&dir, options.clone())?;
    // 256 bytes of bodies; the record is 92 + 5 bytes more.
    let (input, outcome) = ([b'i'; 160], [b'o'; 96]);
    let record = |n: u64| RecordRef {
        wall_ms: 1_700_000_000_000 + n,
        mono_ns: n,
        kind: 1,
        flags: 0,
        actor: "agent",
        input: &input,
        outcome: &outcome,
    };

    // As the kernel does it: one thread appends and flushes, another syncs all the while.
    for syncing in [false, true] {
        let handle = journal.sync_handle();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut flushes = Vec::with_capacity((RECORDS / BATCH) as usize);
        let began = Instant::now();
        let mut syncs = 0u64;
        std::thread::scope(|scope| {
            let syncer = syncing.then(|| {
                scope.spawn(|| {
                    let mut syncs = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        if handle.sync_all().is_err() {
                            break;
                        }
                        syncs += 1;
                    }
                    syncs
                })
            });
            for n in 0..RECORDS {
                journal.append(&record(n))?;
                if n % BATCH == BATCH - 1 {
                    let flush = Instant::now();
                    journal.flush()?;
                    flushes.push(flush.elapsed());
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            if let Some(syncer) = syncer {
                syncs = syncer.join().map_err(|_| "the syncing thread panicked")?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        report(if syncing { "written, syncing beside it" } else { "written" }, RECORDS, began.elapsed());
        flushes.sort_unstable();
        let at = |part: f64| flushes[((flushes.len() - 1) as f64 * part) as usize];
        println!(
            "  flush p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}; {syncs} syncs",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
    journal.sync_handle().sync_all()?;

    // Each batch waits for its fdatasync.
    for batch in [1, BATCH, 1024] {
        let handle = journal.sync_handle();
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < Duration::from_secs(1) {
            for n in 0..batch {
                journal.append(&record(n))?;
            }
            handle.sync_to(journal.flush()?)?;
            count += batch;
        }
        report(&format!("durable, {batch} a sync"), count, began.elapsed());
    }
    let last = journal.head().seq;
    drop(journal);
    let began = Instant::now();
    let summary = verify(&dir)?;
    assert_eq!(summary.last_seq, last);
    report("verified", summary.records, began.elapsed());
    let began = Instant::now();
    let (journal, recovered) = Journal::open(&dir, options)?;
    report("recovered without a checkpoint", recovered.head.seq, began.elapsed());
    drop(journal);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn report(what: &str, records: u64, took: Duration) {
    println!(
        "{what}: {:.0} records/s ({records} in {:.2} s)",
        records as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
}
