//! A simulated disk that forgets, at any moment, any of the pages that no sync has covered.
#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

mod fixture;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clove_journal::{BootId, Disk, HostDisk, Journal, Options, verify};
use fixture::*;
use proptest::prelude::*;

/// Small, so that records straddle them; not smaller than a segment's header, which a real disk writes in one sector.
const PAGE: usize = 128;
const SEGMENT: u64 = 1536;

/// The real files serve as the page cache; beside them stands what the platter holds.
#[derive(Debug, Default)]
struct ForgetfulDisk {
    platter: Mutex<Platter>,
    syncs_do_nothing: bool,
}

#[derive(Clone, Debug, Default)]
struct Platter {
    /// Content by inode, as far as synced. The page cache's copy is the other half.
    stable: BTreeMap<u64, Vec<u8>>,
    current: BTreeMap<u64, Vec<u8>>,
    /// Names by directory, as synced and as they are now.
    stable_names: BTreeMap<PathBuf, u64>,
    names: BTreeMap<PathBuf, u64>,
    next_inode: u64,
}

impl Platter {
    fn change(&mut self, path: &Path, len: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let content = self.current.get_mut(&self.names[path]).unwrap();
        if content.len() < len {
            content.resize(len, 0);
        }
        change(content);
    }

    /// What is found after the power has come back. `survives` decides for each page, size and name that wasn't synced.
    fn lose_power(&self, into: &Path, mut survives: impl FnMut() -> bool) {
        fs::create_dir_all(into).unwrap();
        let mut names = self.stable_names.clone();
        let all: Vec<_> = self.names.iter().chain(&self.stable_names).map(|(p, _)| p.clone()).collect();
        for path in all {
            if self.names.get(&path) != self.stable_names.get(&path) && survives() {
                match self.names.get(&path) {
                    Some(&inode) => names.insert(path, inode),
                    None => names.remove(&path),
                };
            }
        }
        for (path, inode) in names {
            let current = &self.current[&inode];
            let mut content = self.stable.get(&inode).cloned().unwrap_or_default();
            if content.len() != current.len() && survives() {
                content.resize(current.len(), 0);
            }
            for from in (0..content.len().min(current.len())).step_by(PAGE) {
                let to = (from + PAGE).min(content.len()).min(current.len());
                if content[from..to] != current[from..to] && survives() {
                    content[from..to].copy_from_slice(&current[from..to]);
                }
            }
            fs::write(into.join(path.file_name().unwrap()), content).unwrap();
        }
    }
}

impl Disk for ForgetfulDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let file = HostDisk.create(path)?;
        let mut platter = self.platter.lock().unwrap();
        platter.next_inode += 1;
        let inode = platter.next_inode;
        platter.names.insert(path.to_owned(), inode);
        platter.current.insert(inode, Vec::new());
        Ok(file)
    }
    fn allocate(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        self.platter.lock().unwrap().change(path, bytes as usize, |_| {});
        HostDisk.allocate(file, path, bytes)
    }
    fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<usize> {
        // Short writes on top.
        let (some, at) = (&bytes[..bytes.len().min(700)], offset as usize);
        let end = at + some.len();
        self.platter.lock().unwrap().change(path, end, |content| content[at..end].copy_from_slice(some));
        HostDisk.write_at(file, path, some, offset)
    }
    fn set_len(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        self.platter.lock().unwrap().change(path, 0, |content| content.resize(bytes as usize, 0));
        HostDisk.set_len(file, path, bytes)
    }
    fn sync_data(&self, _file: &File, path: &Path) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        if !self.syncs_do_nothing {
            let inode = platter.names[path];
            let content = platter.current[&inode].clone();
            platter.stable.insert(inode, content);
        }
        Ok(())
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        if !self.syncs_do_nothing {
            let names = platter.names.clone();
            platter.stable_names.retain(|path, _| path.parent() != Some(dir));
            platter.stable_names.extend(names.into_iter().filter(|(path, _)| path.parent() == Some(dir)));
        }
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut platter = self.platter.lock().unwrap();
        let inode = platter.names.remove(from).unwrap();
        platter.names.insert(to.to_owned(), inode);
        HostDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = HostDisk.remove(path);
        if removed.is_ok() {
            self.platter.lock().unwrap().names.remove(path);
        }
        removed
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Append(u8),
    Flush,
    Sync,
    Checkpoint,
    Prune,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => (1u8..6).prop_map(Act::Append),
        5 => Just(Act::Flush),
        2 => Just(Act::Sync),
        1 => Just(Act::Checkpoint),
        1 => Just(Act::Prune),
    ];
    prop::collection::vec(act, 1..60)
}

/// Runs the acts, loses power, and gives what is wrong with what comes back, if anything.
fn run(acts: &[Act], seed: u64, syncs_do_nothing: bool) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("before");
    let disk = Arc::new(ForgetfulDisk { syncs_do_nothing, ..ForgetfulDisk::default() });
    let (mut journal, _) = Journal::open(&dir, Options { disk: disk.clone(), ..options(SEGMENT) }).unwrap();
    let (mut appended, mut durable, mut flushed, mut checkpoint) = (0, 0, 0, 0);
    for act in acts {
        match act {
            Act::Append(count) => {
                append(&mut journal, appended + 1..=appended + u64::from(*count));
                appended += u64::from(*count);
            }
            Act::Flush => flushed = journal.flush().unwrap(),
            Act::Sync => durable = durable.max(journal.sync_handle().sync_to(flushed).unwrap()),
            Act::Checkpoint => {
                flushed = journal.flush().unwrap();
                let mark = journal.checkpoint_mark();
                journal.checkpoints().write(&mark, &mark.seq.to_le_bytes()).unwrap();
                (durable, checkpoint) = (flushed, flushed);
            }
            Act::Prune => {
                journal.checkpoints().prune(u64::MAX).unwrap();
            }
        }
    }
    drop(journal);
    let mut random = seed | 1;
    let mut chance = move || {
        // xorshift: the seed must decide everything.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    // How kind the loss is: nothing, everything or a part of what wasn't synced survives.
    let kindness = chance() % 5;
    let after = scratch.path().join("after");
    disk.platter.lock().unwrap().lose_power(&after, || chance() % 4 < kindness);
    let after_loss = |boot: &str| Options { boot: BootId::named(boot), ..options(SEGMENT) };
    let (mut journal, recovered) =
        Journal::open(&after, after_loss("boot-2")).map_err(|error| format!("open: {error}"))?;
    let last = recovered.head.seq;
    if last < durable || last > flushed {
        return Err(format!("durable {durable}, flushed {flushed}, but {last} came back"));
    }
    let from = recovered.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.seq);
    if from < checkpoint {
        return Err(format!("checkpoint {checkpoint} was acknowledged, {from} came back"));
    }
    if read_all(recovered) != numbered(from + 1..=last) {
        return Err("records differ".into());
    }
    append(&mut journal, last + 1..=last + 30);
    journal.flush().unwrap();
    drop(journal);
    // The same machine goes on, the process dies: nothing may be lost or called damage now.
    let (journal, recovered) =
        Journal::open(&after, after_loss("boot-2")).map_err(|error| format!("second open: {error}"))?;
    if !recovered.warnings.is_empty() || read_all(recovered) != numbered(from + 1..=last + 30) {
        return Err("after appending on, records differ".into());
    }
    drop(journal);
    verify(&after).map(drop).map_err(|error| format!("verify: {error}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost_and_nothing_invented(acts in acts(), seed in any::<u64>()) {
        prop_assert_eq!(run(&acts, seed, false), Ok(()));
    }
}

/// The test above must be able to fail: with syncs that do nothing, acknowledged records are lost.
#[test]
fn a_sync_that_does_nothing_is_found_out() {
    let acts = [Act::Append(5), Act::Flush, Act::Sync, Act::Append(5), Act::Flush, Act::Sync];
    assert!((0..50).any(|seed| run(&acts, seed * 7919, true).is_err()));
    assert!((0..50).all(|seed| run(&acts, seed * 7919, false).is_ok()));
}
