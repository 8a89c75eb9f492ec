//! Disks that write short, run full or fail to sync.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod fixture;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use clove_journal::{Disk, HostDisk, Journal, Options, SyncErrorKind, WriteErrorKind, verify};
use fixture::*;

/// Fails with ENOSPC once a budget of bytes is spent, and with EIO on the n-th sync.
#[derive(Debug)]
struct FaultyDisk {
    bytes_left: AtomicI64,
    syncs_left: AtomicI64,
    syncs_asked: AtomicU64,
    largest_write: usize,
}

impl FaultyDisk {
    fn new() -> FaultyDisk {
        FaultyDisk {
            bytes_left: AtomicI64::new(i64::MAX),
            syncs_left: AtomicI64::new(i64::MAX),
            syncs_asked: AtomicU64::new(0),
            largest_write: usize::MAX,
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        HostDisk.create(path)
    }
    fn allocate(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        HostDisk.allocate(file, path, bytes)
    }
    fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let left = self.bytes_left.load(Ordering::Relaxed).max(0) as usize;
        let some = &bytes[..bytes.len().min(left).min(self.largest_write)];
        if some.is_empty() {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.bytes_left.fetch_sub(some.len() as i64, Ordering::Relaxed);
        HostDisk.write_at(file, path, some, offset)
    }
    fn set_len(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        HostDisk.set_len(file, path, bytes)
    }
    fn sync_data(&self, _file: &File, _path: &Path) -> io::Result<()> {
        self.syncs_asked.fetch_add(1, Ordering::Relaxed);
        match self.syncs_left.fetch_sub(1, Ordering::Relaxed) {
            // As on Linux: it fails once, and the next call succeeds without having written anything.
            0 => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }
}

#[test]
fn short_writes_are_carried_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk { largest_write: 7, ..FaultyDisk::new() });
    let (mut journal, _) = Journal::open(dir.path(), Options { disk, ..options(1024) }).unwrap();
    append(&mut journal, 1..=30);
    journal.flush().unwrap();
    drop(journal);
    assert_eq!(verify(dir.path()).unwrap().records, 30);
    assert_eq!(read_all(open(dir.path(), 1024).1), numbered(1..=30));
}

#[test]
fn a_full_disk_at_any_byte_loses_nothing_acknowledged() {
    // The batch and the header of the segment that it goes on in.
    let batch_bytes = (used_bytes(&numbered(4..=13)) - 128) + 128;
    for budget in 0..batch_bytes as i64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::new());
        let (mut journal, _) =
            Journal::open(dir.path(), Options { disk: disk.clone(), ..options(1024) }).unwrap();
        append(&mut journal, 1..=3);
        journal.flush().unwrap();
        disk.bytes_left.store(budget, Ordering::Relaxed);
        append(&mut journal, 4..=13);
        let error = journal.flush().unwrap_err();
        assert!(matches!(error.kind, WriteErrorKind::DiskFull(_)), "{error}");
        assert!(error.to_string().contains("free space"), "{error}");
        // Space is there again, but the journal has stopped: half a record lies in the file.
        disk.bytes_left.store(i64::MAX, Ordering::Relaxed);
        assert!(journal.append(&Wanted::numbered(14).record()).is_err());
        assert!(matches!(journal.flush().unwrap_err().kind, WriteErrorKind::Poisoned { .. }));
        drop(journal);
        let (mut journal, recovered) = open(dir.path(), 1024);
        let last = recovered.head.seq;
        assert!((3..=13).contains(&last));
        assert_eq!(read_all(recovered), numbered(1..=last));
        append(&mut journal, last + 1..=20);
        journal.flush().unwrap();
        drop(journal);
        assert_eq!(verify(dir.path()).unwrap().records, 20);
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::new());
    let (mut journal, _) =
        Journal::open(dir.path(), Options { disk: disk.clone(), ..options(4096) }).unwrap();
    append(&mut journal, 1..=3);
    journal.flush().unwrap();
    let handle = journal.sync_handle();
    assert_eq!(handle.sync_to(3).unwrap(), 3);
    append(&mut journal, 4..=6);
    journal.flush().unwrap();
    disk.syncs_left.store(0, Ordering::Relaxed);
    assert!(matches!(handle.sync_to(6).unwrap_err().kind, SyncErrorKind::Io(_)));
    let asked = disk.syncs_asked.load(Ordering::Relaxed);
    assert!(matches!(handle.sync_to(6).unwrap_err().kind, SyncErrorKind::Poisoned { .. }));
    assert_eq!(disk.syncs_asked.load(Ordering::Relaxed), asked);
    assert_eq!(handle.durable_head().seq, 3);
    assert!(journal.append(&Wanted::numbered(7).record()).is_err());
    assert!(journal.flush().is_err());
    drop(journal);
    assert_eq!(read_all(open(dir.path(), 4096).1), numbered(1..=6));
}

#[test]
fn syncing_what_was_not_flushed_is_an_error_that_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 4096);
    append(&mut journal, 1..=2);
    let error = journal.sync_handle().sync_to(2).unwrap_err();
    assert!(error.to_string().contains("flush first"), "{error}");
    journal.flush().unwrap();
    assert_eq!(journal.sync_handle().sync_to(2).unwrap(), 2);
}

#[test]
fn syncing_beside_appending_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), 1024);
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let handle = journal.sync_handle();
            scope.spawn(|| {
                let handle = handle;
                let mut durable = 0;
                while durable < 3000 {
                    let wanted = written.load(Ordering::Acquire);
                    durable = handle.sync_to(wanted).unwrap();
                    assert!(durable >= wanted);
                }
            });
        }
        for n in 1..=3000 {
            append(&mut journal, n..=n);
            if n % 7 == 0 || n == 3000 {
                written.store(journal.flush().unwrap(), Ordering::Release);
            }
        }
    });
    drop(journal);
    let summary = verify(dir.path()).unwrap();
    assert_eq!(summary.records, 3000);
    let seals = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "root"))
        .count() as u64;
    assert_eq!(seals, summary.segments - 1);
}
