//! The core itself: takes an input, changes the state, says what is to be done.

use crate::change::Change;
use crate::effect::{Effect, ReplyTo};
use crate::input::{Event, Input, Peer, Tail};
use crate::state::State;
use crate::waiting::Waiting;
use crate::{lifecycle, scheduler};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::ConnId;
use clove_abi::table::{Call, From, Spec};
use serde::Serialize;

/// What one input led to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
}

/// The deterministic kernel.
#[derive(Debug, Default)]
pub struct Core {
    pub state: State,
    /// Calls that wait for something. Belongs to connections, so it isn't part of the recoverable state.
    pub waiting: Waiting,
}

/// One input being handled: reads the state, changes it only through [`Tx::change`].
pub struct Tx<'a> {
    pub state: &'a mut State,
    pub waiting: &'a mut Waiting,
    pub wall_ms: u64,
    pub mono_ms: u64,
    outcome: Outcome,
}

/// Who called, and where the answer goes.
#[derive(Clone, Debug)]
pub struct Caller {
    pub to: ReplyTo,
    pub peer: Peer,
    pub tail: Tail,
}

impl Caller {
    /// The connection that the call came on.
    pub fn conn(&self) -> ConnId {
        self.to.conn
    }
}

/// What a handler decided about its own reply.
pub enum Decision {
    /// Answer now.
    Reply(Vec<u8>),
    /// Answered by an effect, or later by an event.
    Later,
}

impl Decision {
    /// An answer now.
    pub fn reply<T: Serialize>(body: &T) -> Decision {
        Decision::Reply(json(body))
    }
}

/// A reply's body. Replies are made of plain structs, which always have a JSON form.
pub fn json<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec())
}

/// For a call that isn't its caller's.
pub fn not_permitted(spec: &Spec) -> SysError {
    let who = if spec.from == From::Operator { "an operator" } else { "an agent" };
    SysError::new(ErrorCode::NotPermitted, format!("{} may only be called by {who}", spec.name))
}

impl Tx<'_> {
    /// Applies a change and notes it for the journal.
    pub fn change(&mut self, c: Change) {
        self.state.apply(&c);
        self.outcome.changes.push(c);
    }

    /// Asks for an effect.
    pub fn effect(&mut self, e: Effect) {
        self.outcome.effects.push(e);
    }

    /// Answers a call.
    pub fn reply<T: Serialize>(&mut self, to: ReplyTo, body: &T, durable: bool) {
        self.effect(Effect::Reply { to, body: json(body), durable });
    }
}

impl Core {
    /// A core that goes on from a recovered state.
    pub fn new(state: State) -> Core {
        Core { state, waiting: Waiting::default() }
    }

    /// Handles one input. Total: no input makes it panic.
    pub fn handle(&mut self, input: &Input) -> Outcome {
        let mut tx = Tx {
            state: &mut self.state,
            waiting: &mut self.waiting,
            wall_ms: input.wall_ms,
            mono_ms: input.mono_ms,
            outcome: Outcome::default(),
        };
        match &input.event {
            Event::Call { conn, correlation, peer, call, tail } => {
                let to = ReplyTo { conn: *conn, correlation: *correlation };
                let caller = Caller { to, peer: peer.clone(), tail: tail.clone() };
                let spec = call.sysno().spec();
                let allowed = match (spec.from, peer) {
                    (From::Any, _)
                    | (From::Operator, Peer::Operator { .. })
                    | (From::Agent, Peer::Agent(_)) => true,
                    (From::Operator, Peer::Agent(_)) | (From::Agent, Peer::Operator { .. }) => false,
                };
                let decision =
                    if allowed { dispatch(&mut tx, &caller, call) } else { Err(not_permitted(spec)) };
                match decision {
                    Ok(Decision::Reply(body)) => tx.effect(Effect::Reply { to, body, durable: spec.durable }),
                    Ok(Decision::Later) => {}
                    Err(error) => tx.effect(Effect::Fail { to, error }),
                }
            }
            Event::Boot { capacity_bytes, cpus, defaults } => {
                lifecycle::boot(&mut tx, *capacity_bytes, *cpus, defaults);
            }
            Event::Gone { conn } => lifecycle::gone(&mut tx, *conn),
            Event::Ready { agent, pid, missing_walls, missing_limits } => {
                lifecycle::ready(&mut tx, *agent, *pid, missing_walls, missing_limits);
            }
            Event::SpawnFailed { agent, stage, message, hint, code } => {
                lifecycle::spawn_failed(&mut tx, *agent, stage, message, hint, *code);
            }
            Event::Exited { agent, status, usage, output_tail, output_dropped, result, result_error } => {
                let end = lifecycle::End {
                    status: *status,
                    usage,
                    output_tail,
                    output_dropped: *output_dropped,
                    result: result.as_ref(),
                    result_error: result_error.as_deref(),
                };
                lifecycle::exited(&mut tx, *agent, &end);
            }
            Event::TemplateFailed { run, message } => lifecycle::template_failed(&mut tx, *run, message),
            Event::Timer => lifecycle::timer(&mut tx),
        }
        if !tx.outcome.changes.is_empty() {
            scheduler::schedule(&mut tx);
        }
        if !tx.outcome.changes.is_empty() || matches!(input.event, Event::Timer) {
            crate::waiting::answer(&mut tx);
        }
        tx.outcome
    }

    /// The next moment, on the monotonic clock, at which [`Event::Timer`] is wanted.
    pub fn next_deadline(&self) -> Option<u64> {
        let agents = self.state.live().filter_map(|a| a.deadline_mono_ms).min();
        let backoff = self
            .state
            .runs
            .values()
            .filter(|r| r.state == clove_abi::run::RunState::Active)
            .filter_map(|r| r.backoff.first().map(|b| b.0))
            .min();
        [agents, backoff, self.waiting.next_deadline()].into_iter().flatten().min()
    }

    /// Applies journaled changes, as recovery does.
    pub fn recover<'c>(&mut self, changes: impl IntoIterator<Item = &'c Change>) {
        for c in changes {
            self.state.apply(c);
        }
    }
}

macro_rules! derive_dispatch {
    ($( $family:ident { $( $(#[doc = $d:literal])* $n:literal $verb:ident $Args:ident -> $Reply:ident { $($traits:tt)* } )* } )*) => {
        /// One arm for each row of the table: `calls::FAMILY::VERB::handle`.
        fn dispatch(tx: &mut Tx<'_>, caller: &Caller, call: &Call) -> Result<Decision, SysError> {
            match call { $($( Call::$Args(args) => crate::calls::$family::$verb::handle(tx, caller, args), )*)* }
        }
    };
}
clove_abi::syscall_table!(derive_dispatch);
