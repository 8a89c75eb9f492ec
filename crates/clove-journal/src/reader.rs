//! Reading records in order, without holding more than one in memory.

use std::path::Path;

use crate::chain_walk::{ChainWalk, StopCause, WalkStep};
use crate::damage::{Damage, DamageKind};
use crate::layout::Layout;
use crate::read_error::ReadError;
use crate::record::{Record, RecordView};

/// A stream of records that checks checksums, sequence and chain as it goes.
#[derive(Debug)]
pub struct Reader {
    /// `None` when the range is empty.
    walk: Option<ChainWalk>,
    next_seq: u64,
    until_seq: u64,
}

impl Reader {
    /// Read the records `from_seq..=until_seq`. Name an `until_seq` that has been flushed: behind it another thread may
    /// be writing. `u64::MAX` reads to the end of a journal that nobody writes.
    pub fn open(dir: &Path, from_seq: u64, until_seq: u64) -> Result<Reader, ReadError> {
        let from_seq = from_seq.max(1);
        if until_seq < from_seq {
            return Ok(Reader { walk: None, next_seq: from_seq, until_seq });
        }
        let layout = Layout::new(dir);
        let mut segments = layout.segments()?;
        let Some(index) = segments.partition_point(|&first| first <= from_seq).checked_sub(1) else {
            let damage = Damage::new(&layout.segment(from_seq), 0, from_seq, DamageKind::Missing);
            return Err(damage.into());
        };
        segments.drain(..index);
        let walk = ChainWalk::begin(&layout, segments)?;
        Ok(Reader { walk: Some(walk), next_seq: from_seq, until_seq })
    }

    /// The next record, borrowed from the reader's buffer.
    pub fn next_view(&mut self) -> Result<Option<RecordView<'_>>, ReadError> {
        if self.next_seq > self.until_seq {
            return Ok(None);
        }
        let Some(walk) = &mut self.walk else { return Ok(None) };
        let found = loop {
            match walk.step()? {
                WalkStep::Record(found) if found.prelude.seq < self.next_seq => {}
                WalkStep::Record(found) => break found,
                WalkStep::Stopped(stop) => {
                    let kind = match stop.cause {
                        StopCause::Bad(kind) => kind,
                        StopCause::EndOfLog | StopCause::NeverBegun if self.until_seq == u64::MAX => {
                            return Ok(None);
                        }
                        StopCause::EndOfLog | StopCause::NeverBegun => DamageKind::Missing,
                    };
                    let path = walk.layout().segment(walk.segments()[stop.segment]);
                    return Err(Damage::new(&path, stop.offset, stop.seq, kind).into());
                }
            }
        };
        self.next_seq += 1;
        walk.view(&found).map(Some)
    }
}

/// Owned records. After an error the stream is at its end.
impl Iterator for Reader {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_view().map(|view| view.map(|view| view.to_record())).transpose();
        if matches!(item, Some(Err(_))) {
            self.walk = None;
        }
        item
    }
}
