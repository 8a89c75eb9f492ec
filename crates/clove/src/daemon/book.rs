//! The kernel's book: each input and its outcome go to the journal before anything of it leaves.

use clove_journal::{Journal, Options, RecordRef};
use clove_kernel::{CORE_VERSION, Change, Core, Input, Peer, State};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a record says came of its input.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomeRecord<C> {
    pub changes: C,
}

/// What recovery found.
pub struct Opened {
    pub journal: Journal,
    pub core: Core,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// Records applied after the checkpoint.
    pub replayed: u64,
}

/// The journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error("the journal in {dir} can't be opened: {source}")]
    Open { dir: String, source: clove_journal::OpenError },
    #[error("the journal's record {seq} can't be read: {why}")]
    Record { seq: u64, why: String },
    #[error("the journal's checkpoint at record {seq} can't be read: {why}")]
    Checkpoint { seq: u64, why: String },
}

/// Opens the journal and brings the core to where it was: the checkpoint, then the outcomes after it.
pub fn open(dir: &Path, wall_ms: u64) -> Result<Opened, BookError> {
    let options = Options {
        core_version: format!("core {CORE_VERSION}"),
        created_wall_ms: wall_ms,
        ..Options::default()
    };
    let (journal, recovered) = Journal::open(dir, options)
        .map_err(|source| BookError::Open { dir: dir.display().to_string(), source })?;
    let state = match &recovered.checkpoint {
        Some(c) => State::from_checkpoint(&c.bytes)
            .map_err(|e| BookError::Checkpoint { seq: c.seq, why: e.to_string() })?,
        None => State::default(),
    };
    let mut core = Core::new(state);
    let mut replayed = 0;
    let mut seq = recovered.checkpoint.as_ref().map_or(0, |c| c.seq);
    for record in recovered.records {
        let record = record.map_err(|e| BookError::Record { seq: seq + 1, why: e.to_string() })?;
        seq = record.seq;
        let outcome: OutcomeRecord<Vec<Change>> = serde_json::from_slice(&record.outcome)
            .map_err(|e| BookError::Record { seq, why: e.to_string() })?;
        core.recover(&outcome.changes);
        replayed += 1;
    }
    let notes = recovered.warnings.iter().map(ToString::to_string).collect();
    Ok(Opened { journal, core, notes, replayed })
}

/// A record as it was appended.
pub struct Appended {
    pub seq: u64,
    /// What input and outcome take in the journal.
    pub bytes: usize,
    pub actor: String,
}

/// Appends one input and what came of it; the caller flushes.
pub fn append(
    journal: &mut Journal,
    input: &Input,
    mono_ns: u64,
    changes: &[Change],
) -> Result<Appended, String> {
    let actor = match &input.event {
        clove_kernel::Event::Call { peer: Peer::Operator { uid, pid, .. }, .. } => {
            format!("operator:{uid}:{pid}")
        }
        clove_kernel::Event::Call { peer: Peer::Agent(id), .. } => id.to_string(),
        _ => "kernel".to_owned(),
    };
    let kind = match &input.event {
        clove_kernel::Event::Call { call, .. } => call.sysno() as u16,
        _ => 0,
    };
    let body = serde_json::to_vec(input).map_err(|e| e.to_string())?;
    let outcome = serde_json::to_vec(&OutcomeRecord { changes }).map_err(|e| e.to_string())?;
    let record = RecordRef {
        wall_ms: input.wall_ms,
        mono_ns,
        kind,
        flags: 0,
        actor: &actor,
        input: &body,
        outcome: &outcome,
    };
    let seq = journal.append(&record).map_err(|e| e.to_string())?;
    Ok(Appended { seq, bytes: body.len() + outcome.len(), actor })
}

/// Runs the journal's inputs again from the beginning and compares the state with the one that the outcomes give.
/// `None` when the first records have been pruned; else the two hashes.
pub fn rerun(dir: &Path) -> Result<Option<(String, String)>, BookError> {
    let mut live = Core::default();
    let mut again = Core::default();
    let reader = match clove_journal::Reader::open(dir, 1, u64::MAX) {
        Ok(r) => r,
        Err(_) => return Ok(None),
    };
    let mut seq = 0;
    for record in reader {
        let record = record.map_err(|e| BookError::Record { seq: seq + 1, why: e.to_string() })?;
        seq = record.seq;
        let bad = |e: serde_json::Error| BookError::Record { seq, why: e.to_string() };
        let input: Input = serde_json::from_slice(&record.input).map_err(bad)?;
        let outcome: OutcomeRecord<Vec<Change>> = serde_json::from_slice(&record.outcome).map_err(bad)?;
        live.recover(&outcome.changes);
        again.handle(&input);
    }
    Ok(Some((live.state.hash(), again.state.hash())))
}
