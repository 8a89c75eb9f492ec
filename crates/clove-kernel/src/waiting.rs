//! Calls that wait for something to happen, and their answers once it has.

use crate::core::{Tx, json};
use crate::effect::{Effect, ReplyTo};
use crate::view;
use clove_abi::calls::*;
use clove_abi::ids::{AgentId, ConnId, RunId};
use clove_abi::run::{RunKind, RunState};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Tasks in one answer of `run.watch` or `run.collect`.
const PAGE: usize = 1_000;
/// Bytes of opaque results in one answer of `run.collect`.
const COLLECT_BYTES: u64 = 32 << 20;
/// Waiting calls of all connections together.
pub const MAX_WAITING: usize = 100_000;

/// What one call waits for.
#[derive(Clone, Debug)]
pub enum WaitFor {
    AgentEnd(AgentId),
    RunChange { run: RunId, since: u64 },
    Collect { run: RunId, since: u64 },
}

/// One waiting call.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub to: ReplyTo,
    pub what: WaitFor,
    /// Monotonic; answered empty then.
    pub deadline_mono_ms: Option<u64>,
}

/// All waiting calls.
#[derive(Debug, Default)]
pub struct Waiting {
    waiters: Vec<Waiter>,
    spawns: BTreeMap<AgentId, ReplyTo>,
}

impl Waiting {
    /// Adds a call. False when there are too many already.
    pub fn add(&mut self, w: Waiter) -> bool {
        if self.waiters.len() >= MAX_WAITING {
            return false;
        }
        self.waiters.push(w);
        true
    }

    /// `proc.spawn` waits for its agent to be ready.
    pub fn add_spawn(&mut self, agent: AgentId, to: ReplyTo) {
        self.spawns.insert(agent, to);
    }

    /// The `proc.spawn` call that waits for this agent.
    pub fn take_spawn(&mut self, agent: AgentId) -> Option<ReplyTo> {
        self.spawns.remove(&agent)
    }

    /// Its connection is gone.
    pub fn forget(&mut self, conn: ConnId) {
        self.waiters.retain(|w| w.to.conn != conn);
        self.spawns.retain(|_, to| to.conn != conn);
    }

    /// The next time at which a call is answered empty.
    pub fn next_deadline(&self) -> Option<u64> {
        self.waiters.iter().filter_map(|w| w.deadline_mono_ms).min()
    }
}

/// Answers every waiting call that can be answered now.
pub fn answer(tx: &mut Tx<'_>) {
    if tx.waiting.waiters.is_empty() {
        return;
    }
    let waiters = std::mem::take(&mut tx.waiting.waiters);
    let mut still = Vec::with_capacity(waiters.len());
    for w in waiters {
        let expired = w.deadline_mono_ms.is_some_and(|d| d <= tx.mono_ms);
        match answer_one(tx, &w, expired) {
            Some(e) => tx.effect(e),
            None => still.push(w),
        }
    }
    tx.waiting.waiters.extend(still);
}

/// The answer to a call that may wait, if there is one already.
pub fn answer_one(tx: &mut Tx<'_>, w: &Waiter, expired: bool) -> Option<Effect> {
    let to = w.to;
    match w.what {
        WaitFor::AgentEnd(id) => {
            let a = tx.state.agent(id);
            let certificate = a.and_then(|a| a.certificate.as_deref().cloned());
            if certificate.is_none() && !expired && a.is_some() {
                return None;
            }
            let code = certificate.as_ref().map(clove_abi::Certificate::shell_code);
            let body = json(&ProcWaitReply { certificate, code });
            Some(Effect::Reply { to, body, durable: false })
        }
        WaitFor::RunChange { run, since } => {
            let Some(r) = tx.state.runs.get(&run) else {
                return Some(Effect::Fail { to, error: view::no_run(run) });
            };
            if r.version <= since && !expired && r.state == RunState::Active {
                return None;
            }
            let mut version = r.version;
            let mut tasks = Vec::new();
            let mut page = view::Page::new(PAGE);
            for (v, i) in r.by_change.range((Bound::Excluded(since), Bound::Unbounded)) {
                if !r.tasks.get(i).is_none_or(|t| page.takes(t, false)) {
                    version = v - 1;
                    break;
                }
                tasks.push(view::task(tx.state, r, *i, false));
            }
            let body = json(&RunWatchReply { version, info: view::run(tx.state, r), tasks });
            Some(Effect::Reply { to, body, durable: r.spec.kind == RunKind::Sweep })
        }
        WaitFor::Collect { run, since } => {
            let Some(r) = tx.state.runs.get(&run) else {
                return Some(Effect::Fail { to, error: view::no_run(run) });
            };
            let (mut tasks, mut indexes, mut bytes) = (Vec::new(), Vec::new(), 0u64);
            let mut version = r.version;
            let mut page = view::Page::new(PAGE);
            for (v, i) in r.by_change.range((Bound::Excluded(since), Bound::Unbounded)) {
                let Some(t) = r.tasks.get(i) else { continue };
                if !t.state.is_final() {
                    continue;
                }
                let too_much = bytes + t.opaque.bytes > COLLECT_BYTES && !tasks.is_empty();
                if too_much || !page.takes(t, true) {
                    version = v - 1;
                    break;
                }
                bytes += t.opaque.bytes;
                tasks.push(view::task(tx.state, r, *i, true));
                indexes.push(*i);
            }
            let over = r.state != RunState::Active;
            if tasks.is_empty() && !expired && !over {
                return None;
            }
            let finished = over && version == r.version;
            let body = json(&RunCollectReply { version, tasks, finished });
            Some(Effect::Collect { to, run, body, tasks: indexes })
        }
    }
}
