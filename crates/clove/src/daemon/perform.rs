//! Carries out the core's effects.

use super::allowance::Hold;
use super::blobs;
use super::connection::{Bytes, Who};
use super::harvest;
use super::intake::blob_cost;
use super::shell::Shell;
use clove_abi::calls::*;
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::run::RunState;
use clove_kernel::core::json;
use clove_kernel::effect::{LogStream, ReplyTo};
use clove_kernel::{Effect, view};
use std::path::PathBuf;
use std::sync::Arc;

impl Shell {
    /// Carries out one effect. Its record has been written.
    pub fn perform(&mut self, e: Effect) {
        match e {
            Effect::Reply { to, body, durable: false } => self.reply(to, &body),
            Effect::Reply { to, body, durable: true } => self.reply_durable(to, &body),
            Effect::Fail { to, error } => self.fail(to, &error),
            Effect::Start { agent } => self.start_agent(agent),
            Effect::Assign { agent } => self.assign_worker(agent),
            Effect::Kill { agent } => self.kill_agent(agent),
            Effect::Signal { agent, signal } => self.signal_agent(agent, signal),
            Effect::Forget { agent } => self.logs.forget(&agent.to_string()),
            Effect::ReadLogs { to, agent, offset, max, follow, stream } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.tickets.insert(ticket, to);
                let stream = match stream {
                    LogStream::Out => super::logs::Stream::Out,
                    LogStream::Err => super::logs::Stream::Err,
                    LogStream::Both => super::logs::Stream::Both,
                };
                let ended = self.core.state.agent(agent).is_none_or(|a| a.state == AgentState::Ended);
                self.logs.read(super::logs::Wanted {
                    ticket,
                    agent: agent.to_string(),
                    stream,
                    offset,
                    max,
                    follow: follow && !ended,
                    pid: self.operator_pid(to.conn),
                });
            }
            Effect::WriteStdin { to, agent, tail_key, eof } => {
                let bytes = self.opaque.remove(tail_key).map(Arc::unwrap_or_clone).unwrap_or_default();
                self.write_stdin(to, agent, bytes, eof);
            }
            Effect::Resize { to, agent, rows, columns } => self.resize(to, agent, rows, columns),
            Effect::BlobPut { to, tail_key } => {
                if let Some(incoming) = self.incoming.remove(&tail_key) {
                    self.store_blob(to, incoming);
                }
            }
            Effect::BlobGet { to, digest, offset, max } => self.blob_get(to, digest, offset, max),
            Effect::BlobStat { to, digest } => self.blob_stat(to, digest),
            Effect::KernelHello { to, agent } => {
                let idle = self.core.state.live().next().is_none()
                    && self.connections.len() <= 1
                    && !self.core.state.runs.values().any(|r| r.state == RunState::Active);
                let body = KernelHelloReply {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    build: clove_client::build_id().to_owned(),
                    abi: clove_abi::ABI_VERSION,
                    pid: std::process::id(),
                    agent,
                    idle,
                };
                self.reply(to, &json(&body));
            }
            Effect::KernelInfo { to, state_hash } => self.kernel_info(to, state_hash),
            Effect::Templates { to } => self.list_templates(to),
            Effect::Artifacts { to, run, task } => {
                let mut folder = self.run_folder(run).join("out");
                if let Some(t) = task {
                    folder.push(t.to_string());
                }
                self.reply(to, &json(&RunArtifactsReply { folder: folder.display().to_string() }));
            }
            Effect::Show { to, run } => self.show(to, run),
            Effect::Collect { to, run, body, tasks } => self.collect(to, run, &body, &tasks),
            Effect::DropPayloads { run, tasks } => {
                // The core has forgotten the tasks, so their keys come from the effect's own list.
                for t in tasks {
                    if let Some(keys) = self.payload_keys.remove(&(run, t)) {
                        for k in keys {
                            self.opaque.remove(k);
                        }
                    }
                }
            }
            Effect::RunEnded { run } => self.run_ended(run),
            Effect::Stop => self.stop(),
        }
    }

    /// The process that an agent is attached to: it is to get all of the output, also what isn't kept.
    pub fn log_owner(&self, id: AgentId) -> Option<super::logs::Owner> {
        let conn = self.core.state.agent(id)?.attached?;
        self.connections
            .contains_key(&conn)
            .then(|| super::logs::Owner { conn: conn.0, pid: self.operator_pid(conn) })
    }

    fn operator_pid(&self, conn: ConnId) -> u32 {
        match self.connections.get(&conn).map(|c| &c.who) {
            Some(Who::Operator { pid, .. }) => *pid,
            _ => 0,
        }
    }

    /// What a run keeps on disk.
    pub fn run_folder(&self, run: RunId) -> PathBuf {
        self.data_dir.join("runs").join(run.to_string())
    }

    /// Where blobs lie.
    pub fn blob_folder(&self) -> PathBuf {
        self.data_dir.join("blobs")
    }

    fn kernel_info(&mut self, to: ReplyTo, state_hash: bool) {
        let s = &self.core.state;
        let body = KernelInfoReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: clove_client::build_id().to_owned(),
            pid: std::process::id(),
            launcher_pid: self.launcher_pid,
            data_dir: self.data_dir.display().to_string(),
            socket: self.socket.display().to_string(),
            started_ms: self.started_wall_ms,
            started_by: self.started_by.clone(),
            cgroup_backend: self.backend.clone(),
            capacity_bytes: s.capacity_bytes,
            reserved_bytes: s.reserved_bytes,
            cpus: s.cpus,
            agents: s.live().count() as u32,
            runs_active: s.runs.values().filter(|r| r.state == RunState::Active).count() as u32,
            default_limits: s.defaults.clone(),
            journal_seq: self.journal.head().seq,
            durable_seq: self.durable_seq,
            calls: self.calls,
            state_hash: state_hash.then(|| s.hash()),
        };
        self.reply(to, &json(&body));
    }

    fn show(&mut self, to: ReplyTo, run: RunId) {
        let Some(r) = self.core.state.runs.get(&run) else { return self.fail(to, &view::no_run(run)) };
        let mut body = view::show(&self.core.state, r, self.wall_clock.now_ms());
        let folder = self.run_folder(run);
        self.drivers.run(
            move || {
                body.disk_bytes = harvest::folder_bytes(&folder);
                json(&body)
            },
            move |shell, body| shell.reply_durable(to, &body),
        );
    }

    fn collect(&mut self, to: ReplyTo, run: RunId, body: &[u8], tasks: &[TaskIndex]) {
        let mut tail = Vec::new();
        if self.connections.get(&to.conn).is_some_and(|c| c.account.is_full()) {
            let text = "more than can be kept of what this process was answered is unread";
            return self
                .fail(to, &SysError::new(ErrorCode::Full, text).hint("read the answers, then ask again"));
        }
        if let Some(r) = self.core.state.runs.get(&run) {
            let keys = tasks.iter().filter_map(|i| r.tasks.get(i)).map(|t| t.opaque.key);
            tail.extend(keys.filter_map(|k| self.opaque.get(k)).map(|b| Bytes::Shared(b.clone())));
        }
        self.reply_with(to, body, tail);
    }

    /// Stores a blob on a driver.
    fn store_blob(&mut self, to: ReplyTo, incoming: blobs::Incoming) {
        let dir = self.blob_folder();
        let blobs::Incoming { source, token, hold } = incoming;
        if let Some(cell) = token.and_then(|t| self.cells.get_mut(&t)) {
            cell.blob_bytes += blob_cost(source.bytes());
        }
        self.drivers.run(
            move || {
                let stored = blobs::put(&dir, source);
                drop(hold);
                stored
            },
            move |shell, stored| match stored {
                Ok((digest, bytes)) => {
                    if let Some(cell) = token.and_then(|t| shell.cells.get_mut(&t)) {
                        cell.blobs.insert(digest.clone());
                    }
                    shell.reply(to, &json(&BlobPutReply { digest, bytes }));
                }
                Err(e) => shell
                    .fail(to, &SysError::new(ErrorCode::BlobStore, format!("the blob can't be stored: {e}"))),
            },
        );
    }

    /// What a call for a driver holds until it is done; nothing when nobody waits for it any more.
    fn held_by(&mut self, to: ReplyTo) -> Option<Hold> {
        self.connections.get_mut(&to.conn).map(|c| c.claim(to.correlation).unwrap_or_default())
    }

    fn blob_stat(&mut self, to: ReplyTo, digest: String) {
        let (Some(hold), dir) = (self.held_by(to), self.blob_folder()) else { return };
        self.drivers.run(
            move || {
                let found = blobs::stat(&dir, &digest);
                drop(hold);
                (digest, found)
            },
            move |shell, (digest, found)| match found {
                Ok(Some(bytes)) => shell.reply(to, &json(&BlobStatReply { bytes })),
                Ok(None) => shell.fail(to, &no_blob(&digest)),
                Err(e) => shell.fail(to, &unreadable(&e)),
            },
        );
    }

    fn blob_get(&mut self, to: ReplyTo, digest: String, offset: u64, max: u64) {
        let (Some(hold), dir) = (self.held_by(to), self.blob_folder()) else { return };
        self.drivers.run(
            move || {
                let got = blobs::get(&dir, &digest, offset, max);
                (digest, got, hold)
            },
            move |shell, (digest, got, hold)| {
                match got {
                    Ok(Some((bytes, whole))) => {
                        shell.reply_with(to, &json(&BlobGetReply { bytes: whole }), vec![Bytes::Own(bytes)]);
                    }
                    Ok(None) => shell.fail(to, &no_blob(&digest)),
                    Err(e) => shell.fail(to, &unreadable(&e)),
                }
                // From here on its connection accounts for what is unsent.
                drop(hold);
            },
        );
    }

    /// The run is over: its templates and waiting embryos go, its owner's command runs.
    fn run_ended(&mut self, run: RunId) {
        self.release_templates(run);
        let Some(r) = self.core.state.runs.get(&run) else { return };
        if r.spec.kind == clove_abi::run::RunKind::Executor {
            // Results stay until the owner is gone or has closed; inputs aren't needed any more.
            let inputs: Vec<u64> = r.tasks.values().map(|t| t.payload.key).collect();
            for k in inputs {
                self.opaque.remove(k);
            }
            if r.spec.attached && !self.sessions.contains_key(&run) {
                self.forget_opaque(run);
            }
        }
        let Some(r) = self.core.state.runs.get(&run) else { return };
        if let Some(command) = r.spec.notify.clone() {
            let info = view::run(&self.core.state, r);
            let word = serde_json::to_value(info.state).ok();
            let word = word.as_ref().and_then(|v| v.as_str()).unwrap_or("ended");
            // It tells somebody: what it says must stay so.
            let word = word.to_owned();
            self.syncer.once_durable(move |_| super::notify::run(&command, &info, &word));
        }
    }
}

fn unreadable(e: &std::io::Error) -> SysError {
    SysError::new(ErrorCode::BlobStore, format!("the blob can't be read: {e}"))
}

fn no_blob(digest: &str) -> SysError {
    SysError::new(ErrorCode::NoBlob, format!("no blob has the digest {digest}"))
}
