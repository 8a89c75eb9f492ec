//! What came of an input besides the changes, in the form in which the journal keeps it: the answer by its digest, the
//! effects by their kind and target. Bodies aren't kept: what an answer said can be made again from the state.

use crate::effect::{Effect, ReplyTo};
use crate::input::{Event, Input};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How a call was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// SHA-256 of the reply's body, in hexadecimal.
    Ok(String),
    /// The error's code (`E0203`), and the SHA-256 of the whole error as JSON.
    Err(String, String),
}

/// One effect that was issued. Kinds are words, so that an older build can read those of a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// SHA-256 of the content that is asked for, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
    /// The call that this answers, when it isn't the input itself: one that had to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<(ConnId, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// The answer to an input's own call, and all other effects in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    pub reply: Option<Answer>,
    pub effects: Vec<Issued>,
}

impl Outgoing {
    /// Describes what an input issued.
    pub fn of(input: &Input, effects: &[Effect]) -> Outgoing {
        let own = match &input.event {
            Event::Call { conn, correlation, .. } => Some(ReplyTo { conn: *conn, correlation: *correlation }),
            _ => None,
        };
        let mut out = Outgoing::default();
        for e in effects {
            let (to, mut issued) = describe(e);
            if to.is_some() && to == own {
                if let (true, Some(answer)) = (out.reply.is_none(), issued.answer.take()) {
                    out.reply = Some(answer);
                    // A reply that needs nobody's help is wholly said by its digest.
                    if matches!(e, Effect::Reply { .. } | Effect::Fail { .. }) {
                        continue;
                    }
                }
            } else {
                issued.to = to.map(|t| (t.conn, t.correlation));
            }
            out.effects.push(issued);
        }
        out
    }

    /// Without the answers to calls that had waited: which calls wait isn't part of the journal, so running its inputs
    /// again can't give them.
    pub fn without_waiters(mut self) -> Outgoing {
        self.effects.retain(|e| e.to.is_none());
        self
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut s = String::with_capacity(64);
    for b in Sha256::digest(bytes) {
        let _ = write!(s, "{b:02x}");
    }
    s
}

fn describe(effect: &Effect) -> (Option<ReplyTo>, Issued) {
    let kind = |kind: &str| Issued { kind: kind.to_owned(), ..Issued::default() };
    let of_agent = |word: &str, agent: &AgentId| Issued { agent: Some(*agent), ..kind(word) };
    let of_run = |word: &str, run: &RunId| Issued { run: Some(*run), ..kind(word) };
    match effect {
        Effect::Reply { to, body, durable: _ } => {
            (Some(*to), Issued { answer: Some(Answer::Ok(sha256(body))), ..kind("reply") })
        }
        Effect::Fail { to, error } => {
            let body = serde_json::to_vec(error).unwrap_or_default();
            let answer = Answer::Err(error.code.to_string(), sha256(&body));
            (Some(*to), Issued { answer: Some(answer), ..kind("fail") })
        }
        Effect::Start { agent } => (None, of_agent("start", agent)),
        Effect::Assign { agent } => (None, of_agent("assign", agent)),
        Effect::Kill { agent } => (None, of_agent("kill", agent)),
        Effect::Signal { agent, signal } => {
            (None, Issued { signal: Some(*signal), ..of_agent("signal", agent) })
        }
        Effect::Forget { agent } => (None, of_agent("forget", agent)),
        Effect::ReadLogs { to, agent, .. } => (Some(*to), of_agent("read_logs", agent)),
        Effect::WriteStdin { to, agent, .. } => (Some(*to), of_agent("write_stdin", agent)),
        Effect::Resize { to, agent, .. } => (Some(*to), of_agent("resize", agent)),
        Effect::BlobPut { to, .. } => (Some(*to), kind("blob_put")),
        Effect::BlobGet { to, digest, .. } => {
            (Some(*to), Issued { blob: Some(digest.clone()), ..kind("blob_get") })
        }
        Effect::BlobStat { to, digest } => {
            (Some(*to), Issued { blob: Some(digest.clone()), ..kind("blob_stat") })
        }
        Effect::KernelInfo { to, .. } => (Some(*to), kind("kernel_info")),
        Effect::KernelHello { to, agent } => (Some(*to), Issued { agent: *agent, ..kind("kernel_hello") }),
        Effect::Templates { to } => (Some(*to), kind("templates")),
        Effect::Artifacts { to, run, task } => {
            (Some(*to), Issued { tasks: task.iter().copied().collect(), ..of_run("artifacts", run) })
        }
        Effect::Show { to, run } => (Some(*to), of_run("show", run)),
        Effect::Collect { to, run, body, tasks } => (
            Some(*to),
            Issued { tasks: tasks.clone(), answer: Some(Answer::Ok(sha256(body))), ..of_run("collect", run) },
        ),
        Effect::DropPayloads { run, tasks } => {
            (None, Issued { tasks: tasks.clone(), ..of_run("drop_payloads", run) })
        }
        Effect::RunEnded { run } => (None, of_run("run_ended", run)),
        Effect::Stop => (None, kind("stop")),
    }
}
