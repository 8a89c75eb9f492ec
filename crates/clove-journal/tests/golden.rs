//! A journal that version 1 of the format wrote stays readable.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod fixture;

use std::fs;
use std::path::PathBuf;

use clove_journal::verify;
use fixture::*;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

#[test]
fn version_1_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&golden(), dir.path());
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.records, summary.segments), (12, 2));
    let hash = fs::read_to_string(golden().join("../v1.last_hash")).unwrap();
    assert_eq!(summary.last_hash.to_string(), hash.trim());
    let (mut journal, recovered) = open(dir.path(), 1024);
    assert_eq!(recovered.checkpoint.as_ref().unwrap().bytes, b"state after 6");
    assert_eq!(read_all(recovered), numbered(7..=12));
    append(&mut journal, 13..=20);
    journal.flush().unwrap();
    drop(journal);
    assert_eq!(verify(dir.path()).unwrap().records, 20);
}

/// Makes the golden files; run once for each format version, never again:
/// `cargo test -p clove-journal --test golden -- --ignored`.
#[test]
#[ignore = "writes the committed files of a new format version"]
fn write_golden_files() {
    assert!(!golden().exists(), "golden files are never rewritten");
    let (mut journal, _) = open(&golden(), 1024);
    append(&mut journal, 1..=6);
    journal.flush().unwrap();
    journal.checkpoints().write(&journal.checkpoint_mark(), b"state after 6").unwrap();
    append(&mut journal, 7..=12);
    journal.flush().unwrap();
    journal.sync_handle().sync_all().unwrap();
    fs::write(golden().join("../v1.last_hash"), format!("{}\n", journal.head().hash)).unwrap();
}
