//! The walk over the records of one segment.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::chain::ChainHash;
use crate::damage::{Damage, DamageKind};
use crate::format::{FormatVersion, RECORD_PRELUDE_BYTES, SEGMENT_HEADER_BYTES};
use crate::io_failure::IoFailure;
use crate::read_error::{ReadError, ReadErrorKind};
use crate::record::{Prelude, RecordView};
use crate::segment_header::{HeaderProblem, SegmentHeader};
use crate::tail;
use crate::window::Window;

#[derive(Debug)]
pub(crate) struct SegmentScan {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    window: Window,
    offset: u64,
}

/// An intact record and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) prelude: Prelude,
    pub(crate) hash: ChainHash,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) enum ScanStep {
    Record(Found),
    /// A zero length, or the end of the file.
    End,
    Bad(DamageKind),
}

impl SegmentScan {
    /// `Ok(None)` when the segment was created and its header never written in full.
    pub(crate) fn open(path: &Path, first_seq: u64) -> Result<Option<SegmentScan>, ReadError> {
        let file = File::open(path).map_err(IoFailure::of("open", path))?;
        let mut window = Window::new(file);
        let start = window.bytes(0, SEGMENT_HEADER_BYTES).map_err(IoFailure::of("read", path))?;
        let decoded = SegmentHeader::decode(start);
        let is_from_the_future =
            matches!(decoded, Err(HeaderProblem::Version(found)) if found > FormatVersion::CURRENT);
        if decoded.is_err() && !is_from_the_future {
            // A write(2) that was cut short leaves a part of a header, and then nothing: there is nothing to lose.
            let behind = tail::dirty_bytes(&mut window, SEGMENT_HEADER_BYTES as u64);
            if behind.map_err(IoFailure::of("read", path))? == 0 {
                return Ok(None);
            }
        }
        let kind = match decoded {
            Ok(header) if header.first_seq == first_seq => {
                let offset = SEGMENT_HEADER_BYTES as u64;
                return Ok(Some(SegmentScan { path: path.to_owned(), header, window, offset }));
            }
            Ok(header) => DamageKind::HeaderSequence { found: header.first_seq },
            Err(HeaderProblem::NeverWritten) => return Ok(None),
            Err(HeaderProblem::NoMagic) => DamageKind::Header,
            Err(HeaderProblem::Checksum) => DamageKind::HeaderChecksum,
            Err(HeaderProblem::Version(found)) => {
                return Err(ReadError { kind: ReadErrorKind::Version { file: path.to_owned(), found } });
            }
        };
        Err(Damage::new(path, 0, first_seq, kind).into())
    }

    pub(crate) fn step(&mut self) -> io::Result<ScanStep> {
        let bytes = self.window.bytes(self.offset, RECORD_PRELUDE_BYTES)?;
        // Zeros are the end even where fewer are left than a prelude takes.
        if bytes.iter().take(4).all(|&byte| byte == 0) {
            return Ok(ScanStep::End);
        }
        if bytes.len() < RECORD_PRELUDE_BYTES {
            return Ok(ScanStep::Bad(DamageKind::Short));
        }
        let prelude = Prelude::decode(bytes);
        let Some(total) = prelude.total_bytes() else {
            return Ok(ScanStep::Bad(DamageKind::Length { length: prelude.length() }));
        };
        let encoded = self.window.bytes(self.offset, total)?;
        if encoded.len() < total {
            return Ok(ScanStep::Bad(DamageKind::Short));
        }
        if !prelude.is_intact(encoded) {
            return Ok(ScanStep::Bad(DamageKind::Checksum));
        }
        if prelude.mark != self.header.mark {
            return Ok(ScanStep::Bad(DamageKind::ForeignMark));
        }
        let hash = ChainHash::of_record(encoded);
        if prelude.view(encoded, hash).is_none() {
            return Ok(ScanStep::Bad(DamageKind::Actor));
        }
        let found = Found { prelude, hash, offset: self.offset, bytes: total };
        self.offset += total as u64;
        Ok(ScanStep::Record(found))
    }

    /// The record that `step` found last.
    pub(crate) fn view(&mut self, found: &Found) -> io::Result<Option<RecordView<'_>>> {
        let encoded = self.window.bytes(found.offset, found.bytes)?;
        Ok(if encoded.len() == found.bytes { found.prelude.view(encoded, found.hash) } else { None })
    }

    /// Where the next record would begin.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn window(&mut self) -> &mut Window {
        &mut self.window
    }
}
