//! Checkpoints, pruning, heads.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod fixture;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use clove_journal::{
    DamageKind, Journal, KeyErrorKind, OpenErrorKind, ReadErrorKind, Warning, append_signed_head,
    load_or_create_key, read_signed_heads, verify,
};
use fixture::*;

fn checkpoint(journal: &mut Journal, bytes: &[u8]) -> u64 {
    journal.flush().unwrap();
    let mark = journal.checkpoint_mark();
    journal.checkpoints().write(&mark, bytes).unwrap();
    mark.seq
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn recovery_begins_at_the_newest_checkpoint_and_falls_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    for (seq, state) in [(10, "ten"), (20, "twenty"), (30, "thirty")] {
        append(&mut journal, seq - 9..=seq);
        assert!(journal.bytes_since_checkpoint() > 1000);
        assert_eq!(checkpoint(&mut journal, state.as_bytes()), seq);
        assert_eq!(journal.bytes_since_checkpoint(), 0);
    }
    append(&mut journal, 31..=35);
    let since = journal.bytes_since_checkpoint();
    assert!(since > 0);
    journal.flush().unwrap();
    drop(journal);
    assert!(!dir.path().join("000000000000000a.ckpt").exists(), "two are kept");

    let (journal, recovered) = open(dir.path(), 1024);
    assert_eq!(journal.bytes_since_checkpoint(), since);
    let found = recovered.checkpoint.clone().unwrap();
    assert_eq!((found.seq, &found.bytes[..]), (30, &b"thirty"[..]));
    assert_eq!(read_all(recovered), numbered(31..=35));
    drop(journal);

    for at in [0, 9, 20, 50, 60, 88, 93] {
        let newest = dir.path().join("000000000000001e.ckpt");
        flip(&newest, at);
        let (_, recovered) = open(dir.path(), 1024);
        assert_eq!(recovered.warnings, [Warning::DamagedCheckpoint { file: newest.clone() }], "byte {at}");
        assert_eq!(recovered.checkpoint.as_ref().unwrap().bytes, b"twenty");
        assert_eq!(read_all(recovered), numbered(21..=35));
        flip(&newest, at);
    }
    for name in ["000000000000001e.ckpt", "0000000000000014.ckpt"] {
        flip(&dir.path().join(name), 90);
    }
    let (_, recovered) = open(dir.path(), 1024);
    assert_eq!(recovered.warnings.len(), 2);
    assert_eq!(read_all(recovered), numbered(1..=35));
}

#[test]
fn pruning_keeps_what_the_older_checkpoint_needs() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=100);
    journal.flush().unwrap();
    assert_eq!(journal.checkpoints().prune(u64::MAX).unwrap().segments, 0, "no checkpoint yet");
    checkpoint(&mut journal, b"100");
    assert_eq!(journal.checkpoints().prune(u64::MAX).unwrap().segments, 0, "one could be damaged");
    append(&mut journal, 101..=200);
    checkpoint(&mut journal, b"200");
    assert_eq!(journal.checkpoints().prune(1).unwrap().segments, 0, "the caller wants them");
    let pruned = journal.checkpoints().prune(u64::MAX).unwrap();
    assert!(pruned.segments >= 10 && pruned.remaining_bytes > 0, "{pruned:?}");
    let summary = verify(dir.path()).unwrap();
    assert_eq!(summary.pruned_segments, pruned.segments);
    assert!(summary.first_seq > 50 && summary.first_seq <= 100, "{summary:?}");
    append(&mut journal, 201..=210);
    journal.flush().unwrap();
    drop(journal);
    flip(&dir.path().join("00000000000000c8.ckpt"), 88);
    let (journal, recovered) = open(dir.path(), 1024);
    assert_eq!(recovered.checkpoint.as_ref().unwrap().seq, 100);
    assert_eq!(read_all(recovered), numbered(101..=210));
    drop(journal);
    flip(&dir.path().join("0000000000000064.ckpt"), 88);
    let error = Journal::open(dir.path(), options(1024)).unwrap_err();
    let OpenErrorKind::Read(ReadErrorKind::Damaged(damage)) = error.kind else { panic!("{error}") };
    assert_eq!(damage.kind, DamageKind::NoCheckpoint);
    assert!(verify(dir.path()).is_err());
}

#[test]
fn a_checkpoint_of_another_history_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, from) in [(&one, 1), (&two, 2)] {
        let (mut journal, _) = open(dir.path(), 1024);
        for n in from..from + 20 {
            journal.append(&Wanted::numbered(n).record()).unwrap();
        }
        checkpoint(&mut journal, b"state");
    }
    let name = "0000000000000014.ckpt";
    fs::copy(two.path().join(name), one.path().join(name)).unwrap();
    let error = Journal::open(one.path(), options(1024)).unwrap_err();
    assert!(error.to_string().contains("names another hash"), "{error}");
    // And a log that ends before its checkpoint has lost what was durable.
    fs::copy(two.path().join(name), two.path().join("0000000000000020.ckpt")).unwrap();
    let (_, recovered) = open(two.path(), 1024);
    assert_eq!(recovered.warnings.len(), 1, "a checkpoint under another name isn't one");
}

#[test]
fn a_log_cut_before_its_checkpoint_is_damage_also_after_power_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 8192);
    append(&mut journal, 1..=20);
    checkpoint(&mut journal, b"state");
    drop(journal);
    let path = dir.path().join("0000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(used_bytes(&numbered(1..=19)));
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(dir.path(), after_power_loss(8192)).unwrap_err();
    assert!(error.to_string().contains("a checkpoint contains record 20"), "{error}");
}

#[test]
fn signed_heads_are_kept_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let key_path = dir.path().join("head.key");
    let key = load_or_create_key(&key_path).unwrap();
    assert_eq!(fs::metadata(&key_path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(load_or_create_key(&key_path).unwrap().to_bytes(), key.to_bytes());
    let journal_dir = dir.path().join("journal");
    let (mut journal, _) = open(&journal_dir, 1024);
    assert!(read_signed_heads(&journal_dir).unwrap().is_empty());
    for n in 1..=3 {
        append(&mut journal, [n]);
        let handle = journal.sync_handle();
        handle.sync_to(journal.flush().unwrap()).unwrap();
        append_signed_head(&journal_dir, &handle.durable_head().sign(&key, 1000 + n)).unwrap();
    }
    let path = journal_dir.join("heads.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"seq\":4,\"ha");
    fs::write(&path, text).unwrap();
    assert_eq!(read_signed_heads(&journal_dir).unwrap().len(), 3);
    append_signed_head(&journal_dir, &journal.durable_head().sign(&key, 2000)).unwrap();
    let heads = read_signed_heads(&journal_dir).unwrap();
    assert_eq!(heads.len(), 4);
    assert_eq!(heads[3].verify(&key.verifying_key()), Some(journal.head()));
    let mut forged = heads[1].clone();
    forged.seq = 3;
    assert_eq!(forged.verify(&key.verifying_key()), None);
    let other = load_or_create_key(&dir.path().join("other.key")).unwrap();
    assert_eq!(heads[1].verify(&other.verifying_key()), None);

    fs::set_permissions(&key_path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(load_or_create_key(&key_path).unwrap_err().kind, KeyErrorKind::Exposed { mode: 0o640 }));
    let link = dir.path().join("link.key");
    std::os::unix::fs::symlink(dir.path().join("other.key"), &link).unwrap();
    assert!(load_or_create_key(&link).is_err());
}
