//! The walk over the records of many segments that checks every link of the chain.

use crate::chain::ChainHash;
use crate::damage::{Damage, DamageKind};
use crate::io_failure::IoFailure;
use crate::layout::Layout;
use crate::merkle::RunningRoot;
use crate::read_error::ReadError;
use crate::record::RecordView;
use crate::seal::Seal;
use crate::segment_scan::{Found, ScanStep, SegmentScan};
use crate::tail;

#[derive(Debug)]
pub(crate) struct ChainWalk {
    layout: Layout,
    /// First sequence numbers of the segments to walk, ascending.
    segments: Vec<u64>,
    at: usize,
    scan: SegmentScan,
    next_seq: u64,
    hash: ChainHash,
    root: RunningRoot,
    unsealed: Vec<Seal>,
    checks_padding: bool,
}

#[derive(Debug)]
pub(crate) enum WalkStep {
    Record(Found),
    /// Nothing more can be read here; whether that is the end, a torn tail or damage is for `tail` to say.
    Stopped(Stop),
}

#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// Index in the walked segments.
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
    pub(crate) cause: StopCause,
}

#[derive(Clone, Debug)]
pub(crate) enum StopCause {
    EndOfLog,
    Bad(DamageKind),
    /// The segment's header was never written.
    NeverBegun,
}

impl ChainWalk {
    /// Begin with the first of `segments`, which isn't empty.
    pub(crate) fn begin(layout: &Layout, segments: Vec<u64>) -> Result<ChainWalk, ReadError> {
        let first_seq = segments[0];
        let path = layout.segment(first_seq);
        let damage = |offset, kind| ReadError::from(Damage::new(&path, offset, first_seq, kind));
        let Some(scan) = SegmentScan::open(&path, first_seq)? else {
            return Err(damage(0, DamageKind::Header));
        };
        let hash = scan.header.prev_hash;
        if let Some(expected) = hash_before(layout, first_seq)?.filter(|&expected| expected != hash) {
            return Err(damage(16, DamageKind::ChainBroken { expected, found: hash }));
        }
        Ok(ChainWalk {
            layout: layout.clone(),
            segments,
            at: 0,
            scan,
            next_seq: first_seq,
            hash,
            root: RunningRoot::default(),
            unsealed: Vec::new(),
            checks_padding: false,
        })
    }

    /// Also demand that nothing but zeros follows the last record of a full segment.
    pub(crate) fn checking_padding(mut self) -> ChainWalk {
        self.checks_padding = true;
        self
    }

    pub(crate) fn step(&mut self) -> Result<WalkStep, ReadError> {
        loop {
            let step = self.scan.step().map_err(IoFailure::of("read", &self.scan.path))?;
            match step {
                ScanStep::Record(found) => return self.link(found).map(WalkStep::Record),
                ScanStep::Bad(kind) => return Ok(WalkStep::Stopped(self.stop(StopCause::Bad(kind)))),
                ScanStep::End => {
                    if self.segments.get(self.at + 1) != Some(&self.next_seq) || self.root.count() == 0 {
                        return Ok(WalkStep::Stopped(self.stop(StopCause::EndOfLog)));
                    }
                    if !self.enter_next()? {
                        let (segment, seq) = (self.at + 1, self.next_seq);
                        let cause = StopCause::NeverBegun;
                        return Ok(WalkStep::Stopped(Stop { segment, offset: 0, seq, cause }));
                    }
                }
            }
        }
    }

    pub(crate) fn view(&mut self, found: &Found) -> Result<RecordView<'_>, ReadError> {
        let path = self.scan.path.clone();
        match self.scan.view(found) {
            Ok(Some(view)) => Ok(view),
            Ok(None) => Err(Damage::new(&path, found.offset, found.prelude.seq, DamageKind::Short).into()),
            Err(error) => Err(IoFailure::new("read", &path, error).into()),
        }
    }

    fn link(&mut self, found: Found) -> Result<Found, ReadError> {
        let prelude = &found.prelude;
        let kind = if prelude.seq != self.next_seq {
            DamageKind::SequenceGap { found: prelude.seq }
        } else if prelude.prev_hash != self.hash {
            DamageKind::ChainBroken { expected: self.hash, found: prelude.prev_hash }
        } else {
            self.next_seq += 1;
            self.hash = found.hash;
            self.root.push(found.hash);
            return Ok(found);
        };
        Err(Damage::new(&self.scan.path, found.offset, self.next_seq, kind).into())
    }

    /// Leave a full segment for the next; `false` when the next was never begun, and then this one stays current.
    fn enter_next(&mut self) -> Result<bool, ReadError> {
        let path = self.layout.segment(self.next_seq);
        let Some(next) = SegmentScan::open(&path, self.next_seq)? else { return Ok(false) };
        if next.header.prev_hash != self.hash {
            let kind = DamageKind::ChainBroken { expected: self.hash, found: next.header.prev_hash };
            return Err(Damage::new(&path, 16, self.next_seq, kind).into());
        }
        let seal = self.seal_so_far();
        let seal_path = self.layout.seal(seal.first_seq);
        match Seal::load(&seal_path, seal.first_seq)? {
            None => self.unsealed.push(seal),
            Some(stored) => {
                if let Some(what) = seal.difference(&stored) {
                    let kind = DamageKind::SealMismatch { what };
                    return Err(Damage::new(&seal_path, 0, seal.first_seq, kind).into());
                }
            }
        }
        if self.checks_padding {
            let from = self.scan.offset();
            let dirty = tail::dirty_bytes(self.scan.window(), from);
            if dirty.map_err(IoFailure::of("read", &self.scan.path))? > 0 {
                return Err(Damage::new(&self.scan.path, from, self.next_seq, DamageKind::Padding).into());
            }
        }
        self.scan = next;
        self.at += 1;
        self.root = RunningRoot::default();
        Ok(true)
    }

    fn seal_so_far(&self) -> Seal {
        Seal {
            first_seq: self.segments[self.at],
            count: self.root.count(),
            prev_hash: self.scan.header.prev_hash,
            last_hash: self.hash,
            root: self.root.root(),
        }
    }

    fn stop(&self, cause: StopCause) -> Stop {
        Stop { segment: self.at, offset: self.scan.offset(), seq: self.next_seq, cause }
    }

    /// Index of the segment that the walk is in.
    pub(crate) fn segment(&self) -> usize {
        self.at
    }

    pub(crate) fn segments(&self) -> &[u64] {
        &self.segments
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn scan(&mut self) -> &mut SegmentScan {
        &mut self.scan
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Hash of the record before `next_seq`.
    pub(crate) fn hash(&self) -> ChainHash {
        self.hash
    }

    pub(crate) fn root(&self) -> &RunningRoot {
        &self.root
    }

    /// Seals of the full segments that have none on disk.
    pub(crate) fn take_unsealed(&mut self) -> Vec<Seal> {
        std::mem::take(&mut self.unsealed)
    }
}

/// What the first record of a segment must name as the hash before it, where that can be known without reading the
/// segments before: from the seal before, or because the chain begins here.
fn hash_before(layout: &Layout, first_seq: u64) -> Result<Option<ChainHash>, ReadError> {
    if first_seq == 1 {
        return Ok(Some(ChainHash::ZERO));
    }
    let seals = layout.seals()?;
    let Some(&before) = seals.iter().rfind(|&&seal| seal < first_seq) else { return Ok(None) };
    let seal = Seal::load(&layout.seal(before), before)?;
    Ok(seal.filter(|seal| seal.last_seq() + 1 == first_seq).map(|seal| seal.last_hash))
}
