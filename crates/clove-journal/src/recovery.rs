//! The way from whatever a crash left on disk to a journal that can be appended to.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::boot::BootId;
use crate::chain::ChainHash;
use crate::chain_walk::{ChainWalk, Stop, WalkStep};
use crate::checkpoint::Checkpoint;
use crate::damage::{Damage, DamageKind};
use crate::disk::{Disk, sync_parent, write_all_at};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::head::Head;
use crate::io_failure::IoFailure;
use crate::journal::{Resume, SegmentFill, create_segment};
use crate::layout::Layout;
use crate::merkle::RunningRoot;
use crate::options::Options;
use crate::read_error::{ReadError, ReadErrorKind};
use crate::reader::Reader;
use crate::segment_header::SegmentHeader;
use crate::segment_scan::SegmentScan;
use crate::tail::{self, Torn, Witness};

/// What was found in the directory.
#[derive(Debug)]
pub struct Recovered {
    /// The newest intact checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The records behind it, in order.
    pub records: Reader,
    /// The last record; `seq` 0 when there is none.
    pub head: Head,
    /// What the operator should be told.
    pub warnings: Vec<Warning>,
}

/// Something that was mended at open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// The end of the last write was missing; none of it had been acknowledged as durable.
    #[error("{} ended in {bytes} bytes of an unfinished write behind record {last_seq}; they were cut off", file.display())]
    TornTail { file: PathBuf, last_seq: u64, bytes: u64 },
    /// Power was lost and took some pages of what no fdatasync had covered; what lay behind them can't be used.
    #[error(
        "power was lost before the records after {last_seq} were durable: {bytes} bytes, with {records} intact records \
         behind a hole, were cut off {}", file.display()
    )]
    UnsyncedHole { file: PathBuf, last_seq: u64, bytes: u64, records: u64 },
    /// The checkpoint's bytes aren't what was written; an earlier one or the whole log is used instead.
    #[error("checkpoint {} is damaged and was passed over", file.display())]
    DamagedCheckpoint { file: PathBuf },
}

pub(crate) fn open(dir: &Path, options: &Options) -> Result<(Resume, Recovered), OpenError> {
    recover(dir, options).map_err(|kind| OpenError { dir: dir.to_owned(), kind })
}

fn recover(dir: &Path, options: &Options) -> Result<(Resume, Recovered), OpenErrorKind> {
    let disk = &*options.disk;
    let layout = Layout::new(dir);
    create_dir(dir, disk)?;
    let lock = lock(dir)?;
    for path in layout.unfinished()? {
        disk.remove(&path).map_err(IoFailure::of("remove", &path))?;
    }
    let mut warnings = Vec::new();
    let checkpoint = newest_intact_checkpoint(&layout, &mut warnings)?;
    let mut segments = layout.segments()?;
    if let ([only], None) = (&segments[..], &checkpoint)
        && SegmentScan::open(&layout.segment(*only), *only)?.is_none()
    {
        // The very first open died before its header was durable, and so before anything was promised. (With records
        // in it, it isn't that, but a damaged one.)
        let path = layout.segment(*only);
        let bytes = fs::read(&path).map_err(IoFailure::of("read", &path))?;
        if bytes.iter().skip(SEGMENT_HEADER_BYTES).any(|&byte| byte != 0) {
            return Err(ReadError::from(Damage::new(&path, 0, *only, DamageKind::Header)).into());
        }
        disk.remove(&path).map_err(IoFailure::of("remove", &path))?;
        segments.clear();
    }
    let old_boot = BootId::load(&layout.boot())?;
    let checkpoint_seq = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.seq);
    let resume = if segments.is_empty() {
        if checkpoint_seq > 0 {
            let path = layout.segment(checkpoint_seq);
            return Err(ReadError::from(Damage::new(&path, 0, checkpoint_seq, DamageKind::Missing)).into());
        }
        create_first_segment(&layout, options, lock)?
    } else {
        let witness = Witness { same_boot: options.boot.same_boot(&old_boot), durable_seq: checkpoint_seq };
        let known = checkpoint.as_ref().map(|checkpoint| (checkpoint.seq, checkpoint.chain_hash));
        mend(&layout, options, lock, segments, known, witness, &mut warnings)?
    };
    if options.boot != old_boot {
        options.boot.store(&layout.boot(), disk)?;
    }
    let records = Reader::open(dir, checkpoint_seq + 1, resume.head.seq)?;
    let head = resume.head;
    Ok((resume, Recovered { checkpoint, records, head, warnings }))
}

fn create_dir(dir: &Path, disk: &dyn Disk) -> Result<(), IoFailure> {
    if dir.is_dir() {
        return Ok(());
    }
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(IoFailure::of("create", dir))?;
    sync_parent(disk, dir)
}

/// Two journals on one directory would overwrite each other. The caller's own lock should have seen to it already;
/// this one is a flock(2), so it ends with the process that holds it, however that dies.
fn lock(dir: &Path) -> Result<File, OpenErrorKind> {
    let file = File::open(dir).map_err(IoFailure::of("open", dir))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(OpenErrorKind::Locked),
        Err(errno) => Err(IoFailure::new("lock", dir, errno.into()).into()),
    }
}

pub(crate) fn newest_intact_checkpoint(
    layout: &Layout,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Checkpoint>, ReadError> {
    for &seq in layout.checkpoints()?.iter().rev() {
        let path = layout.checkpoint(seq);
        match Checkpoint::load(&path, seq)? {
            Some(checkpoint) => return Ok(Some(checkpoint)),
            None => warnings.push(Warning::DamagedCheckpoint { file: path }),
        }
    }
    Ok(None)
}

fn create_first_segment(layout: &Layout, options: &Options, lock: File) -> Result<Resume, OpenErrorKind> {
    let disk = &*options.disk;
    let header = SegmentHeader {
        first_seq: 1,
        prev_hash: ChainHash::ZERO,
        created_wall_ms: options.created_wall_ms,
        mark: random_mark(&layout.dir)?,
        core_version: SegmentHeader::core_version_bytes(&options.core_version),
    };
    let path = layout.segment(1);
    let file = create_segment(disk, &path, options.segment_bytes)?;
    write_all_at(disk, &file, &path, &header.encode(), 0).map_err(IoFailure::of("write", &path))?;
    disk.sync_data(&file, &path).map_err(IoFailure::of("make durable", &path))?;
    sync_parent(disk, &path)?;
    Ok(Resume {
        layout: layout.clone(),
        lock,
        mark: header.mark,
        head: Head { seq: 0, hash: ChainHash::ZERO },
        segment: SegmentFill {
            first_seq: 1,
            prev_hash: ChainHash::ZERO,
            root: RunningRoot::default(),
            bytes: SEGMENT_HEADER_BYTES as u64,
            capacity_bytes: options.segment_bytes,
        },
        file,
        path,
        bytes_since_checkpoint: 0,
    })
}

fn random_mark(dir: &Path) -> Result<u32, IoFailure> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| IoFailure::new("draw a random mark for", dir, errno.into()))?;
    // Zero would be found in every hole.
    Ok(u32::from_le_bytes(bytes).max(1))
}

fn mend(
    layout: &Layout,
    options: &Options,
    lock: File,
    all_segments: Vec<u64>,
    checkpoint: Option<(u64, ChainHash)>,
    witness: Witness,
    warnings: &mut Vec<Warning>,
) -> Result<Resume, OpenErrorKind> {
    let disk = &*options.disk;
    let needed = first_needed(layout, &all_segments, checkpoint)?;
    let mut walk = ChainWalk::begin(layout, all_segments[needed..].to_vec())?;
    let (replay, stop) = walk_to_the_end(&mut walk, checkpoint)?;
    let torn = tail::judge(&mut walk, &stop, witness)?;
    let (last, end) = (walk.segment(), walk.scan().offset());
    let path = walk.scan().path.clone();
    let file = open_for_writing(&path)?;
    let capacity_bytes = options.segment_bytes.max(end);
    if torn.bytes > 0 || !torn.segments.is_empty() {
        cut_off(layout, disk, &torn, &file, &path, end)?;
        let last_seq = walk.next_seq() - 1;
        if torn.records > 0 {
            let (bytes, records) = (torn.bytes, torn.records);
            warnings.push(Warning::UnsyncedHole { file: path.clone(), last_seq, bytes, records });
        } else if torn.bytes > 0 {
            warnings.push(Warning::TornTail { file: path.clone(), last_seq, bytes: torn.bytes });
        }
    }
    let len = file.metadata().map_err(IoFailure::of("look at", &path))?.len();
    if len < capacity_bytes {
        disk.allocate(&file, &path, capacity_bytes).map_err(IoFailure::of("reserve space for", &path))?;
    }
    for (index, &first_seq) in walk.segments().to_vec().iter().enumerate().take(last + 1) {
        let path = layout.segment(first_seq);
        let file = open_for_writing(&path)?;
        let from = match replay.first_undurable {
            Some((segment, offset)) if segment == index => Some(offset),
            Some((segment, _)) if segment < index => Some(0),
            _ => None,
        };
        if let Some(from) = from {
            write_again(disk, &file, &path, from, if index == last { Some(end) } else { None })?;
        }
        disk.sync_data(&file, &path).map_err(IoFailure::of("make durable", &path))?;
    }
    disk.sync_dir(&layout.dir).map_err(IoFailure::of("make durable", &layout.dir))?;
    for seal in walk.take_unsealed() {
        seal.store(&layout.seal(seal.first_seq), disk)?;
    }
    let header = &walk.scan().header;
    let (mark, prev_hash) = (header.mark, header.prev_hash);
    Ok(Resume {
        layout: layout.clone(),
        lock,
        mark,
        head: Head { seq: walk.next_seq() - 1, hash: walk.hash() },
        segment: SegmentFill {
            first_seq: walk.segments()[last],
            prev_hash,
            root: walk.root().clone(),
            bytes: end,
            capacity_bytes,
        },
        file,
        path,
        bytes_since_checkpoint: replay.bytes_since_checkpoint,
    })
}

/// Index of the segment to begin with: the one that holds the checkpoint's record, so that its hash can be compared.
fn first_needed(
    layout: &Layout,
    segments: &[u64],
    checkpoint: Option<(u64, ChainHash)>,
) -> Result<usize, ReadError> {
    let seq = checkpoint.map_or(1, |(seq, _)| seq);
    match segments.partition_point(|&first| first <= seq.max(1)).checked_sub(1) {
        Some(index) => Ok(index),
        // A checkpoint of the record right before the first segment is enough too; the walk compares the hash.
        None if checkpoint.is_some() && segments[0] == seq + 1 => Ok(0),
        None => {
            let kind = if checkpoint.is_some() {
                DamageKind::MissingSegment { found: segments[0] }
            } else {
                DamageKind::NoCheckpoint
            };
            Err(Damage::new(&layout.segment(segments[0]), 0, seq, kind).into())
        }
    }
}

struct Replay {
    bytes_since_checkpoint: u64,
    /// Segment index and offset of the first record that nothing later says to be durable.
    first_undurable: Option<(usize, u64)>,
}

fn walk_to_the_end(
    walk: &mut ChainWalk,
    checkpoint: Option<(u64, ChainHash)>,
) -> Result<(Replay, Stop), ReadError> {
    let (checkpoint_seq, checkpoint_hash) = checkpoint.unwrap_or((0, ChainHash::ZERO));
    let mismatch = |walk: &mut ChainWalk, offset| {
        let kind = DamageKind::CheckpointHash { checkpoint: checkpoint_seq };
        ReadError::from(Damage::new(&walk.scan().path.clone(), offset, checkpoint_seq, kind))
    };
    if walk.next_seq() == checkpoint_seq + 1 && walk.hash() != checkpoint_hash {
        return Err(mismatch(walk, 16));
    }
    let mut bytes_since_checkpoint = 0;
    let mut durable_seq = checkpoint_seq;
    let mut undurable: VecDeque<(u64, usize, u64)> = VecDeque::new();
    loop {
        let found = match walk.step()? {
            WalkStep::Record(found) => found,
            WalkStep::Stopped(stop) => {
                let first_undurable = undurable.front().map(|&(_, segment, offset)| (segment, offset));
                return Ok((Replay { bytes_since_checkpoint, first_undurable }, stop));
            }
        };
        let seq = found.prelude.seq;
        if seq == checkpoint_seq && found.hash != checkpoint_hash {
            return Err(mismatch(walk, found.offset));
        }
        if seq > checkpoint_seq {
            bytes_since_checkpoint += found.bytes as u64;
            undurable.push_back((seq, walk.segment(), found.offset));
        }
        durable_seq = durable_seq.max(found.prelude.durable_seq);
        while undurable.front().is_some_and(|&(seq, ..)| seq <= durable_seq) {
            undurable.pop_front();
        }
    }
}

/// Take away what was never durable. Later segments go first, newest first: dying in between leaves the same picture.
fn cut_off(
    layout: &Layout,
    disk: &dyn Disk,
    torn: &Torn,
    file: &File,
    path: &Path,
    end: u64,
) -> Result<(), IoFailure> {
    for &first_seq in torn.segments.iter().rev() {
        let later = layout.segment(first_seq);
        disk.remove(&later).map_err(IoFailure::of("remove", &later))?;
    }
    disk.sync_dir(&layout.dir).map_err(IoFailure::of("make durable", &layout.dir))?;
    // Shrinking drops the bytes; the space is reserved again by the caller. Left in place, an old record could one day
    // stand right behind a new one.
    disk.set_len(file, path, end).map_err(IoFailure::of("cut", path))?;
    disk.sync_data(file, path).map_err(IoFailure::of("make durable", path))
}

/// Write bytes that are in the file once more. If an fdatasync of the process before us failed, Linux has marked those
/// pages clean without their being on disk: reading shows them and another fdatasync has nothing to do. Writing makes
/// them dirty, so that the fdatasync that follows means something.
fn write_again(
    disk: &dyn Disk,
    file: &File,
    path: &Path,
    mut from: u64,
    end: Option<u64>,
) -> Result<(), IoFailure> {
    let len = file.metadata().map_err(IoFailure::of("look at", path))?.len();
    let end = end.unwrap_or(len);
    let mut chunk = vec![0; 1 << 20];
    while from < end {
        let wanted = chunk.len().min((end - from) as usize);
        file.read_exact_at(&mut chunk[..wanted], from).map_err(IoFailure::of("read", path))?;
        write_all_at(disk, file, path, &chunk[..wanted], from).map_err(IoFailure::of("write", path))?;
        from += wanted as u64;
    }
    Ok(())
}

fn open_for_writing(path: &Path) -> Result<File, IoFailure> {
    OpenOptions::new().read(true).write(true).open(path).map_err(IoFailure::of("open", path))
}

/// Why a journal can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the journal in {}: {kind}", dir.display())]
pub struct OpenError {
    /// The journal's directory.
    pub dir: PathBuf,
    /// What happened.
    #[source]
    pub kind: OpenErrorKind,
}

/// What happened when opening.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenErrorKind {
    #[error("{0}")]
    Io(#[source] IoFailure),
    #[error("{0}")]
    Read(#[source] ReadErrorKind),
    #[error("another process has it open; stop that one first")]
    Locked,
}

impl From<IoFailure> for OpenErrorKind {
    fn from(failure: IoFailure) -> OpenErrorKind {
        OpenErrorKind::Io(failure)
    }
}

impl From<ReadError> for OpenErrorKind {
    fn from(error: ReadError) -> OpenErrorKind {
        OpenErrorKind::Read(error.kind)
    }
}
