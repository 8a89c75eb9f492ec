//! The same journal gives the same content, however often and from wherever it is applied.

mod story;

use clove_abi::ids::RunId;
use clove_store::{Applied, AppliedSeq, Row};
use proptest::prelude::*;
use story::{a_journal, answers, content, open, well_formed, window};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// `applied_seq` aside.
fn rows_of(path: &std::path::Path) -> Vec<String> {
    content(path).into_iter().filter(|line| !line.starts_with("projection")).collect()
}

fn both_ways(journal: &[Vec<Row>], cuts: &[usize], back: usize) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a folder");
    let (plain, cut) = (dir.path().join("plain.db"), dir.path().join("cut.db"));
    let end = journal.len();
    let mut one = open(&plain);
    for (i, rows) in journal.iter().enumerate() {
        one.apply(i as u64 + 1, rows).expect("applies");
    }
    let mut many = open(&cut);
    let mut cuts: Vec<usize> = cuts.iter().copied().filter(|c| (1..end).contains(c)).chain([end]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut applied = 0usize;
    for to in cuts {
        let first = (applied + 1).saturating_sub(back).max(1);
        let done = many.apply(to as u64, &window(journal, first, to)).expect("applies");
        prop_assert_ne!(done, Applied::Already);
        prop_assert_eq!(many.apply(to as u64, &window(journal, 1, to)).expect("applies"), Applied::Already);
        applied = to;
    }
    prop_assert_eq!(answers(&one), answers(&many));
    prop_assert_eq!(many.check().expect("checks"), None);
    drop((one, many));
    prop_assert_eq!(content(&plain), content(&cut));
    Ok(())
}

proptest! {
    #![proptest_config(config(96))]

    /// One by one, or in batches: the same. Any prefix again: nothing happens.
    #[test]
    fn any_cut_gives_the_same(journal in a_journal(), cuts in prop::collection::vec(0usize..40, 0..6)) {
        both_ways(&journal, &cuts, 0)?;
    }

    /// Windows that reach back before what is applied, as a careless caller's would: the same.
    #[test]
    fn any_overlap_gives_the_same(
        journal in a_journal().prop_map(well_formed), cuts in prop::collection::vec(0usize..40, 0..6), back in 1usize..40,
    ) {
        both_ways(&journal, &cuts, back)?;
    }

    /// kill -9 at any moment: what is on the disk opens at some record, and goes on from there.
    #[test]
    fn a_crash_is_caught_up(journal in a_journal(), at in any::<prop::sample::Index>(), lost in 0u64..60_000) {
        let dir = tempfile::tempdir().expect("a folder");
        let (whole, crashed) = (dir.path().join("whole.db"), dir.path().join("crashed.db"));
        let crash = at.index(journal.len()) + 1;
        let mut store = open(&whole);
        for (i, rows) in journal.iter().enumerate() {
            store.apply(i as u64 + 1, rows).expect("applies");
            if i + 1 == crash {
                std::fs::copy(&whole, &crashed).expect("copies");
                let log = std::fs::read(dir.path().join("whole.db-wal")).expect("there is a log");
                // With the power, the end of the log goes too.
                let kept = log.len().saturating_sub(lost as usize);
                std::fs::write(dir.path().join("crashed.db-wal"), &log[..kept]).expect("writes");
            }
        }
        let mut again = open(&crashed);
        let from = again.applied().0 as usize;
        prop_assert!(from <= crash);
        prop_assert!(lost > 0 || from == crash, "nothing that was committed goes with the process");
        for (i, rows) in journal.iter().enumerate().skip(from) {
            again.apply(i as u64 + 1, rows).expect("applies");
        }
        prop_assert_eq!(answers(&store), answers(&again));
        drop((store, again));
        prop_assert_eq!(rows_of(&whole), rows_of(&crashed));
    }

    /// A run's own rows make it again in an empty store.
    #[test]
    fn an_archived_run_comes_back(journal in a_journal().prop_map(well_formed)) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = open(&dir.path().join("a.db"));
        store.apply(1, &journal.concat()).expect("applies");
        let mut other = open(&dir.path().join("b.db"));
        let runs: Vec<_> = store.runs().expect("runs").into_iter().map(|r| r.id).collect();
        for (i, run) in runs.iter().enumerate() {
            let rows = store.run_rows(*run).expect("reads").expect("is there");
            let text = serde_json::to_string(&rows).expect("writes");
            let read: Vec<Row> = serde_json::from_str(&text).expect("reads");
            prop_assert_eq!(&rows, &read);
            prop_assert_eq!(other.apply(i as u64 + 1, &read).expect("applies"), Applied::Now { orphans: 0 });
            prop_assert_eq!(other.run_rows(*run).expect("reads"), Some(rows));
            prop_assert_eq!(
                format!("{:?}", store.show(*run).expect("show")), format!("{:?}", other.show(*run).expect("show")));
        }
        prop_assert_eq!(store.run_rows(RunId(99)).expect("reads"), None);
    }
}

#[test]
fn a_batch_is_all_or_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    let mut store = open(&path);
    let good = Row::RunUpsert(Box::new(story::run_row(1)));
    let bad = Row::RunUsage { run: RunId(1), cpu_us: u64::MAX, peak_memory_bytes: 0 };
    let e = store.apply(7, &[good.clone(), bad]).expect_err("too large for SQLite");
    assert_eq!(e.kind, clove_store::StoreErrorKind::Unstorable);
    assert!(e.to_string().contains("cpu_us"), "{e}");
    assert_eq!((store.applied(), store.runs().expect("runs").len()), (AppliedSeq(0), 0));
    assert_eq!(store.apply(7, &[good]).expect("applies"), Applied::Now { orphans: 0 });
    assert_eq!(open(&path).applied(), AppliedSeq(7));
}
