//! The kernel's book: each input and its outcome go to the journal before anything of it leaves.

use clove_journal::{Journal, Options, RecordRef};
use clove_kernel::{Answer, CORE_VERSION, Change, Core, Effect, Input, Issued, Outgoing, Peer, State};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a record says came of its input.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomeRecord<C> {
    pub changes: C,
    /// How the input's own call was answered, if it was answered at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Answer>,
    /// What was issued besides, in order. Absent in records of builds that didn't note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<Vec<Issued>>,
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
    #[error(transparent)]
    Open(#[from] clove_journal::OpenError),
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
    let (journal, recovered) = Journal::open(dir, options)?;
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
    effects: &[Effect],
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
    let Outgoing { reply, effects } = Outgoing::of(input, effects);
    let outcome = serde_json::to_vec(&OutcomeRecord { changes, reply, effects: Some(effects) })
        .map_err(|e| e.to_string())?;
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

/// What running the journal's inputs again gave.
#[derive(Debug)]
pub struct Rerun {
    /// The state's hash when the recorded changes are applied.
    pub applied: String,
    /// The state's hash when the inputs are handled again.
    pub again: String,
    /// The first record whose answer or effects came out otherwise.
    pub differs: Option<Divergence>,
}

/// Where running an input again gave something else.
#[derive(Debug)]
pub struct Divergence {
    pub seq: u64,
    /// As recorded, and as it came now.
    pub recorded: String,
    pub again: String,
}

/// Runs the journal's inputs again from the beginning and compares what comes of them with what was recorded: answers
/// and effects of each record, and the state at the end. `None` when the first records have been pruned.
pub fn rerun(dir: &Path) -> Result<Option<Rerun>, BookError> {
    let mut live = Core::default();
    let mut again = Core::default();
    let mut differs = None;
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
        let now = again.handle(&input);
        if let (None, Some(effects)) = (&differs, outcome.effects) {
            let recorded = Outgoing { reply: outcome.reply, effects }.without_waiters();
            let now = Outgoing::of(&input, &now.effects).without_waiters();
            if recorded != now {
                let (recorded, again) = (format!("{recorded:?}"), format!("{now:?}"));
                differs = Some(Divergence { seq, recorded, again });
            }
        }
    }
    Ok(Some(Rerun { applied: live.state.hash(), again: again.state.hash(), differs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clove_abi::calls::RunSubmit;
    use clove_abi::ids::ConnId;
    use clove_abi::table::Call;
    use clove_kernel::{Event, Tail};

    fn open_in(dir: &Path) -> Journal {
        open(dir, 1).expect("journal").journal
    }

    fn submit() -> Input {
        let peer = Peer::Operator { uid: 0, pid: 7, command: "test".into() };
        let args =
            serde_json::json!({"spec": {"kind": "sweep", "name": "s", "program": {"cold": {"argv": ["x"]}}}});
        let call = Call::RunSubmit(serde_json::from_value::<RunSubmit>(args).expect("arguments"));
        let event = Event::Call { conn: ConnId(1), correlation: 5, peer, call, tail: Tail::default() };
        Input { wall_ms: 2, mono_ms: 2, event }
    }

    fn boot() -> Input {
        let defaults = State::default().defaults;
        Input { wall_ms: 1, mono_ms: 1, event: Event::Boot { capacity_bytes: 1 << 30, cpus: 2, defaults } }
    }

    /// A boot and a call; `falsify` may rewrite what the core issued for the call before it is recorded.
    fn record(dir: &Path, falsify: impl FnOnce(&mut Vec<Effect>)) {
        let mut journal = open_in(dir);
        let mut core = Core::default();
        let first = core.handle(&boot());
        append(&mut journal, &boot(), 0, &first.changes, &first.effects).expect("append");
        let mut second = core.handle(&submit());
        assert!(!second.effects.is_empty());
        falsify(&mut second.effects);
        append(&mut journal, &submit(), 0, &second.changes, &second.effects).expect("append");
        journal.flush().expect("flush");
    }

    #[test]
    fn a_record_holds_the_answers_digest_and_running_it_again_gives_the_same() {
        let dir = tempfile::tempdir().expect("folder");
        record(dir.path(), |_| {});
        let last = clove_journal::Reader::open(dir.path(), 2, u64::MAX).expect("reader").next();
        let last = last.expect("two records").expect("whole");
        let outcome: OutcomeRecord<serde_json::Value> =
            serde_json::from_slice(&last.outcome).expect("outcome");
        assert!(matches!(outcome.reply, Some(Answer::Ok(d) | Answer::Err(_, d)) if d.len() == 64));
        let r = rerun(dir.path()).expect("readable").expect("from the first record");
        assert!(r.differs.is_none() && r.applied == r.again, "{r:?}");
    }

    #[test]
    fn an_answer_that_differs_from_what_was_recorded_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        record(dir.path(), |effects| {
            for e in effects {
                if let Effect::Reply { body, .. } = e {
                    *body = b"{}".to_vec();
                }
                if let Effect::Fail { error, .. } = e {
                    error.message.push('!');
                }
            }
        });
        let r = rerun(dir.path()).expect("readable").expect("from the first record");
        assert_eq!(r.differs.map(|d| d.seq), Some(2));
    }

    #[test]
    fn records_without_answer_and_effects_stay_readable() {
        let old: OutcomeRecord<Vec<Change>> = serde_json::from_str(r#"{"changes": []}"#).expect("outcome");
        assert!(old.reply.is_none() && old.effects.is_none());
    }
}
