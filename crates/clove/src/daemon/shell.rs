//! The loop: reads sockets, runs the core, writes the journal, then lets replies and effects out.
//!
//! One round: wait; let callers have their turns for a moment and hand each call to the core; write the batch of records
//! with one write(2); carry out the effects; flush the sockets. So no reply and no effect leaves before its record is
//! written, and a call costs no thread hop.

use super::allowance::Allowance;
use super::cells::{Cell, Owner};
use super::checkpoints::CheckpointKeeper;
use super::connection::{Bytes, Connection, Who};
use super::drivers::{Drivers, Inbox, Message};
use super::home_watch::HomeWatch;
use super::logs::LogKeeper;
use super::opaque::Opaque;
use super::projection::Projection;
use super::refusal::without_numbers;
use super::sdk::{NotFound, Sdk};
use super::sockets::{DOOR, RELIEF_MS, Todo};
use super::sync::Syncer;
use super::templates::Template;
use super::turns::Turns;
use super::wall_clock::{WallClock, wall_ms};
use super::{blobs, book};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::frame;
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::run::RunState;
use clove_abi::table::Audit;
use clove_journal::Journal;
use clove_kernel::effect::ReplyTo;
use clove_kernel::{Core, Effect, Event, Input};
use clove_sandbox::Link;
use clove_sandbox::protocol::Token;
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// Bytes of journal after which a checkpoint is written.
const CHECKPOINT_BYTES: u64 = 32 << 20;
/// After a start that had this much to apply, and before leaving, one is written too.
const SMALL_CHECKPOINT_BYTES: u64 = 256 << 10;
/// A sweep of which no task has begun or ended for this long has stalled.
const STALL_MS: u64 = 15 * 60_000;

/// How long leaving may take.
const LEAVING_MS: u64 = 10_000;
/// How long a kernel whose journal has failed stays to say so.
const HEARING_MS: u64 = 1_000;

/// What an epoll event is about; 3 bits of the event's data, the rest is a number.
pub const KIND_FRONT_DOOR: u64 = 0;
const KIND_INBOX: u64 = 1;
const KIND_LAUNCHER: u64 = 2;
pub const KIND_CONNECTION: u64 = 3;
pub const KIND_AGENT_DOOR: u64 = 4;
pub const KIND_STDIN: u64 = 5;
const KIND_SIGNAL: u64 = 6;
const KIND_HOME: u64 = 7;

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
    pub syncer: Syncer,
    pub durable_seq: u64,
    inbox: Inbox,
    pub drivers: Drivers,
    pub logs: LogKeeper,
    pub checkpoints: CheckpointKeeper,
    pub projection: Projection,
    pub link: Link,
    pub launcher_pid: u32,
    pub front_door: OwnedFd,
    pub home: HomeWatch,
    signals: OwnedFd,
    pub epoll: OwnedFd,
    pub data_dir: PathBuf,
    pub socket: PathBuf,
    pub sdk: Result<Sdk, NotFound>,
    pub owner: Owner,
    pub started_by: String,
    pub backend: String,
    pub started_wall_ms: u64,
    clock: Instant,
    pub wall_clock: WallClock,
    pub connections: HashMap<ConnId, Connection>,
    pub next_conn: u64,
    pub cells: HashMap<Token, Cell>,
    pub by_agent: HashMap<AgentId, Token>,
    pub next_token: Token,
    pub templates: HashMap<Token, Template>,
    /// Raw bytes behind calls and results, by key.
    pub opaque: Opaque,
    pub tickets: HashMap<u64, ReplyTo>,
    pub next_ticket: u64,
    /// Which keys belong to a task, so that they can be dropped with it.
    pub payload_keys: HashMap<(RunId, TaskIndex), Vec<u64>>,
    /// Bytes on their way into the blob store, by key, with the cell of the agent that sent them.
    pub incoming: HashMap<u64, blobs::Incoming>,
    /// Executor sessions: whose they are, and to what version their results were taken in.
    pub sessions: HashMap<RunId, (ConnId, u64)>,
    /// For runs with a `notify` command: their version, and since when it hasn't changed.
    progress: HashMap<RunId, (u64, u64)>,
    /// Ends that wait for the last of their output.
    pub ending: HashMap<String, Event>,
    /// Events for the core that arose inside the shell.
    events: VecDeque<Event>,
    pub effects: VecDeque<Effect>,
    parked: VecDeque<Parked>,
    /// Connections with replies that were queued in this round.
    pub dirty: Vec<ConnId>,
    /// Who has something for the loop.
    pub turns: Turns<Todo>,
    /// A call was taken whose answer may be large: it leaves before the next one is taken.
    pub round_is_over: bool,
    /// What is read goes through here.
    pub buffer: Vec<u8>,
    pub allowance: Allowance,
    /// Connections that wait for something that their own party has.
    pub stalled: Vec<ConnId>,
    /// Those that wait for memory that all share, in order.
    pub line: VecDeque<ConnId>,
    pub relief_due_ms: u64,
    link_watched_out: bool,
    checkpointing: bool,
    /// Bytes of journal at which the next checkpoint is due.
    checkpoint_at_bytes: u64,
    pub calls: u64,
    idle_since_ms: u64,
    idle_timeout_ms: Option<u64>,
    pub stopping: Option<u64>,
    /// The journal can't be written any more: nothing new is begun.
    pub broken: Option<String>,
    /// Those who wait know.
    told_broken: bool,
    launcher_gone: bool,
    /// There may be blobs that nobody refers to any more.
    blobs_stale: bool,
}

/// A reply's header and body. One that no frame can carry is an error of its own: a frame beyond the bounds would end
/// the caller's connection.
fn answer(to: ReplyTo, body: &[u8], tail_len: usize) -> Result<Vec<u8>, SysError> {
    if body.len() > frame::MAX_BODY || tail_len > frame::MAX_TAIL {
        let text = format!(
            "the answer has {} and {tail_len} bytes, a frame carries {} and {}",
            body.len(),
            frame::MAX_BODY,
            frame::MAX_TAIL
        );
        return Err(SysError::new(ErrorCode::BadArgument, text).hint("ask for less at a time"));
    }
    Ok(frame::encode_head(0, frame::FLAG_REPLY, to.correlation, body, tail_len))
}

impl Shell {
    /// Puts the parts together and watches the descriptors.
    pub fn new(p: Parts) -> std::io::Result<Shell> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |fd: std::os::fd::BorrowedFd<'_>, kind: u64| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(kind), epoll::EventFlags::IN)
        };
        epoll::add(&epoll, &p.front_door, epoll::EventData::new_u64(KIND_FRONT_DOOR), DOOR)?;
        watch(p.inbox.as_fd(), KIND_INBOX)?;
        watch(p.link.as_fd(), KIND_LAUNCHER)?;
        watch(p.signals.as_fd(), KIND_SIGNAL)?;
        let home = HomeWatch::new(&p.data_dir, &p.socket);
        if let Some(fd) = home.fd() {
            watch(fd, KIND_HOME)?;
        }
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
            home,
            signals: p.signals,
            epoll,
            data_dir: p.data_dir,
            socket: p.socket,
            sdk: p.sdk,
            owner: p.owner,
            started_by: p.started_by,
            backend: p.backend,
            started_wall_ms: wall_ms(),
            wall_clock: WallClock::new(),
            clock: Instant::now(),
            connections: HashMap::new(),
            next_conn: 1,
            cells: HashMap::new(),
            by_agent: HashMap::new(),
            next_token: 1,
            templates: HashMap::new(),
            opaque: Opaque::new(next_tail),
            tickets: HashMap::new(),
            next_ticket: 1,
            payload_keys: HashMap::new(),
            incoming: HashMap::new(),
            sessions: HashMap::new(),
            progress: HashMap::new(),
            ending: HashMap::new(),
            events: VecDeque::new(),
            effects: VecDeque::new(),
            parked: VecDeque::new(),
            dirty: Vec::new(),
            turns: Turns::new(),
            round_is_over: false,
            buffer: Vec::new(),
            allowance: Allowance::default(),
            stalled: Vec::new(),
            line: VecDeque::new(),
            relief_due_ms: 0,
            link_watched_out: false,
            checkpointing: false,
            checkpoint_at_bytes: SMALL_CHECKPOINT_BYTES,
            calls: 0,
            idle_since_ms: 0,
            idle_timeout_ms: p.idle_timeout_ms,
            stopping: None,
            broken: None,
            told_broken: false,
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

    /// Runs until told to leave; returns the process's exit code.
    pub fn run(&mut self) -> std::io::Result<i32> {
        let mut buffer = Vec::with_capacity(256);
        self.settle();
        loop {
            if self.may_leave() {
                return Ok(i32::from(self.broken.is_some()));
            }
            self.retry_stalled();
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
            self.take_turns();
            let now = self.mono_ms();
            self.relieve(now);
            if self.core.next_deadline().is_some_and(|d| d <= now) {
                self.raise(Event::Timer);
            }
            self.check_templates(now);
            self.check_stalls(now);
            self.check_home(now);
            self.settle();
            if self.launcher_gone && self.stopping.is_none() {
                say!("the launcher has ended unexpectedly; the kernel leaves");
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
        if !self.turns.is_empty() {
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
        if !self.line.is_empty() {
            wait = wait.min(RELIEF_MS);
        }
        if let Some(t) = self.idle_timeout_ms {
            wait = wait.min((self.idle_since_ms + t).saturating_sub(now).max(10));
        }
        wait
    }

    fn may_leave(&mut self) -> bool {
        let now = self.mono_ms();
        if let Some(deadline) = self.stopping {
            self.tell_waiters();
            let flushed = self.connections.values().all(Connection::is_flushed);
            let waiting = !self.parked.is_empty() || self.syncer.has_later() || self.checkpointing;
            // What waits for a journal that has failed waits for ever.
            let waiting = waiting && self.broken.is_none();
            // Those who don't wait just now ask again soon, and should hear why there is no answer.
            let heard = self.broken.is_none()
                || now + LEAVING_MS >= deadline + HEARING_MS
                || !self.connections.values().any(|c| matches!(c.who, Who::Operator { .. }));
            let waiting = waiting || !heard;
            let quiet = self.cells.is_empty() && !waiting && flushed;
            return self.launcher_gone || quiet || now >= deadline;
        }
        let working = self.core.state.live().next().is_some()
            || self.core.state.runs.values().any(|r| r.state == RunState::Active);
        let busy = working || !self.connections.is_empty();
        if !working && let Some(by) = self.wall_clock.follow_host() {
            say!(
                "the host's clock was set, by {} s; the kernel's follows it now, as nothing runs",
                by / 1000
            );
        }
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

    /// Calls that wait (for a sweep's end, say) have no other answer any more than why the kernel leaves. It goes under
    /// correlation 0, which is about the whole connection, and after the answers to single calls.
    fn tell_waiters(&mut self) {
        if self.broken.is_none() || std::mem::replace(&mut self.told_broken, true) {
            return;
        }
        let error = self.broken_error();
        let waiting = |c: &Connection| c.unanswered > 0 && matches!(c.who, Who::Operator { .. });
        let waiters: Vec<ConnId> =
            self.connections.iter().filter(|(_, c)| waiting(c)).map(|(id, _)| *id).collect();
        for conn in waiters {
            self.fail(ReplyTo { conn, correlation: 0 }, &error);
        }
        self.flush_dirty();
    }

    /// Begins to leave: everything is killed, what was journaled reaches the disk.
    pub fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(self.mono_ms() + LEAVING_MS);
            let seq = self.journal.head().seq;
            self.syncer.request(seq);
            self.end_all_cells();
        }
    }

    fn on_ready(&mut self, data: u64, flags: epoll::EventFlags) {
        let number = data >> 3;
        match data & 7 {
            KIND_FRONT_DOOR => self.on_door(Todo::FrontDoor),
            KIND_INBOX => {
                for m in self.inbox.take() {
                    self.on_message(m);
                }
            }
            KIND_LAUNCHER => self.on_launcher(flags),
            KIND_CONNECTION => self.on_socket(ConnId(number), flags),
            KIND_AGENT_DOOR => self.on_door(Todo::AgentDoor(number)),
            KIND_STDIN => self.feed_stdin(number),
            KIND_HOME => self.on_home(),
            _ => {
                say!("a signal asks the kernel to leave");
                let mut info = [0u8; 128];
                let _ = rustix::io::read(&self.signals, &mut info);
                let live: Vec<AgentId> = self.core.state.live().map(|a| a.id).collect();
                if !live.is_empty() {
                    say!("{} agents are ended", live.len());
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
                        self.send_bytes(p.to, [Bytes::Own(p.bytes)]);
                    }
                }
                while let Some(act) = self.syncer.due(self.durable_seq) {
                    act(self);
                }
            }
            Message::SyncFailed(why) => self.break_down(&why),
            Message::Log(e) => self.on_log(e),
            Message::Then(f) => f(self),
        }
    }

    /// The journal failed: nothing that waits for it is acknowledged, nothing new is begun, and what the agents do can't
    /// be noted any more. So the kernel leaves: one that starts anew says whether the journal can be written again, and
    /// goes on from what is in it.
    pub fn break_down(&mut self, why: &str) {
        if self.broken.is_some() {
            return;
        }
        // The advice behind it is for whoever opens a journal; the system's number says nothing more.
        let why = without_numbers(why.split("; ").next().unwrap_or(why));
        let why = why.strip_prefix("the batch was not written: ").unwrap_or(&why).to_owned();
        say!("the journal can't be written, so the kernel leaves: {why}");
        self.broken = Some(why);
        self.effects.clear();
        self.syncer.give_up();
        self.stop();
        let error = self.broken_error();
        for p in std::mem::take(&mut self.parked) {
            self.fail(p.to, &error);
        }
    }

    fn broken_error(&self) -> SysError {
        let why = self.broken.clone().unwrap_or_default();
        let dir = self.data_dir.display();
        SysError::new(ErrorCode::Journal, format!("the journal can't be written: {why}")).hint(format!(
            "see that {dir} is there and has room, then run the command again; `clove sweep resume` goes on with sweeps \
             that this has interrupted"
        ))
    }

    // --- events into the core, effects out of it

    /// Handles one event: the core decides, the record is appended, the effects wait for the write.
    pub fn handle(&mut self, event: Event) {
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
        let input = Input { wall_ms: self.wall_clock.now_ms(), mono_ms: self.mono_ms(), event };
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
        self.syncer.number(head);
        if head > self.durable_seq && self.broken.is_none() {
            self.syncer.request(head);
        }
        self.flush_dirty();
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
                    say!("a checkpoint failed: {e}");
                }
            },
        );
    }

    // --- replies

    /// Answers a call now.
    pub fn reply(&mut self, to: ReplyTo, body: &[u8]) {
        self.reply_with(to, body, []);
    }

    /// Answers a call now, with a tail of these pieces.
    pub fn reply_with(&mut self, to: ReplyTo, body: &[u8], tail: impl IntoIterator<Item = Bytes>) {
        let tail: Vec<Bytes> = tail.into_iter().collect();
        let tail_len = tail.iter().map(Bytes::len).sum();
        match answer(to, body, tail_len) {
            Ok(head) => self.send_bytes(to, std::iter::once(Bytes::Own(head)).chain(tail)),
            Err(e) => self.fail(to, &e),
        }
    }

    /// Answers a call once everything journaled so far is on the disk.
    pub fn reply_durable(&mut self, to: ReplyTo, body: &[u8]) {
        let seq = self.journal.head().seq;
        if seq <= self.durable_seq {
            return self.reply(to, body);
        }
        match answer(to, body, 0) {
            Ok(bytes) => self.parked.push_back(Parked { seq, to, bytes }),
            Err(e) => self.fail(to, &e),
        }
    }

    /// Answers a call with an error.
    pub fn fail(&mut self, to: ReplyTo, error: &SysError) {
        let body = clove_kernel::core::json(error);
        let bytes = frame::encode(0, frame::FLAG_REPLY | frame::FLAG_ERROR, to.correlation, &body, &[]);
        self.send_bytes(to, [Bytes::Own(bytes)]);
    }

    // --- the launcher

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
                say!("{e}");
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
