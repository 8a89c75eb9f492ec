//! The appending side of the journal.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::{Batch, Cut};
use crate::chain::ChainHash;
use crate::checkpoint::{CheckpointMark, Checkpoints};
use crate::disk::{Disk, write_all_at};
use crate::format::{MAX_RECORD_BYTES, SEGMENT_HEADER_BYTES};
use crate::head::Head;
use crate::io_failure::IoFailure;
use crate::layout::Layout;
use crate::merkle::RunningRoot;
use crate::options::Options;
use crate::read_error::ReadError;
use crate::reader::Reader;
use crate::record::{Placement, RecordRef, encode, encoded_bytes};
use crate::recovery::{self, OpenError, Recovered};
use crate::seal::Seal;
use crate::segment_header::SegmentHeader;
use crate::sync::{Shared, SyncHandle};

/// The journal of one data directory, owned by the thread that appends.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    /// flock(2) on the directory; given back when the journal is dropped.
    _lock: File,
    segment_bytes: u64,
    size_cap_bytes: u64,
    core_version: [u8; 32],
    mark: u32,
    /// The last record appended, flushed or not.
    head: Head,
    /// The segment of the next record as it will be once the batch is written.
    segment: SegmentFill,
    /// The segment that the next write goes to.
    file: Arc<File>,
    path: PathBuf,
    offset: u64,
    batch: Batch,
    /// Bytes appended since open, plus those that recovery found behind the checkpoint.
    position: u64,
}

/// How full a segment is.
#[derive(Debug)]
pub(crate) struct SegmentFill {
    pub(crate) first_seq: u64,
    pub(crate) prev_hash: ChainHash,
    pub(crate) root: RunningRoot,
    pub(crate) bytes: u64,
    pub(crate) capacity_bytes: u64,
}

/// What recovery hands over to append to.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) layout: Layout,
    pub(crate) lock: File,
    pub(crate) mark: u32,
    pub(crate) head: Head,
    pub(crate) segment: SegmentFill,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes_since_checkpoint: u64,
}

impl Journal {
    /// Open or create the journal in `dir`, and recover: find the newest intact checkpoint, check every record behind
    /// it, cut off a torn tail. When this returns, everything found is durable.
    pub fn open(dir: &Path, options: Options) -> Result<(Journal, Recovered), OpenError> {
        let (resume, recovered) = recovery::open(dir, &options)?;
        let file = Arc::new(resume.file);
        let shared = Shared::new(
            resume.layout,
            Arc::clone(&options.disk),
            resume.head,
            resume.path.clone(),
            Arc::clone(&file),
        );
        let journal = Journal {
            shared: Arc::new(shared),
            _lock: resume.lock,
            segment_bytes: options.segment_bytes,
            size_cap_bytes: options.size_cap_bytes,
            core_version: SegmentHeader::core_version_bytes(&options.core_version),
            mark: resume.mark,
            head: resume.head,
            offset: resume.segment.bytes,
            segment: resume.segment,
            file,
            path: resume.path,
            batch: Batch::default(),
            position: resume.bytes_since_checkpoint,
        };
        Ok((journal, recovered))
    }

    /// Encode a record into the batch and give its sequence number. Makes no system call; nothing may be told to
    /// anybody about it before [`flush`](Journal::flush) has returned.
    pub fn append(&mut self, record: &RecordRef<'_>) -> Result<u64, AppendError> {
        if let Some(cause) = self.shared.poisoned() {
            return Err(AppendError { kind: AppendErrorKind::Poisoned { cause: cause.to_owned() } });
        }
        let bytes = encoded_bytes(record);
        if bytes > MAX_RECORD_BYTES {
            return Err(AppendError { kind: AppendErrorKind::TooLarge { bytes, limit: MAX_RECORD_BYTES } });
        }
        let is_full = self.segment.bytes + bytes as u64 > self.segment.capacity_bytes;
        if is_full && self.segment.root.count() > 0 {
            self.cut(bytes, record.wall_ms);
        }
        let place = Placement {
            seq: self.head.seq + 1,
            durable_seq: self.shared.durable_seq(),
            mark: self.mark,
            prev_hash: self.head.hash,
        };
        let hash = encode(record, &place, &mut self.batch.bytes);
        self.head = Head { seq: place.seq, hash };
        self.segment.root.push(hash);
        self.segment.bytes += bytes as u64;
        self.position += bytes as u64;
        Ok(place.seq)
    }

    /// Let the records after this point go to a new segment.
    fn cut(&mut self, next_record_bytes: usize, wall_ms: u64) {
        let full = &self.segment;
        let seal = Seal {
            first_seq: full.first_seq,
            count: full.root.count(),
            prev_hash: full.prev_hash,
            last_hash: self.head.hash,
            root: full.root.root(),
        };
        let header = SegmentHeader {
            first_seq: self.head.seq + 1,
            prev_hash: self.head.hash,
            created_wall_ms: wall_ms,
            mark: self.mark,
            core_version: self.core_version,
        };
        let first_fill = (SEGMENT_HEADER_BYTES + next_record_bytes) as u64;
        self.segment = SegmentFill {
            first_seq: header.first_seq,
            prev_hash: header.prev_hash,
            root: RunningRoot::default(),
            bytes: SEGMENT_HEADER_BYTES as u64,
            capacity_bytes: self.segment_bytes.max(first_fill),
        };
        self.batch.cuts.push(Cut {
            at: self.batch.bytes.len(),
            seal,
            first_seq: header.first_seq,
            capacity_bytes: self.segment.capacity_bytes,
        });
        self.batch.bytes.extend_from_slice(&header.encode());
    }

    /// Hand the batch to the system with pwrite(2) and give the last sequence number that is written. From here on the
    /// records survive the death of this process; a loss of power only after [`SyncHandle::sync_to`]. After a failure
    /// the journal takes nothing more: no record of the batch may be acknowledged, and what of it reached the file is
    /// found or cut off at the next open.
    pub fn flush(&mut self) -> Result<u64, WriteError> {
        if let Some(cause) = self.shared.poisoned() {
            return Err(WriteError { kind: WriteErrorKind::Poisoned { cause: cause.to_owned() } });
        }
        if !self.batch.bytes.is_empty() {
            self.write_batch().map_err(|failure| {
                self.shared.poison(&failure);
                let is_full = matches!(
                    failure.source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
                let kind =
                    if is_full { WriteErrorKind::DiskFull(failure) } else { WriteErrorKind::Io(failure) };
                WriteError { kind }
            })?;
        }
        Ok(self.head.seq)
    }

    fn write_batch(&mut self) -> Result<(), IoFailure> {
        let mut batch = std::mem::take(&mut self.batch);
        let mut from = 0;
        for cut in batch.cuts.drain(..) {
            self.write(&batch.bytes[from..cut.at])?;
            let path = self.shared.layout.segment(cut.first_seq);
            self.file = Arc::new(create_segment(&*self.shared.disk, &path, cut.capacity_bytes)?);
            (self.path, self.offset) = (path, 0);
            self.shared.rolled(cut.seal, self.path.clone(), Arc::clone(&self.file));
            from = cut.at;
        }
        self.write(&batch.bytes[from..])?;
        self.shared.wrote(self.head);
        // The buffer is kept for the next batch, unless one huge batch has blown it up.
        batch.bytes.clear();
        batch.bytes.shrink_to(1 << 20);
        self.batch = batch;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IoFailure> {
        write_all_at(&*self.shared.disk, &self.file, &self.path, bytes, self.offset)
            .map_err(IoFailure::of("write", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// A handle for the thread that may block on the disk.
    pub fn sync_handle(&self) -> SyncHandle {
        SyncHandle { shared: Arc::clone(&self.shared) }
    }

    /// A handle that writes checkpoints and prunes, for a thread that may block.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints { shared: Arc::clone(&self.shared), size_cap_bytes: self.size_cap_bytes }
    }

    /// Where the journal stands now: take this together with the state that a checkpoint is made of.
    pub fn checkpoint_mark(&self) -> CheckpointMark {
        CheckpointMark { seq: self.head.seq, chain_hash: self.head.hash, position: self.position }
    }

    /// Bytes of records appended since the newest checkpoint's mark.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.position.saturating_sub(self.shared.checkpoint_position.load(Ordering::Acquire))
    }

    /// The last record appended, flushed or not; `seq` 0 when there is none.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The last record that is durable.
    pub fn durable_head(&self) -> Head {
        self.shared.durable()
    }

    /// Read what has been flushed, from `from_seq` on.
    pub fn reader(&self, from_seq: u64) -> Result<Reader, ReadError> {
        Reader::open(&self.shared.layout.dir, from_seq, self.shared.written().seq)
    }
}

/// Create a segment file of its full size, without a header.
pub(crate) fn create_segment(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<File, IoFailure> {
    let file = disk.create(path).map_err(IoFailure::of("create", path))?;
    disk.allocate(&file, path, bytes).map_err(IoFailure::of("reserve space for", path))?;
    Ok(file)
}

/// Why a record wasn't taken.
#[derive(Debug, thiserror::Error)]
#[error("the record was not appended: {kind}")]
pub struct AppendError {
    /// What happened.
    #[source]
    pub kind: AppendErrorKind,
}

/// What happened when appending.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendErrorKind {
    #[error("it has {bytes} bytes, the limit is {limit}; put large bodies into blobs")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the journal has stopped because of an earlier failure ({cause}); start again after mending it")]
    Poisoned { cause: String },
}

/// Why a batch wasn't written.
#[derive(Debug, thiserror::Error)]
#[error("the batch was not written: {kind}")]
pub struct WriteError {
    /// What happened.
    #[source]
    pub kind: WriteErrorKind,
}

/// What happened when writing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteErrorKind {
    #[error("{0}; free space on that file system, then start again: nothing acknowledged is lost")]
    DiskFull(IoFailure),
    #[error("{0}; check the disk, then start again: nothing acknowledged is lost")]
    Io(IoFailure),
    #[error("the journal has stopped because of an earlier failure ({cause}); start again after mending it")]
    Poisoned { cause: String },
}
