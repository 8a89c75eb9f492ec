//! The loop: reads sockets, runs the core, writes the journal, then lets replies and effects out.
//!
//! One turn: wait; read everybody a bounded amount and hand each call to the core; write the batch of records with
//! one write(2); carry out the effects; flush the sockets. So no reply and no effect leaves before its record is
//! written, and a call costs no thread hop.

use super::cells::{Cell, Owner};
use super::checkpoints::CheckpointKeeper;
use super::connection::{Connection, Frame, Step, Who};
use super::drivers::{Drivers, Inbox, Message};
use super::logs::LogKeeper;
use super::peer;
use super::projection::Projection;
use super::sdk::{NotFound, Sdk};
use super::sync::Syncer;
use super::templates::Template;
use super::{blobs, book};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::frame;
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::run::RunState;
use clove_abi::table::{Audit, Call, Sysno};
use clove_journal::Journal;
use clove_kernel::effect::ReplyTo;
use clove_kernel::{Core, Effect, Event, Input, Peer, Tail};
use clove_sandbox::Link;
use clove_sandbox::protocol::Token;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// Frames taken from one connection in a turn.
const FRAMES_PER_TURN: usize = 64;
/// Bytes of journal after which a checkpoint is written.
const CHECKPOINT_BYTES: u64 = 32 << 20;
/// After a start that had this much to apply, and before leaving, one is written too.
const SMALL_CHECKPOINT_BYTES: u64 = 256 << 10;
/// A sweep of which no task has begun or ended for this long has stalled.
const STALL_MS: u64 = 15 * 60_000;
/// Connections at the front door.
const MAX_CONNECTIONS: usize = 20_000;
/// Connections of one agent's programs.
const MAX_AGENT_CONNECTIONS: u32 = 64;

/// What an epoll event is about; 3 bits of the event's data, the rest is a number.
const KIND_FRONT_DOOR: u64 = 0;
const KIND_INBOX: u64 = 1;
const KIND_LAUNCHER: u64 = 2;
const KIND_CONNECTION: u64 = 3;
const KIND_AGENT_DOOR: u64 = 4;
const KIND_STDIN: u64 = 5;
const KIND_SIGNAL: u64 = 6;

/// What the process is made of, handed over by `serve`.
pub struct Parts {
    pub core: Core,
    pub journal: Journal,
    pub syncer: Syncer,
    pub inbox: Inbox,
    pub drivers: Drivers,
    pub logs: LogKeeper,
    pub checkpoints: CheckpointKeeper,
    pub projection: Projection,
    pub link: Link,
    pub launcher_pid: u32,
    pub front_door: OwnedFd,
    pub signals: OwnedFd,
    pub data_dir: PathBuf,
    pub socket: PathBuf,
    pub sdk: Result<Sdk, NotFound>,
    pub owner: Owner,
    pub started_by: String,
    pub backend: String,
    pub idle_timeout_ms: Option<u64>,
}

/// A reply that waits for the disk.
struct Parked {
    seq: u64,
    to: ReplyTo,
    bytes: Vec<u8>,
}

/// The running kernel.
pub struct Shell {
    pub core: Core,
    pub journal: Journal,
    syncer: Syncer,
    pub durable_seq: u64,
    inbox: Inbox,
    pub drivers: Drivers,
    pub logs: LogKeeper,
    pub checkpoints: CheckpointKeeper,
    pub projection: Projection,
    pub link: Link,
    pub launcher_pid: u32,
    front_door: OwnedFd,
    signals: OwnedFd,
    epoll: OwnedFd,
    pub data_dir: PathBuf,
    pub socket: PathBuf,
    pub sdk: Result<Sdk, NotFound>,
    pub owner: Owner,
    pub started_by: String,
    pub backend: String,
    pub started_wall_ms: u64,
    clock: Instant,
    pub connections: HashMap<ConnId, Connection>,
    next_conn: u64,
    pub cells: HashMap<Token, Cell>,
    pub by_agent: HashMap<AgentId, Token>,
    pub next_token: Token,
    pub templates: HashMap<Token, Template>,
    /// Raw bytes behind calls and results, by key.
    pub tails: HashMap<u64, Vec<u8>>,
    next_tail: u64,
    pub tickets: HashMap<u64, ReplyTo>,
    pub next_ticket: u64,
    /// Which keys belong to a task, so that they can be dropped with it.
    pub payload_keys: HashMap<(RunId, TaskIndex), Vec<u64>>,
    /// Bytes on their way into the blob store, by key, with the cell of the agent that sent them.
    pub incoming: HashMap<u64, (blobs::Source, Option<Token>)>,
    /// For runs with a `notify` command: their version, and since when it hasn't changed.
    progress: HashMap<RunId, (u64, u64)>,
    /// Ends that wait for the last of their output.
    pub ending: HashMap<String, Event>,
    /// Events for the core that arose inside the shell.
    events: VecDeque<Event>,
    effects: VecDeque<Effect>,
    parked: VecDeque<Parked>,
    dirty: Vec<ConnId>,
    again: Vec<ConnId>,
    link_watched_out: bool,
    checkpointing: bool,
    /// Bytes of journal at which the next checkpoint is due.
    checkpoint_at_bytes: u64,
    pub calls: u64,
    idle_since_ms: u64,
    idle_timeout_ms: Option<u64>,
    stopping: Option<u64>,
    /// The journal can't be written any more: nothing new is begun.
    pub broken: Option<String>,
    launcher_gone: bool,
    /// There may be blobs that nobody refers to any more.
    blobs_stale: bool,
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Shell {
    /// Puts the parts together and watches the descriptors.
    pub fn new(p: Parts) -> std::io::Result<Shell> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |fd: std::os::fd::BorrowedFd<'_>, kind: u64| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(kind), epoll::EventFlags::IN)
        };
        watch(p.front_door.as_fd(), KIND_FRONT_DOOR)?;
        watch(p.inbox.as_fd(), KIND_INBOX)?;
        watch(p.link.as_fd(), KIND_LAUNCHER)?;
        watch(p.signals.as_fd(), KIND_SIGNAL)?;
        let durable_seq = p.journal.durable_head().seq;
        // Tail keys must not meet those that a recovered state still names.
        let next_tail = p.journal.head().seq.saturating_mul(1 << 20).max(1);
        Ok(Shell {
            core: p.core,
            journal: p.journal,
            syncer: p.syncer,
            durable_seq,
            inbox: p.inbox,
            drivers: p.drivers,
            logs: p.logs,
            checkpoints: p.checkpoints,
            projection: p.projection,
            link: p.link,
            launcher_pid: p.launcher_pid,
            front_door: p.front_door,
            signals: p.signals,
            epoll,
            data_dir: p.data_dir,
            socket: p.socket,
            sdk: p.sdk,
            owner: p.owner,
            started_by: p.started_by,
            backend: p.backend,
            started_wall_ms: wall_ms(),
            clock: Instant::now(),
            connections: HashMap::new(),
            next_conn: 1,
            cells: HashMap::new(),
            by_agent: HashMap::new(),
            next_token: 1,
            templates: HashMap::new(),
            tails: HashMap::new(),
            next_tail,
            tickets: HashMap::new(),
            next_ticket: 1,
            payload_keys: HashMap::new(),
            incoming: HashMap::new(),
            progress: HashMap::new(),
            ending: HashMap::new(),
            events: VecDeque::new(),
            effects: VecDeque::new(),
            parked: VecDeque::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            link_watched_out: false,
            checkpointing: false,
            checkpoint_at_bytes: SMALL_CHECKPOINT_BYTES,
            calls: 0,
            idle_since_ms: 0,
            idle_timeout_ms: p.idle_timeout_ms,
            stopping: None,
            broken: None,
            launcher_gone: false,
            blobs_stale: true,
        })
    }

    /// Milliseconds on a clock that never jumps.
    pub fn mono_ms(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Hands the core an event that arose inside the shell, after those before it.
    pub fn raise(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Keeps raw bytes; 0 for none.
    pub fn keep_tail(&mut self, bytes: Vec<u8>) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let key = self.next_tail;
        self.next_tail += 1;
        self.tails.insert(key, bytes);
        key
    }

    /// Runs until told to leave; returns the process's exit code.
    pub fn run(&mut self) -> std::io::Result<i32> {
        let mut buffer = Vec::with_capacity(256);
        self.settle();
        loop {
            if self.may_leave() {
                return Ok(i32::from(self.broken.is_some()));
            }
            let timeout = self.timeout_ms();
            buffer.clear();
            let spec = rustix::event::Timespec {
                tv_sec: (timeout / 1000) as i64,
                tv_nsec: ((timeout % 1000) * 1_000_000) as i64,
            };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut buffer), Some(&spec)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for e in &buffer {
                self.on_ready(e.data.u64(), e.flags);
            }
            for id in std::mem::take(&mut self.again) {
                self.take_frames(id);
            }
            let now = self.mono_ms();
            if self.core.next_deadline().is_some_and(|d| d <= now) {
                self.raise(Event::Timer);
            }
            self.check_templates(now);
            self.check_stalls(now);
            self.settle();
            if self.launcher_gone && self.stopping.is_none() {
                eprintln!("clove: the launcher has ended unexpectedly; the kernel leaves");
                return Ok(1);
            }
        }
    }

    /// Runs the `notify` command of a sweep of which no task has begun or ended for long; once for each stall. The
    /// loop wakes at least every half minute, which is often enough for this.
    fn check_stalls(&mut self, now: u64) {
        let state = &self.core.state;
        let watched = state.runs.values().filter(|r| r.state == RunState::Active && r.spec.notify.is_some());
        let mut stalled = Vec::new();
        for r in watched {
            let seen = self.progress.entry(r.id).or_insert((r.version, now));
            if seen.0 != r.version {
                *seen = (r.version, now);
            } else if seen.1 != u64::MAX && now.saturating_sub(seen.1) >= STALL_MS {
                seen.1 = u64::MAX;
                stalled.extend(r.spec.notify.clone().map(|c| (c, clove_kernel::view::run(state, r))));
            }
        }
        self.progress.retain(|id, _| state.runs.get(id).is_some_and(|r| r.state == RunState::Active));
        for (command, info) in stalled {
            super::notify::run(&command, &info, "stalled");
        }
    }

    fn timeout_ms(&self) -> u64 {
        if !self.again.is_empty() {
            return 0;
        }
        let now = self.mono_ms();
        let mut wait = 30_000;
        if let Some(d) = self.core.next_deadline() {
            wait = wait.min(d.saturating_sub(now));
        }
        if let Some(d) = self.template_deadline() {
            wait = wait.min(d.saturating_sub(now));
        }
        if let Some(d) = self.stopping {
            wait = wait.min(d.saturating_sub(now)).min(50);
        }
        if let Some(t) = self.idle_timeout_ms {
            wait = wait.min((self.idle_since_ms + t).saturating_sub(now).max(10));
        }
        wait
    }

    fn may_leave(&mut self) -> bool {
        let now = self.mono_ms();
        if let Some(deadline) = self.stopping {
            let flushed = self.connections.values().all(Connection::is_flushed);
            let quiet = self.cells.is_empty() && self.parked.is_empty() && flushed && !self.checkpointing;
            return self.launcher_gone || quiet || now >= deadline;
        }
        let busy = !self.connections.is_empty()
            || self.core.state.live().next().is_some()
            || self.core.state.runs.values().any(|r| r.state == RunState::Active);
        if busy {
            self.idle_since_ms = now;
            self.blobs_stale = true;
        } else if std::mem::take(&mut self.blobs_stale) {
            // Only executor sessions refer to blobs, and none is left.
            let folder = self.blob_folder();
            self.drivers.run(move || blobs::clear(&folder), |_, _| ());
        }
        if self.idle_timeout_ms.is_some_and(|t| now >= self.idle_since_ms + t) {
            self.stop();
        }
        false
    }

    /// Begins to leave: everything is killed, what was journaled reaches the disk.
    pub fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(self.mono_ms() + 10_000);
            let seq = self.journal.head().seq;
            self.syncer.request(seq);
            self.end_all_cells();
        }
    }

    fn on_ready(&mut self, data: u64, flags: epoll::EventFlags) {
        let number = data >> 3;
        match data & 7 {
            KIND_FRONT_DOOR => self.accept_operators(),
            KIND_INBOX => {
                for m in self.inbox.take() {
                    self.on_message(m);
                }
            }
            KIND_LAUNCHER => self.on_launcher(flags),
            KIND_CONNECTION => {
                let id = ConnId(number);
                if flags.contains(epoll::EventFlags::OUT) {
                    self.flush(id);
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.read(id);
                }
            }
            KIND_AGENT_DOOR => self.accept_agent(number),
            KIND_STDIN => self.feed_stdin(number),
            _ => {
                eprintln!("clove: a signal asks the kernel to leave");
                let mut info = [0u8; 128];
                let _ = rustix::io::read(&self.signals, &mut info);
                let live: Vec<AgentId> = self.core.state.live().map(|a| a.id).collect();
                if !live.is_empty() {
                    eprintln!("clove: {} agents are ended", live.len());
                }
                self.stop();
            }
        }
    }

    fn on_message(&mut self, m: Message) {
        match m {
            Message::Synced(seq) => {
                self.syncer.busy = false;
                self.durable_seq = self.durable_seq.max(seq);
                self.projection.synced(self.durable_seq);
                while self.parked.front().is_some_and(|p| p.seq <= self.durable_seq) {
                    if let Some(p) = self.parked.pop_front() {
                        self.send_bytes(p.to, p.bytes);
                    }
                }
            }
            Message::SyncFailed(why) => self.break_down(&why),
            Message::Log(e) => self.on_log(e),
            Message::Then(f) => f(self),
        }
    }

    /// The journal failed: nothing that waits for it is acknowledged, nothing new is begun.
    fn break_down(&mut self, why: &str) {
        if self.broken.is_some() {
            return;
        }
        eprintln!("clove: the journal can't be written: {why}");
        self.broken = Some(why.to_owned());
        self.effects.clear();
        let error = self.broken_error();
        for p in std::mem::take(&mut self.parked) {
            self.fail(p.to, &error);
        }
    }

    fn broken_error(&self) -> SysError {
        let why = self.broken.clone().unwrap_or_default();
        SysError::new(ErrorCode::Journal, format!("the journal can't be written: {why}")).hint(
            "free space on the data directory's disk, then `clove stop --force` and run the command again",
        )
    }

    // --- events into the core, effects out of it

    /// Handles one event: the core decides, the record is appended, the effects wait for the write.
    fn handle(&mut self, event: Event) {
        if self.broken.is_some() {
            if let Event::Call { conn, correlation, .. } = event {
                let error = self.broken_error();
                self.fail(ReplyTo { conn, correlation }, &error);
            }
            return;
        }
        let audit = match &event {
            Event::Call { call, .. } => call.sysno().spec().audit,
            _ => Audit::State,
        };
        let input = Input { wall_ms: wall_ms(), mono_ms: self.mono_ms(), event };
        let outcome = self.core.handle(&input);
        if !outcome.changes.is_empty() || audit == Audit::Record {
            let mono_ns = self.clock.elapsed().as_nanos() as u64;
            match book::append(&mut self.journal, &input, mono_ns, &outcome.changes, &outcome.effects) {
                Ok(a) => self.projection.record(&input, a, outcome.changes, &self.core.state),
                Err(why) => {
                    self.break_down(&why);
                    if let Event::Call { conn, correlation, .. } = input.event {
                        let error = self.broken_error();
                        self.fail(ReplyTo { conn, correlation }, &error);
                    }
                    return;
                }
            }
        }
        self.effects.extend(outcome.effects);
    }

    /// Until nothing is left to do: events, one write, effects (which may raise events); then the sockets.
    fn settle(&mut self) {
        loop {
            while let Some(e) = self.events.pop_front() {
                self.handle(e);
            }
            if let Err(e) = self.journal.flush() {
                let calls: Vec<ReplyTo> = self
                    .effects
                    .iter()
                    .filter_map(|e| match e {
                        Effect::Reply { to, .. } | Effect::Fail { to, .. } => Some(*to),
                        _ => None,
                    })
                    .collect();
                self.break_down(&e.to_string());
                let error = self.broken_error();
                for to in calls {
                    self.fail(to, &error);
                }
            }
            if self.effects.is_empty() && self.events.is_empty() {
                break;
            }
            while let Some(e) = self.effects.pop_front() {
                self.perform(e);
            }
        }
        let head = self.journal.head().seq;
        if head > self.durable_seq && self.broken.is_none() {
            self.syncer.request(head);
        }
        for id in std::mem::take(&mut self.dirty) {
            if let Some(c) = self.connections.get_mut(&id) {
                c.dirty = false;
            }
            self.flush(id);
        }
        self.watch_link();
        self.maybe_checkpoint();
    }

    fn maybe_checkpoint(&mut self) {
        let due = match self.stopping {
            // The next start then has little to apply.
            Some(_) => {
                self.cells.is_empty() && self.journal.bytes_since_checkpoint() >= SMALL_CHECKPOINT_BYTES
            }
            None => self.journal.bytes_since_checkpoint() >= self.checkpoint_at_bytes,
        };
        if self.checkpointing || self.broken.is_some() || !due {
            return;
        }
        self.checkpoint_at_bytes = CHECKPOINT_BYTES;
        self.checkpointing = true;
        let mark = self.journal.checkpoint_mark();
        let state = self.core.state.clone();
        let checkpoints = self.journal.checkpoints();
        self.drivers.run(
            move || {
                let bytes = state.to_checkpoint();
                checkpoints.write(&mark, &bytes).map_err(|e| e.to_string())?;
                checkpoints.prune(mark.seq).map(|_| ()).map_err(|e| e.to_string())
            },
            |shell, done: Result<(), String>| {
                shell.checkpointing = false;
                if let Err(e) = done {
                    eprintln!("clove: a checkpoint failed: {e}");
                }
            },
        );
    }

    // --- replies

    /// Answers a call now.
    pub fn reply(&mut self, to: ReplyTo, body: &[u8], tail: &[u8]) {
        let bytes = frame::encode(0, frame::FLAG_REPLY, to.correlation, body, tail);
        self.send_bytes(to, bytes);
    }

    /// Answers a call once everything journaled so far is on the disk.
    pub fn reply_durable(&mut self, to: ReplyTo, body: &[u8], tail: &[u8]) {
        let seq = self.journal.head().seq;
        if seq <= self.durable_seq {
            return self.reply(to, body, tail);
        }
        let bytes = frame::encode(0, frame::FLAG_REPLY, to.correlation, body, tail);
        self.parked.push_back(Parked { seq, to, bytes });
    }

    /// Answers a call with an error.
    pub fn fail(&mut self, to: ReplyTo, error: &SysError) {
        let body = clove_kernel::core::json(error);
        let bytes = frame::encode(0, frame::FLAG_REPLY | frame::FLAG_ERROR, to.correlation, &body, &[]);
        self.send_bytes(to, bytes);
    }

    fn send_bytes(&mut self, to: ReplyTo, bytes: Vec<u8>) {
        if let Some(c) = self.connections.get_mut(&to.conn) {
            c.unanswered = c.unanswered.saturating_sub(1);
            c.send(bytes);
            if !c.dirty {
                c.dirty = true;
                self.dirty.push(to.conn);
            }
        }
    }

    // --- sockets

    fn accept_operators(&mut self) {
        for _ in 0..64 {
            let socket = match rustix::net::accept_with(
                &self.front_door,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(s) => s,
                Err(_) => return,
            };
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            match peer::operator(&socket, self.owner.uid) {
                Ok(p) => {
                    self.add_connection(socket, Who::Operator { uid: p.uid, pid: p.pid, command: p.command });
                }
                Err(why) => {
                    let error = SysError::new(ErrorCode::NotPermitted, why);
                    let body = clove_kernel::core::json(&error);
                    let bytes = frame::encode(0, frame::FLAG_REPLY | frame::FLAG_ERROR, 0, &body, &[]);
                    let _ = rustix::net::send(&socket, &bytes, rustix::net::SendFlags::NOSIGNAL);
                }
            }
        }
    }

    fn accept_agent(&mut self, token: Token) {
        for _ in 0..16 {
            let Some(cell) = self.cells.get_mut(&token) else { return };
            let Some(door) = &cell.listener else { return };
            let Ok(socket) = rustix::net::accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
            else {
                return;
            };
            if cell.connections >= MAX_AGENT_CONNECTIONS {
                continue;
            }
            cell.connections += 1;
            self.add_connection(socket, Who::Cell(token));
        }
    }

    /// Watches a connected, nonblocking socket.
    pub fn add_connection(&mut self, socket: OwnedFd, who: Who) -> Option<ConnId> {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let data = epoll::EventData::new_u64(id.0 << 3 | KIND_CONNECTION);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).ok()?;
        self.connections.insert(id, Connection::new(socket, who));
        Some(id)
    }

    /// Watches an agent's own listening socket.
    pub fn watch_agent_door(&mut self, token: Token, door: &OwnedFd) {
        if rustix::io::ioctl_fionbio(door, true).is_ok() {
            let data = epoll::EventData::new_u64(token << 3 | KIND_AGENT_DOOR);
            let _ = epoll::add(&self.epoll, door, data, epoll::EventFlags::IN);
        }
    }

    /// Watches a program's standard input until it takes more.
    pub fn watch_stdin(&mut self, token: Token, fd: &OwnedFd) {
        let data = epoll::EventData::new_u64(token << 3 | KIND_STDIN);
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        if epoll::add(&self.epoll, fd, data, flags).is_err() {
            let _ = epoll::modify(&self.epoll, fd, data, flags);
        }
    }

    fn read(&mut self, id: ConnId) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let alive = c.fill();
        self.take_frames(id);
        if !alive {
            self.drop_connection(id);
        }
    }

    /// Takes everything that an ended process has still sent.
    pub fn read_out(&mut self, id: ConnId) {
        while let Some(c) = self.connections.get_mut(&id) {
            let alive = c.fill();
            self.take_frames(id);
            let more = self.connections.get(&id).is_some_and(Connection::has_input);
            if !alive && !more {
                break;
            }
            if alive && !more {
                // Its peer may be held open by a process that outlives it: what is there has been read.
                break;
            }
        }
    }

    fn take_frames(&mut self, id: ConnId) {
        for _ in 0..FRAMES_PER_TURN {
            let Some(c) = self.connections.get_mut(&id) else { return };
            if c.closing || c.is_slow() {
                self.rewatch(id);
                return;
            }
            match c.next_frame() {
                Step::Wait => return,
                Step::Frame(f) => self.on_frame(id, f),
                Step::Broken(e) => {
                    c.closing = true;
                    c.unanswered += 1;
                    let to = ReplyTo { conn: id, correlation: e.correlation };
                    self.fail(to, &SysError::new(ErrorCode::BadFrame, e.to_string()));
                    return;
                }
            }
        }
        if self.connections.get(&id).is_some_and(Connection::has_input) {
            self.again.push(id);
        }
    }

    fn on_frame(&mut self, id: ConnId, f: Frame) {
        self.calls += 1;
        let to = ReplyTo { conn: id, correlation: f.header.correlation };
        let who = match self.connections.get_mut(&id) {
            Some(c) => {
                c.unanswered += 1;
                c.who.clone()
            }
            None => return,
        };
        let Some(sysno) = Sysno::from_number(f.header.number) else {
            let message = format!("no syscall has the number {:#06x}", f.header.number);
            return self
                .fail(to, &SysError::new(ErrorCode::NoSuchCall, message).hint("clove syscalls lists them"));
        };
        let spec = sysno.spec();
        if f.fds.len() > usize::from(spec.fds) || !f.fds.iter().all(super::blobs::is_sealed_memfd) {
            let message =
                format!("{} takes {} descriptors, and only fully sealed memfds", spec.name, spec.fds);
            self.fail(to, &SysError::new(ErrorCode::BadDescriptor, message));
            if let Some(c) = self.connections.get_mut(&id) {
                c.closing = true;
            }
            return self.drivers.discard(f.fds);
        }
        let call = match Call::decode(sysno, &f.body) {
            Ok(c) => c,
            Err(mut e) => {
                e.message = format!("{}: {}", spec.name, e.message);
                return self.fail(to, &e);
            }
        };
        let (peer, token) = match who {
            Who::Operator { uid, pid, command } => (Some(Peer::Operator { uid, pid, command }), None),
            Who::Cell(token) => (self.cells.get(&token).and_then(|c| c.agent).map(Peer::Agent), Some(token)),
        };
        if let (Call::TaskNext(_), Some(token)) = (&call, token)
            && self.on_task_next(token, id, to)
        {
            return;
        }
        let Some(peer) = peer else {
            return self.fail(to, &SysError::new(ErrorCode::WrongState, "this process has no task yet"));
        };
        if let (Call::TaskDone(_), Some(token)) = (&call, token) {
            return self.on_task_done(token, to, peer, call, f.tail);
        }
        if let Err(e) = self.check_blob_call(&call, token, &f) {
            return self.fail(to, &e);
        }
        let tail = match &call {
            Call::RunPush(push) => self.keep_inputs(push, f.tail),
            Call::BlobPut(_) => self.keep_blob(f.tail, f.fds, token),
            _ => {
                let bytes = f.tail.len() as u64;
                Tail { bytes, key: self.keep_tail(f.tail) }
            }
        };
        self.handle(Event::Call { conn: id, correlation: to.correlation, peer, call, tail });
    }

    /// Splits the tail of `run.push` into the tasks' inputs, under keys that follow each other.
    fn keep_inputs(&mut self, push: &clove_abi::calls::RunPush, tail: Vec<u8>) -> Tail {
        let bytes = tail.len() as u64;
        let wanted: u64 = push.tasks.iter().map(|t| t.payload_bytes).fold(0, u64::saturating_add);
        let key = self.next_tail;
        self.next_tail += push.tasks.len() as u64;
        if wanted == bytes {
            let mut at = 0usize;
            for (i, t) in push.tasks.iter().enumerate() {
                let end = at + t.payload_bytes as usize;
                if t.payload_bytes > 0 {
                    self.tails.insert(key + i as u64, tail[at..end].to_vec());
                }
                at = end;
            }
        }
        Tail { bytes, key }
    }

    /// Keeps what `blob.put` brought until the core has had its say.
    fn keep_blob(&mut self, tail: Vec<u8>, mut fds: Vec<OwnedFd>, token: Option<Token>) -> Tail {
        let source = match fds.pop() {
            Some(fd) => blobs::Source::Memfd(fd),
            None => blobs::Source::Bytes(tail),
        };
        let key = self.next_tail;
        self.next_tail += 1;
        let bytes = source.bytes();
        self.incoming.insert(key, (source, token));
        Tail { bytes, key }
    }

    /// An agent stores blobs within its own disk limit, and reads those that it stored or was given. A digest is no
    /// key: it can be guessed from content, and tells whether content exists.
    fn check_blob_call(&self, call: &Call, token: Option<Token>, f: &Frame) -> Result<(), SysError> {
        let Some(cell) = token.and_then(|t| self.cells.get(&t)) else { return Ok(()) };
        let digest = match call {
            Call::BlobPut(_) => {
                let bytes = f.tail.len() as u64 + f.fds.iter().map(blobs::memfd_bytes).sum::<u64>();
                let limit =
                    cell.agent.and_then(|a| self.core.state.agent(a)).map_or(0, |a| a.limits.disk_bytes);
                if cell.blob_bytes.saturating_add(bytes) > limit {
                    let text = format!(
                        "its blobs would have {} bytes, its disk limit is {limit}",
                        cell.blob_bytes + bytes
                    );
                    return Err(SysError::new(ErrorCode::Full, text).hint("give it more disk, or store less"));
                }
                return Ok(());
            }
            Call::BlobGet(g) => &g.digest,
            Call::BlobStat(s) => &s.digest,
            _ => return Ok(()),
        };
        let given = cell.agent.and_then(|a| self.core.state.agent(a)).and_then(|a| {
            let task = self.core.state.runs.get(&a.run?)?.tasks.get(&a.task?)?;
            task.spec.payload_blob.as_ref()
        });
        if cell.blobs.contains(digest) || given == Some(digest) {
            return Ok(());
        }
        Err(SysError::new(
            ErrorCode::NotPermitted,
            "an agent reads the blobs that it stored or was given, no others",
        ))
    }

    fn flush(&mut self, id: ConnId) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let alive = c.flush();
        if !alive || (c.closing && c.is_flushed()) {
            return self.drop_connection(id);
        }
        if c.has_input() && !c.is_slow() && !self.again.contains(&id) {
            self.again.push(id);
        }
        self.rewatch(id);
    }

    fn rewatch(&mut self, id: ConnId) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let wants = c.wants();
        if wants != c.watched {
            c.watched = wants;
            let mut flags = epoll::EventFlags::empty();
            flags.set(epoll::EventFlags::IN, wants.0);
            flags.set(epoll::EventFlags::OUT, wants.1);
            let data = epoll::EventData::new_u64(id.0 << 3 | KIND_CONNECTION);
            let _ = epoll::modify(&self.epoll, c.fd(), data, flags);
        }
    }

    /// A peer is gone: what it waits for is forgotten, what was attached to it ends.
    pub fn drop_connection(&mut self, id: ConnId) {
        let Some(c) = self.connections.remove(&id) else { return };
        let _ = epoll::delete(&self.epoll, c.fd());
        if let Who::Cell(token) = c.who
            && let Some(cell) = self.cells.get_mut(&token)
        {
            cell.connections = cell.connections.saturating_sub(1);
            if cell.conn == Some(id) {
                cell.conn = None;
                cell.next_call = None;
            }
        }
        self.tickets.retain(|ticket, to| {
            let keep = to.conn != id;
            if !keep {
                self.logs.cancel(*ticket);
            }
            keep
        });
        self.logs.gone(id.0);
        self.drivers.discard(c);
        self.raise(Event::Gone { conn: id });
    }

    fn on_launcher(&mut self, flags: epoll::EventFlags) {
        if flags.contains(epoll::EventFlags::OUT) && self.link.flush().is_err() {
            self.launcher_gone = true;
        }
        match self.link.recv() {
            Ok(messages) => {
                for (event, fds) in messages {
                    self.on_launcher_event(event, fds);
                }
            }
            Err(e) => {
                eprintln!("clove: {e}");
                self.launcher_gone = true;
            }
        }
        if self.link.is_closed() {
            self.launcher_gone = true;
            let _ = epoll::delete(&self.epoll, self.link.as_fd());
        }
    }

    fn watch_link(&mut self) {
        let out = self.link.wants_write();
        if out != self.link_watched_out && !self.launcher_gone {
            self.link_watched_out = out;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, out);
            let _ = epoll::modify(
                &self.epoll,
                self.link.as_fd(),
                epoll::EventData::new_u64(KIND_LAUNCHER),
                flags,
            );
        }
    }
}
