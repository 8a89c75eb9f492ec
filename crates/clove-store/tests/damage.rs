//! A file that isn't what was written is found out, and made anew; one that isn't ours is left alone.

mod story;

use clove_store::{AppliedSeq, Dropped, SCHEMA_VERSION, Store, StoreErrorKind};
use proptest::prelude::*;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use story::{a_journal, content, open};

fn apply_all(store: &mut Store, journal: &[Vec<clove_store::Row>]) {
    let from = store.applied().0 as usize;
    for (i, rows) in journal.iter().enumerate().skip(from) {
        store.apply(i as u64 + 1, rows).expect("applies");
    }
}

/// A store with a run of 40 tasks, closed.
fn small(dir: &Path) -> PathBuf {
    let path = dir.join("state.db");
    let mut store = open(&path);
    let mut rows = vec![clove_store::Row::RunUpsert(Box::new(story::run_row(1)))];
    rows.extend((0..40).map(|i| clove_store::Row::TaskUpsert(Box::new(story::task_row(1, i)))));
    store.apply(41, &rows).expect("applies");
    path
}

fn alter(path: &Path, sql: &str) {
    Connection::open(path).expect("opens").execute_batch(sql).expect("runs");
}

fn is_damage(dropped: Option<&Dropped>) -> bool {
    matches!(dropped, Some(Dropped::Damaged { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pages overwritten, or cut off: after opening, and a rebuild if a question finds it out, the content is whole.
    #[test]
    fn overwritten_pages_are_rebuilt(
        journal in a_journal(), page in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let (whole, hurt) = (dir.path().join("whole.db"), dir.path().join("hurt.db"));
        let mut store = open(&whole);
        apply_all(&mut store, &journal);
        drop(store);
        let mut bytes = std::fs::read(&whole).expect("reads");
        let at = page.index(bytes.len() / 4096) * 4096;
        let before = bytes.clone();
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at..at + 4096].fill(byte);
        }
        std::fs::write(&hurt, &bytes).expect("writes");

        let mut store = open(&hurt);
        if bytes != before {
            prop_assert!(cut && at == 0 || is_damage(store.dropped()), "{:?}", store.dropped());
            prop_assert_eq!(store.applied(), AppliedSeq(0));
        }
        apply_all(&mut store, &journal);
        prop_assert_eq!(store.check().expect("checks"), None);
        drop(store);
        prop_assert_eq!(content(&whole), content(&hurt));
    }

    /// One flipped byte: no panic, and it can be rebuilt. (A byte within a text
    /// can't be found out: SQLite has no checksums.)
    #[test]
    fn a_flipped_byte_does_no_harm(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = small(dir.path());
        let mut bytes = std::fs::read(&path).expect("reads");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).expect("writes");
        match Store::open(&path) {
            Ok((mut store, applied)) => {
                prop_assert!(applied == AppliedSeq(0) || store.dropped().is_none());
                // Any answer, or damage.
                for e in [store.runs().err(), store.tasks(clove_abi::RunId(1), 0, 99, true).err()].into_iter().flatten() {
                    prop_assert!(e.is_damage(), "{e}");
                }
                store.rebuild().expect("rebuilds");
                prop_assert_eq!(store.applied(), AppliedSeq(0));
            }
            // What no build can tell from another program's file, or a later build's.
            Err(e) => prop_assert!(matches!(e.kind, StoreErrorKind::Newer { .. } | StoreErrorKind::NotAStore), "{e}"),
        }
    }
}

#[test]
fn a_text_file_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    std::fs::write(
        &path,
        "not a database, but somebody's notes, long enough to be read as a header of one hundred bytes",
    )
    .expect("writes");
    let store = open(&path);
    let Some(Dropped::Damaged { kept, .. }) = store.dropped() else { panic!("{:?}", store.dropped()) };
    assert!(std::fs::read_to_string(kept).expect("reads").starts_with("not a database"));
    assert!(store.dropped().expect("some").to_string().contains("state.db.damaged"));
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = small(dir.path());
    let newer = SCHEMA_VERSION + 1;
    alter(&path, &format!("PRAGMA user_version = {newer}; UPDATE projection SET schema_version = {newer}"));
    let before = std::fs::read(&path).expect("reads");
    let e = Store::open(&path).err().expect("refused");
    assert_eq!(e.kind, StoreErrorKind::Newer { found: newer, known: SCHEMA_VERSION });
    let said = e.to_string();
    assert!(
        said.contains("state.db") && said.contains("newer clove") && said.contains(&newer.to_string()),
        "{said}"
    );
    assert_eq!(before, std::fs::read(&path).expect("reads"));
}

#[test]
fn an_older_schema_is_made_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = small(dir.path());
    alter(&path, "PRAGMA user_version = 0; UPDATE projection SET schema_version = 0");
    let store = open(&path);
    assert_eq!(store.dropped(), Some(&Dropped::OlderSchema { found: 0 }));
    assert_eq!((store.applied(), store.runs().expect("runs").len()), (AppliedSeq(0), 0));
}

#[test]
fn another_programs_database_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    alter(&path, "CREATE TABLE mine (x); INSERT INTO mine VALUES (1)");
    assert_eq!(Store::open(&path).err().expect("refused").kind, StoreErrorKind::NotAStore);
    assert_eq!(
        Connection::open(&path).expect("opens").query_row("SELECT x FROM mine", [], |r| r.get(0)),
        Ok(1)
    );
}

#[test]
fn an_altered_table_counts_as_damage_and_an_added_view_does_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = small(dir.path());
    alter(&path, "CREATE VIEW my_view AS SELECT * FROM tasks");
    assert_eq!(open(&path).dropped(), None);
    for sql in [
        "DROP INDEX tasks_by_state",
        "ALTER TABLE agents ADD COLUMN x TEXT",
        "DELETE FROM projection",
        "PRAGMA application_id = 7",
    ] {
        let path = small(tempfile::tempdir_in(dir.path()).expect("a folder").keep().as_path());
        alter(&path, sql);
        let store = open(&path);
        assert!(is_damage(store.dropped()), "{sql}: {:?}", store.dropped());
    }
}

#[test]
fn a_journal_that_lost_its_end_or_is_another_empties_the_store() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = small(dir.path());
    let mut store = open(&path);
    // Named for the first time with rows in it: whose they are isn't known.
    assert_eq!(store.follow("first", 41).expect("follows"), AppliedSeq(0));
    assert_eq!(store.dropped(), Some(&Dropped::OtherJournal));
    store.apply(41, &[clove_store::Row::RunUpsert(Box::new(story::run_row(1)))]).expect("applies");
    drop(store);
    let mut store = open(&path);
    assert_eq!(store.follow("first", 41).expect("follows"), AppliedSeq(41));
    assert_eq!(store.dropped(), None);
    assert_eq!(store.follow("first", 40).expect("follows"), AppliedSeq(0));
    assert_eq!(store.dropped(), Some(&Dropped::AheadOfJournal { applied: 41, head: 40 }));
    assert_eq!(store.runs().expect("runs").len(), 0);
    store.apply(3, &[]).expect("applies");
    assert_eq!(store.follow("second", 90).expect("follows"), AppliedSeq(0));
    drop(store);
    assert_eq!(open(&path).follow("second", 0).expect("follows"), AppliedSeq(0));
}

#[test]
fn a_second_writer_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = small(dir.path());
    let (mut one, mut two) = (open(&path), open(&path));
    one.apply(50, &[]).expect("applies");
    assert_eq!(two.apply(60, &[]).expect_err("refused").kind, StoreErrorKind::SecondWriter);
    assert_eq!(open(&path).applied(), AppliedSeq(50));
}

#[test]
fn only_the_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    let mut store = open(&path);
    store.apply(1, &[]).expect("applies");
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
