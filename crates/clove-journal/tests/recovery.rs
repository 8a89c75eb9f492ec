//! What a crash may leave behind, byte by byte, is recovered or named.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod fixture;

use std::fs;
use std::os::unix::fs::FileExt;

use clove_journal::{DamageKind, Journal, OpenErrorKind, ReadErrorKind, Reader, Warning, verify};
use fixture::*;

const FIRST: &str = "0000000000000001.seg";

fn damage(error: OpenErrorKind) -> clove_journal::Damage {
    match error {
        OpenErrorKind::Read(ReadErrorKind::Damaged(damage)) => *damage,
        other => panic!("expected damage, not {other:?}"),
    }
}

#[test]
fn an_empty_journal_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/journal");
    for _ in 0..3 {
        let (journal, recovered) = open(&path, 4096);
        assert_eq!(journal.head().seq, 0);
        assert!(recovered.warnings.is_empty() && recovered.checkpoint.is_none());
        assert_eq!(read_all(recovered), []);
    }
    assert_eq!(verify(&path).unwrap().records, 0);
}

#[test]
fn records_come_back_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    for start in (1..=200).step_by(20) {
        append(&mut journal, start..start + 20);
        assert_eq!(journal.flush().unwrap(), start + 19);
    }
    assert_eq!(journal.sync_handle().sync_to(150).unwrap(), 200);
    let head = journal.head();
    let live: Vec<Wanted> = journal.reader(77).unwrap().map(|r| r.unwrap().into()).collect();
    assert_eq!(live, numbered(77..=200));
    drop(journal);
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.records, summary.last_seq, summary.last_hash), (200, 200, head.hash));
    assert!(summary.segments > 20, "{summary:?}");
    let (mut journal, recovered) = open(dir.path(), 1024);
    assert_eq!(journal.head(), head);
    assert_eq!(read_all(recovered), numbered(1..=200));
    append(&mut journal, 201..=210);
    journal.flush().unwrap();
    drop(journal);
    assert_eq!(verify(dir.path()).unwrap().records, 210);
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, _) = open(dir.path(), 4096);
    let error = Journal::open(dir.path(), options(4096)).unwrap_err();
    assert!(matches!(error.kind, OpenErrorKind::Locked), "{error}");
}

#[test]
fn what_was_not_flushed_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 4096);
    append(&mut journal, 1..=5);
    journal.flush().unwrap();
    append(&mut journal, 6..=9);
    drop(journal);
    assert_eq!(read_all(open(dir.path(), 4096).1), numbered(1..=5));
}

/// kill -9 in the middle of a write(2): the file holds a prefix of it, the rest is zeros or the file's end.
#[test]
fn a_cut_at_every_byte_keeps_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let (mut journal, _) = open(&original, 8192);
    append(&mut journal, 1..=12);
    journal.flush().unwrap();
    drop(journal);
    let records = numbered(1..=12);
    let bytes = fs::read(original.join(FIRST)).unwrap();
    let (keep, end) = (used_bytes(&records[..9]), used_bytes(&records));
    for cut in keep..=end {
        let whole = (9..=12).rev().find(|&n| used_bytes(&records[..n]) <= cut).unwrap();
        for fill in [None, Some(0u8), Some(0xa5)] {
            let copy = dir.path().join("copy");
            copy_dir(&original, &copy);
            let mut torn = bytes[..cut].to_vec();
            match fill {
                None => {}
                Some(0) => torn.resize(8192, 0),
                // Garbage up to somewhere, then the preallocated zeros.
                Some(byte) => {
                    torn.resize(cut + 37, byte);
                    torn.resize(8192, 0);
                }
            }
            fs::write(copy.join(FIRST), &torn).unwrap();
            let torn_bytes = verify(&copy).unwrap().torn_tail_bytes;
            let (mut journal, recovered) = open(&copy, 8192);
            let dirty = torn[used_bytes(&records[..whole])..].iter().any(|&b| b != 0);
            assert_eq!(torn_bytes > 0, dirty, "cut {cut} fill {fill:?}");
            assert_eq!(!recovered.warnings.is_empty(), dirty, "cut {cut} fill {fill:?}");
            assert_eq!(read_all(recovered), records[..whole], "cut {cut} fill {fill:?}");
            append(&mut journal, whole as u64 + 1..=20);
            journal.flush().unwrap();
            drop(journal);
            assert_eq!(verify(&copy).unwrap().records, 20);
            assert_eq!(read_all(open(&copy, 8192).1), numbered(1..=20));
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

/// Rot. The machine kept running, so that no hole can be the doing of a loss of power.
#[test]
fn every_flipped_byte_before_the_last_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=20);
    journal.flush().unwrap();
    journal.sync_handle().sync_all().unwrap();
    drop(journal);
    let last_record = {
        // Where the last record begins in its segment.
        let records = Reader::open(dir.path(), 1, u64::MAX).unwrap().count();
        assert_eq!(records, 20);
        92 + Wanted::numbered(20).actor.len() + 8 + 20
    };
    let mut segments: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|e| e == "seg" || e == "root"));
    segments.sort();
    let last = segments.iter().rfind(|p| p.extension().unwrap() == "seg").unwrap().clone();
    let mut flipped = 0;
    for path in &segments {
        let bytes = fs::read(path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let used = bytes.iter().rposition(|&b| b != 0).unwrap() + 1;
        // Of the last segment only what lies before the last record; there a flip is a torn tail.
        let end = if *path == last { used - last_record } else { bytes.len() };
        for at in 0..end {
            file.write_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
            assert!(verify(dir.path()).is_err(), "{} byte {at}", path.display());
            let opened = Journal::open(dir.path(), options(1024));
            // Zeros behind a full segment's last record aren't replayed: there it's for verify to tell.
            if at < used {
                match opened {
                    Err(error) => {
                        assert!(error.to_string().contains(".seg") || error.to_string().contains(".root"))
                    }
                    Ok((_, recovered)) => panic!("{} byte {at}: {recovered:?}", path.display()),
                }
            }
            file.write_at(&bytes[at..=at], at as u64).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 2500, "{flipped}");
    verify(dir.path()).unwrap();
}

#[test]
fn a_bad_record_before_good_ones_names_file_offset_and_seq() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 8192);
    append(&mut journal, 1..=10);
    journal.flush().unwrap();
    drop(journal);
    let at = used_bytes(&numbered(1..=4));
    let file = fs::OpenOptions::new().write(true).open(dir.path().join(FIRST)).unwrap();
    file.write_at(b"X", at as u64 + 95).unwrap();
    let damage = damage(Journal::open(dir.path(), options(8192)).unwrap_err().kind);
    assert_eq!((damage.offset, damage.seq, damage.kind.clone()), (at as u64, 5, DamageKind::Checksum));
    assert!(damage.to_string().contains("0000000000000001.seg is damaged at byte"), "{damage}");
}

/// The same hole after a loss of power: forgiven only for what nothing claims to be durable.
#[test]
fn a_hole_is_forgiven_after_power_loss_if_it_was_never_durable() {
    for synced in [0, 3, 4, 5, 8] {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), 8192);
        append(&mut journal, 1..=8);
        journal.flush().unwrap();
        // A claim needs a record to carry it: the ones after the sync do.
        if synced > 0 {
            drop(journal);
            fs::remove_dir_all(dir.path()).unwrap();
            journal = open(dir.path(), 8192).0;
            append(&mut journal, 1..=synced);
            journal.flush().unwrap();
            journal.sync_handle().sync_all().unwrap();
            append(&mut journal, synced + 1..=10);
            journal.flush().unwrap();
        }
        drop(journal);
        // Record 5 is swallowed.
        let (from, to) = (used_bytes(&numbered(1..=4)), used_bytes(&numbered(1..=5)));
        let file = fs::OpenOptions::new().write(true).open(dir.path().join(FIRST)).unwrap();
        file.write_at(&vec![0; to - from], from as u64).unwrap();
        assert!(verify(dir.path()).is_err());
        damage(Journal::open(dir.path(), options(8192)).unwrap_err().kind);
        let opened = Journal::open(dir.path(), after_power_loss(8192));
        if synced >= 5 {
            let damage = damage(opened.unwrap_err().kind);
            assert_eq!(damage.seq, 5);
            assert!(matches!(damage.kind, DamageKind::RecordsBehind { .. }), "{damage}");
        } else {
            let (mut journal, recovered) = opened.unwrap();
            assert!(matches!(recovered.warnings[..], [Warning::UnsyncedHole { last_seq: 4, .. }]));
            assert_eq!(read_all(recovered), numbered(1..=4));
            append(&mut journal, 5..=9);
            journal.flush().unwrap();
            drop(journal);
            assert_eq!(verify(dir.path()).unwrap().records, 9);
        }
    }
}

/// An agent can put anything into a body, also the bytes of a record that it has seen. Without the mark the search
/// behind a torn record would take it for one and refuse to start.
#[test]
fn a_planted_record_in_a_torn_body_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    // From another journal: intact, with a plausible sequence number, and another mark.
    let other = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(other.path(), 8192);
    append(&mut journal, 1..=9);
    journal.flush().unwrap();
    drop(journal);
    let planted = fs::read(other.path().join(FIRST)).unwrap();
    let planted = &planted[used_bytes(&numbered(1..=4))..used_bytes(&numbered(1..=9))];
    let (mut journal, _) = open(dir.path(), 8192);
    append(&mut journal, 1..=2);
    let mut hostile = Wanted::numbered(3);
    hostile.outcome = planted.to_vec();
    journal.append(&hostile.record()).unwrap();
    journal.flush().unwrap();
    drop(journal);
    let file = fs::OpenOptions::new().write(true).open(dir.path().join(FIRST)).unwrap();
    file.write_at(b"torn", used_bytes(&numbered(1..=2)) as u64 + 95).unwrap();
    assert_eq!(read_all(open(dir.path(), 8192).1), numbered(1..=2));
}

#[test]
fn a_segment_created_and_never_begun_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=5);
    journal.flush().unwrap();
    drop(journal);
    for bytes in [vec![], vec![0; 1024]] {
        fs::write(dir.path().join("0000000000000006.seg"), bytes).unwrap();
        let (_, recovered) = open(dir.path(), 1024);
        assert_eq!(read_all(recovered), numbered(1..=5));
        assert!(!dir.path().join("0000000000000006.seg").exists());
    }
    // And the very first one, when the first open of all was killed.
    let fresh = tempfile::tempdir().unwrap();
    for bytes in [vec![], vec![0; 1024], b"CLVJ".to_vec()] {
        fs::write(fresh.path().join(FIRST), bytes).unwrap();
        drop(open(fresh.path(), 1024));
    }
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=40);
    journal.flush().unwrap();
    journal.sync_handle().sync_all().unwrap();
    drop(journal);
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    names.sort();
    for gone in &names[..names.len() - 1] {
        let kept = fs::read(gone).unwrap();
        fs::remove_file(gone).unwrap();
        for options in [options(1024), after_power_loss(1024)] {
            Journal::open(dir.path(), options).unwrap_err();
        }
        verify(dir.path()).unwrap_err();
        fs::write(gone, kept).unwrap();
    }
    verify(dir.path()).unwrap();
}

/// The checksum can be made right again by whoever rewrites history; the chain can't.
#[test]
fn a_rewritten_record_with_a_right_checksum_breaks_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 8192);
    append(&mut journal, 1..=10);
    journal.flush().unwrap();
    drop(journal);
    let (from, to) = (used_bytes(&numbered(1..=4)), used_bytes(&numbered(1..=5)));
    let mut bytes = fs::read(dir.path().join(FIRST)).unwrap();
    bytes[to - 1] ^= 1;
    let crc = crc32fast::hash(&bytes[from + 8..to]);
    bytes[from + 4..from + 8].copy_from_slice(&crc.to_le_bytes());
    fs::write(dir.path().join(FIRST), &bytes).unwrap();
    let damage = damage(Journal::open(dir.path(), options(8192)).unwrap_err().kind);
    assert_eq!(damage.seq, 6);
    assert!(matches!(damage.kind, DamageKind::ChainBroken { .. }), "{damage}");
    assert!(verify(dir.path()).unwrap_err().to_string().contains("record 6"));
}

#[test]
fn an_oversize_record_gets_a_segment_of_its_own_and_a_huge_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=3);
    let big = Wanted { input: vec![b'x'; 700_000], ..Wanted::numbered(4) };
    assert_eq!(journal.append(&big.record()).unwrap(), 4);
    append(&mut journal, 5..=6);
    let huge = Wanted { input: vec![b'x'; 64 << 20], ..Wanted::numbered(7) };
    let error = journal.append(&huge.record()).unwrap_err();
    assert!(error.to_string().contains("limit is 67108864"), "{error}");
    append(&mut journal, 7..=8);
    journal.flush().unwrap();
    drop(journal);
    let got = read_all(open(dir.path(), 1024).1);
    assert_eq!(got.len(), 8);
    assert_eq!(got[3], big);
}

/// A header or a seal rewritten with a right checksum no longer fits the records.
#[test]
fn a_rewritten_header_or_seal_is_found_by_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    append(&mut journal, 1..=20);
    journal.flush().unwrap();
    journal.sync_handle().sync_all().unwrap();
    drop(journal);
    let second = "0000000000000009.seg";
    // Byte to change, end of what the checksum covers.
    let cases = [(second, 20, 124, "names"), (second, 9, 124, "first record is"), (FIRST, 16, 124, "names")];
    let seal = "0000000000000001.root";
    let of_seal = [
        (seal, 16, 120, "number"),
        (seal, 30, 120, "before"),
        (seal, 60, 120, "last"),
        (seal, 90, 120, "root"),
    ];
    for (name, at, crc_at, says) in cases.into_iter().chain(of_seal) {
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let crc = crc32fast::hash(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = Journal::open(dir.path(), options(1024)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(says), "{name} byte {at}: {error}");
        assert!(verify(dir.path()).unwrap_err().to_string().contains(says));
        fs::write(&path, good).unwrap();
    }
    verify(dir.path()).unwrap();
}
