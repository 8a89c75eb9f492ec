//! The judgement on what lies behind the last readable record.

use std::fs::File;
use std::io;

use crate::chain_walk::{ChainWalk, Stop, StopCause};
use crate::damage::{Damage, DamageKind};
use crate::format::RECORD_PRELUDE_BYTES;
use crate::io_failure::IoFailure;
use crate::read_error::ReadError;
use crate::record::Prelude;
use crate::segment_scan::SegmentScan;
use crate::window::Window;

/// Bytes searched at a time for the journal's mark.
const SEARCH_BYTES: usize = 128 << 10;

/// What may be cut off: written, never acknowledged as durable, and no longer whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Torn {
    /// Bytes that aren't zero behind the last readable record, to the last such byte.
    pub(crate) bytes: u64,
    /// Intact records among them, behind a hole.
    pub(crate) records: u64,
    /// Segments that go as a whole.
    pub(crate) segments: Vec<u64>,
}

/// What is known besides the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    /// The machine hasn't been booted since the journal was last opened: pages can't have been lost.
    pub(crate) same_boot: bool,
    /// Up to here everything is known to have been durable (from a checkpoint).
    pub(crate) durable_seq: u64,
}

/// Judge the place where `walk` stopped. A torn tail is what a crash leaves: the end of the last write is missing, or,
/// when power was lost, any pages of writes that no fdatasync had covered. It's damage when something proves that the
/// bytes were whole before: later records while the machine kept running, later records that say this one was durable,
/// a seal, or a checkpoint.
pub(crate) fn judge(walk: &mut ChainWalk, stop: &Stop, witness: Witness) -> Result<Torn, ReadError> {
    let layout = walk.layout().clone();
    let segments: Vec<u64> = walk.segments().to_vec();
    let mark = walk.scan().header.mark;
    let mut torn = Torn { bytes: 0, records: 0, segments: segments[walk.segment() + 1..].to_vec() };
    let mut durable_seq = 0;
    let mut a_later_one_begun = false;
    for (index, &first_seq) in segments.iter().enumerate().skip(stop.segment) {
        let path = layout.segment(first_seq);
        let file = File::open(&path).map_err(IoFailure::of("open", &path))?;
        let mut window = Window::new(file);
        let from = if index == stop.segment { stop.offset } else { 0 };
        let behind = search(&mut window, from, mark, stop.seq).map_err(IoFailure::of("read", &path))?;
        torn.records += behind.records;
        durable_seq = durable_seq.max(behind.durable_seq);
        torn.bytes += dirty_bytes(&mut window, from).map_err(IoFailure::of("read", &path))?;
        // A header that can't be read is damage already here: its bytes were written in one sector.
        if index > stop.segment && SegmentScan::open(&path, first_seq)?.is_some() {
            a_later_one_begun = true;
        }
    }
    let sealed = layout.seals()?.last().is_some_and(|&last| last >= segments[stop.segment]);
    let behind_in_order = witness.same_boot && (torn.records > 0 || a_later_one_begun);
    if behind_in_order || sealed || durable_seq >= stop.seq || witness.durable_seq >= stop.seq {
        let next_segment = segments.get(stop.segment + 1);
        let kind = match (&stop.cause, next_segment) {
            (StopCause::Bad(kind), _) => kind.clone(),
            (StopCause::NeverBegun, _) => DamageKind::Header,
            (StopCause::EndOfLog, _) if torn.records > 0 => {
                DamageKind::RecordsBehind { records: torn.records, what: "zeros" }
            }
            (StopCause::EndOfLog, Some(&found)) => DamageKind::MissingSegment { found },
            (StopCause::EndOfLog, None) if witness.durable_seq >= stop.seq => {
                DamageKind::CheckpointAhead { checkpoint: witness.durable_seq }
            }
            (StopCause::EndOfLog, None) => DamageKind::Missing,
        };
        return Err(Damage::new(&layout.segment(segments[stop.segment]), stop.offset, stop.seq, kind).into());
    }
    Ok(torn)
}

struct Behind {
    records: u64,
    durable_seq: u64,
}

/// Find intact records at any byte from `from` on. They carry the journal's secret mark, so bytes that an agent
/// planted in a payload aren't taken for records, nor can they make this search slow.
fn search(window: &mut Window, from: u64, mark: u32, min_seq: u64) -> io::Result<Behind> {
    let mark = mark.to_le_bytes();
    let mut behind = Behind { records: 0, durable_seq: 0 };
    let mut at = from;
    while let Some(data) = window.next_data(at)? {
        at = at.max(data);
        let bytes = window.bytes(at, SEARCH_BYTES)?;
        if bytes.len() < RECORD_PRELUDE_BYTES {
            break;
        }
        // The mark is at byte 8 of a record; only starts whose whole prelude is in view are tried.
        let starts = bytes.len() - RECORD_PRELUDE_BYTES + 1;
        let Some(start) = bytes[8..].windows(4).take(starts).position(|four| four == mark) else {
            at += starts as u64;
            continue;
        };
        let prelude = Prelude::decode(&bytes[start..]);
        at += start as u64;
        if let Some(total) = prelude.total_bytes().filter(|_| prelude.seq >= min_seq) {
            let encoded = window.bytes(at, total)?;
            if encoded.len() == total && prelude.is_intact(encoded) {
                behind.records += 1;
                behind.durable_seq = behind.durable_seq.max(prelude.durable_seq);
                at += total as u64;
                continue;
            }
        }
        at += 1;
    }
    Ok(behind)
}

/// How far behind `from` the last byte lies that isn't zero; 0 when there is none.
pub(crate) fn dirty_bytes(window: &mut Window, from: u64) -> io::Result<u64> {
    let mut end = from;
    let mut at = from;
    while let Some(data) = window.next_data(at)? {
        at = at.max(data);
        let bytes = window.chunk(at)?;
        if bytes.is_empty() {
            break;
        }
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += bytes.len() as u64;
    }
    Ok(end - from)
}
