//! The log keeper: one thread that reads what agents print and keeps it on disk.
//!
//! A file per agent, `<dir>/<agent>.log`, of chunks in the order of arrival: u8 kind, u32 length (little-endian), bytes.
//! Kind 1 is standard output (or the terminal), 2 standard error, 3 two u64 with how many bytes of each were not kept
//! so far. A chunk that a crash has torn is no part of the log. No agent ever waits for the disk.
//!
//! What is beyond its limit is read and counted, so that a detached agent never waits. An attached one has a reader of
//! its own, its owner, who is to have everything: there a pipe is read no faster than the owner takes it, straight from
//! hand to hand and without the disk, and the agent waits as it would for any slow reader of a pipe. Offsets go on over
//! what wasn't kept: a reader that comes too late for it sees that `next` is further than the bytes that it got.

use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
    /// In the order of arrival.
    Both,
}

/// What the keeper says; see `LogKeeper::start`.
#[derive(Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// `next` is the offset to go on from, and the bytes are the last before it: between them and the offset that was
    /// asked for is what this reader can't have any more. With `eof` nothing will ever come after them. `dropped` is what was not kept so far, of both streams.
    Read {
        ticket: u64,
        bytes: Vec<u8>,
        next: u64,
        eof: bool,
        dropped: u64,
    },
    ReadFailed {
        ticket: u64,
        message: String,
    },
    /// `tail`: the last of what it printed, kept or not, at most 20 lines and 2000 bytes. It is the agent's own
    /// words: whoever shows it on a terminal takes the control characters out.
    Finished {
        agent: String,
        tail: String,
        dropped: u64,
    },
}

/// A handle; the thread ends with the last of them.
#[derive(Clone)]
pub struct LogKeeper {
    line: Arc<Line>,
}

struct Line {
    commands: mpsc::Sender<Command>,
    wake: OwnedFd,
}

impl Line {
    fn send(&self, command: Command) {
        // An error would mean that the thread is gone, which is at the end of everything.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.send(Command::Stop);
    }
}

enum Command {
    Add { agent: String, out: OwnedFd, err: Option<OwnedFd>, limit_bytes: u64, owner: Option<Owner> },
    Read(Wanted),
    Cancel { ticket: u64 },
    Gone { conn: u64 },
    Finish { agent: String },
    Forget { agent: String },
    Stop,
}

/// Who an attached agent is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub conn: u64,
    /// Its process reads over connections of their own.
    pub pid: u32,
}

/// What a reader asks for.
#[derive(Debug)]
pub struct Wanted {
    pub ticket: u64,
    pub agent: String,
    pub stream: Stream,
    /// Counts bytes of this stream.
    pub offset: u64,
    /// At most `MOST_READ` bytes come at a time.
    pub max: u32,
    /// Wait until there is something at `offset` or the agent has finished.
    pub follow: bool,
    /// The reader's process.
    pub pid: u32,
}

impl LogKeeper {
    /// `notify` is called on the keeper's thread and must not wait. The folder is made when it is missing.
    pub fn start(dir: PathBuf, notify: impl Fn(LogEvent) + Send + 'static) -> io::Result<LogKeeper> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let thread_wake = wake.try_clone()?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &thread_wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (commands, inbox) = mpsc::channel();
        let keeper = Keeper {
            dir,
            poll,
            wake: thread_wake,
            inbox,
            notify: Box::new(notify),
            live: HashMap::new(),
            sources: HashMap::new(),
            next_source: WAKE + 1,
            past: VecDeque::new(),
            held: VecDeque::new(),
            buffer: vec![0; HEADER + READ_BYTES],
            disk_failed: false,
        };
        std::thread::Builder::new().name("logs".into()).spawn(move || keeper.run())?;
        Ok(LogKeeper { line: Arc::new(Line { commands, wake }) })
    }

    /// Takes over what `agent` prints: its standard output and error, or a terminal's master as `out` alone. They become
    /// non-blocking. A log that is there already is continued. `limit_bytes` of content are kept; with an owner, what
    /// comes after that waits until he reads it.
    pub fn add(
        &self,
        agent: &str,
        out: OwnedFd,
        err: Option<OwnedFd>,
        limit_bytes: u64,
        owner: Option<Owner>,
    ) {
        self.line.send(Command::Add { agent: agent.into(), out, err, limit_bytes, owner });
    }

    /// Answered with `Read` or `ReadFailed`.
    pub fn read(&self, wanted: Wanted) {
        self.line.send(Command::Read(wanted));
    }

    /// A connection is gone: what was attached to it has no owner from now on.
    pub fn gone(&self, conn: u64) {
        self.line.send(Command::Gone { conn });
    }

    /// A waiting read is dropped without an answer.
    pub fn cancel(&self, ticket: u64) {
        self.line.send(Command::Cancel { ticket });
    }

    /// Nobody is left to print: takes what is there, closes, answers the waiting reads, then says `Finished` (also for
    /// an agent that was never added).
    pub fn finish(&self, agent: &str) {
        self.line.send(Command::Finish { agent: agent.into() });
    }

    /// Deletes the log; waiting reads are answered as at the end.
    pub fn forget(&self, agent: &str) {
        self.line.send(Command::Forget { agent: agent.into() });
    }
}

/// What one read brings at most.
pub const MOST_READ: u32 = 4 << 20;

const WAKE: u64 = 0;
const HEADER: usize = 5;
const KIND_OUT: u8 = 1;
const KIND_ERR: u8 = 2;
const KIND_DROPPED: u8 = 3;
/// As much as a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;
/// So that one agent that floods doesn't hold the others up.
const TURN_BYTES: u64 = 4 * READ_BYTES as u64;
const COMMANDS_PER_TURN: u32 = 256;
/// Larger ones aren't written: the file is damaged there.
const CHUNK_MAX: u32 = 1 << 20;
const TAIL_BYTES: usize = 2000;
const TAIL_LINES: usize = 20;
/// Of agents that are gone, how many logs stay opened.
const PAST_KEPT: usize = 64;
/// The last words of agents that are gone wait for slow owners in memory, a pipe's content each; the oldest go when
/// they become more than this.
const HELD_MOST: usize = 64 << 20;

/// A place at the start of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    /// In the file.
    at: u64,
    /// Bytes of the streams before it.
    out: u64,
    err: u64,
}

impl Mark {
    fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Out => self.out,
            Stream::Err => self.err,
            Stream::Both => self.out + self.err,
        }
    }

    fn after(self, kind: u8, len: u64) -> Mark {
        Mark {
            at: self.at + HEADER as u64 + len,
            out: self.out + if kind == KIND_OUT { len } else { 0 },
            err: self.err + if kind == KIND_ERR { len } else { 0 },
        }
    }
}

/// Bytes of each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    out: u64,
    err: u64,
}

impl Counts {
    fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Out => self.out,
            Stream::Err => self.err,
            Stream::Both => self.out + self.err,
        }
    }

    fn add(&mut self, kind: u8, n: u64) {
        *(if kind == KIND_ERR { &mut self.err } else { &mut self.out }) += n;
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.out.to_le_bytes());
        bytes[8..].copy_from_slice(&self.err.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Counts> {
        let (out, err) = bytes.split_first_chunk()?;
        Some(Counts { out: u64::from_le_bytes(*out), err: u64::from_le_bytes(err.try_into().ok()?) })
    }
}

/// What comes after the kept part of an agent's output.
#[derive(Default)]
struct Beyond {
    /// Handed on or lost.
    passed: Counts,
    /// Has left the pipe, but not for the owner yet: a turn's reads while the agent lives, a pipe's content at its end.
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Beyond {
    fn rest(&mut self, kind: u8) -> &mut Vec<u8> {
        if kind == KIND_ERR { &mut self.err } else { &mut self.out }
    }

    fn held(&self, stream: Stream) -> u64 {
        Counts { out: self.out.len() as u64, err: self.err.len() as u64 }.of(stream)
    }

    /// How much was not kept, of each stream.
    fn not_kept(&self) -> Counts {
        let mut all = self.passed;
        all.add(KIND_OUT, self.out.len() as u64);
        all.add(KIND_ERR, self.err.len() as u64);
        all
    }

    fn end(&self, kept: Mark, stream: Stream) -> u64 {
        kept.of(stream) + self.not_kept().of(stream)
    }

    /// What is held for a reader who has all that is kept, and where he goes on. What the owner was given is let go.
    fn take(&mut self, kept: Mark, wanted: &Wanted, is_owner: bool) -> Option<(Vec<u8>, u64)> {
        let front = kept.of(wanted.stream) + self.passed.of(wanted.stream);
        let end = self.end(kept, wanted.stream);
        let at = wanted.offset.max(front);
        if wanted.offset < kept.of(wanted.stream) || at > end || front == end {
            return None;
        }
        let mut skip = (at - front) as usize;
        let mut max = wanted.max.clamp(1, MOST_READ) as usize;
        let mut bytes = Vec::new();
        for kind in [KIND_OUT, KIND_ERR] {
            if !wanted.stream.has(kind) {
                continue;
            }
            let rest = self.rest(kind);
            let from = skip.min(rest.len());
            let to = from + max.min(rest.len() - from);
            bytes.extend_from_slice(&rest[from..to]);
            skip -= from;
            max -= to - from;
            if is_owner {
                rest.drain(..to);
                self.passed.add(kind, to as u64);
            }
        }
        let next = at + bytes.len() as u64;
        (!bytes.is_empty()).then_some((bytes, next))
    }

    fn give_up(&mut self) {
        self.passed = self.not_kept();
        (self.out, self.err) = Default::default();
    }
}

impl Stream {
    fn has(self, kind: u8) -> bool {
        match self {
            Stream::Out => kind == KIND_OUT,
            Stream::Err => kind == KIND_ERR,
            Stream::Both => true,
        }
    }
}

/// Where chunks start, one for every `stride` bytes of file: a reader anywhere finds its place without a walk from the
/// beginning, and the memory for it is bounded.
struct Index {
    marks: Vec<Mark>,
    stride: u64,
    end: Mark,
}

impl Index {
    const MARKS: usize = 2048;

    fn new() -> Index {
        Index { marks: vec![Mark::default()], stride: 64 * 1024, end: Mark::default() }
    }

    fn push(&mut self, kind: u8, len: u64) {
        if self.end.at >= self.marks.last().map_or(0, |m| m.at) + self.stride {
            self.marks.push(self.end);
            if self.marks.len() > Index::MARKS {
                let mut n = 0;
                self.marks.retain(|_| {
                    n += 1;
                    n % 2 == 1
                });
                self.stride *= 2;
            }
        }
        self.end = self.end.after(kind, len);
    }

    /// The last known chunk start at or before this offset of the stream.
    fn before(&self, stream: Stream, offset: u64) -> Mark {
        let n = self.marks.partition_point(|m| m.of(stream) <= offset);
        self.marks.get(n.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// A log file, opened.
struct Log {
    file: File,
    index: Index,
    not_kept: Counts,
}

impl Log {
    fn open(dir: &std::path::Path, agent: &str, create: bool) -> io::Result<Log> {
        let path = log_path(dir, agent).ok_or(io::ErrorKind::InvalidInput)?;
        let mut flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        flags |= if create { OFlags::CREATE | OFlags::RDWR | OFlags::APPEND } else { OFlags::RDONLY };
        let file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?);
        let mut log = Log { file, index: Index::new(), not_kept: Counts::default() };
        let len = log.file.metadata()?.len();
        if len > 0 {
            log.scan(len)?;
            if create && log.index.end.at < len {
                // A torn chunk: what is appended must follow a whole one.
                log.file.set_len(log.index.end.at)?;
            }
        }
        Ok(log)
    }

    /// Finds all whole chunks.
    fn scan(&mut self, len: u64) -> io::Result<()> {
        let mut window = Window::new();
        while let Some((kind, size)) = window.header(&self.file, self.index.end.at, len)? {
            if kind == KIND_DROPPED && size == 16 {
                let bytes = window.bytes(&self.file, self.index.end.at + HEADER as u64, 16)?;
                self.not_kept = Counts::from_bytes(bytes).unwrap_or_default();
            }
            self.index.push(kind, u64::from(size));
        }
        Ok(())
    }

    /// Up to `max` bytes of the stream from `offset` on.
    fn read(&self, stream: Stream, offset: u64, max: u32) -> io::Result<Vec<u8>> {
        let max = u64::from(max.clamp(1, MOST_READ));
        let wanted = self.index.end.of(stream).saturating_sub(offset).min(max);
        let mut bytes = Vec::with_capacity(wanted as usize);
        let mut window = Window::new();
        let mut mark = self.index.before(stream, offset);
        while (bytes.len() as u64) < wanted {
            let Some((kind, size)) = window.header(&self.file, mark.at, self.index.end.at)? else { break };
            let next = mark.after(kind, u64::from(size));
            let at = offset + bytes.len() as u64;
            if next.of(stream) > at {
                let skip = at.saturating_sub(mark.of(stream));
                let take = (u64::from(size) - skip).min(wanted - bytes.len() as u64);
                let start = mark.at + HEADER as u64 + skip;
                bytes.extend_from_slice(window.bytes(&self.file, start, take as usize)?);
            }
            mark = next;
        }
        Ok(bytes)
    }

    /// One chunk, the header in front of `len` bytes of content being `space`'s first bytes. All or nothing.
    fn append(&mut self, kind: u8, space: &mut [u8], len: usize) -> Result<(), Errno> {
        space[0] = kind;
        space[1..HEADER].copy_from_slice(&(len as u32).to_le_bytes());
        let mut rest = &space[..HEADER + len];
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest)) {
                Ok(n) if n > 0 => rest = &rest[n..],
                other => {
                    // Readers and the next chunk go by the whole ones.
                    let _ = self.file.set_len(self.index.end.at);
                    return Err(other.err().unwrap_or(Errno::IO));
                }
            }
        }
        self.index.push(kind, len as u64);
        Ok(())
    }

    fn is_sound(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.len() == self.index.end.at)
    }
}

/// A piece of a file in memory, moved along as headers are walked.
struct Window {
    bytes: Vec<u8>,
    start: u64,
}

impl Window {
    fn new() -> Window {
        Window { bytes: Vec::new(), start: 0 }
    }

    fn bytes(&mut self, file: &File, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes.resize(len.max(READ_BYTES), 0);
            let mut got = 0;
            while got < self.bytes.len() {
                match file.read_at(&mut self.bytes[got..], at + got as u64) {
                    Ok(0) => break,
                    Ok(n) => got += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        self.bytes.clear();
                        return Err(e);
                    }
                }
            }
            self.bytes.truncate(got);
            self.start = at;
        }
        let from = (at - self.start) as usize;
        self.bytes.get(from..from + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The chunk at `at`; none when no whole one lies before `end`.
    fn header(&mut self, file: &File, at: u64, end: u64) -> io::Result<Option<(u8, u32)>> {
        if at + HEADER as u64 > end {
            return Ok(None);
        }
        let &[kind, a, b, c, d] = self.bytes(file, at, HEADER)? else { return Ok(None) };
        let size = u32::from_le_bytes([a, b, c, d]);
        let good = (KIND_OUT..=KIND_DROPPED).contains(&kind)
            && size <= CHUNK_MAX
            && at + HEADER as u64 + u64::from(size) <= end;
        Ok(good.then_some((kind, size)))
    }
}

fn log_path(dir: &std::path::Path, agent: &str) -> Option<PathBuf> {
    let digits = |s: &str| !s.is_empty() && s.len() <= 20 && s.bytes().all(|b| b.is_ascii_digit());
    let (slot, generation) = agent.strip_prefix('a')?.split_once('.')?;
    (digits(slot) && digits(generation)).then(|| dir.join(format!("{agent}.log")))
}

/// The last words of an agent.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, new: &[u8]) {
        let new = &new[new.len().saturating_sub(TAIL_BYTES)..];
        self.bytes.extend_from_slice(new);
        if self.bytes.len() > 4 * TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - TAIL_BYTES);
        }
    }

    fn text(&self) -> String {
        let mut bytes = &self.bytes[self.bytes.len().saturating_sub(TAIL_BYTES)..];
        if bytes.len() < self.bytes.len() {
            // Not the last bytes of a character that was cut.
            let cut = bytes.iter().take(3).take_while(|b| **b & 0xc0 == 0x80).count();
            bytes = &bytes[cut..];
        }
        let text = String::from_utf8_lossy(bytes);
        let mut start = 0;
        let body = text.strip_suffix('\n').unwrap_or(&text);
        if let Some((at, _)) = body.rmatch_indices('\n').nth(TAIL_LINES - 1) {
            start = at + 1;
        }
        // What can't be read takes three bytes for one.
        start = start.max(text.len().saturating_sub(TAIL_BYTES));
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text[start..].to_owned()
    }
}

/// A pipe that is read, or a terminal.
struct Source {
    number: u64,
    fd: OwnedFd,
    /// Epoll knows it. One that nobody may read from now would be reported for ever when it has been closed.
    watched: bool,
}

/// An agent whose output is being read.
struct Live {
    /// None when its file couldn't be opened.
    log: Option<Log>,
    limit_bytes: u64,
    owner: Option<Owner>,
    beyond: Beyond,
    tail: Tail,
    out: Option<Source>,
    err: Option<Source>,
    waiting: Vec<Wanted>,
}

impl Live {
    fn end(&self) -> Mark {
        self.log.as_ref().map(|l| l.index.end).unwrap_or_default()
    }

    fn source(&mut self, kind: u8) -> &mut Option<Source> {
        if kind == KIND_ERR { &mut self.err } else { &mut self.out }
    }

    /// How much more is kept.
    fn room(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.end().of(Stream::Both))
    }

    /// What comes now goes from hand to hand, as fast as the owner takes it.
    fn is_passing(&self) -> bool {
        self.owner.is_some() && self.room() == 0
    }

    fn is_owner(&self, wanted: &Wanted) -> bool {
        self.owner.is_some_and(|o| o.pid == wanted.pid)
    }

    /// The owner waits for more of this stream, and nothing is held for him.
    fn is_asked(&self, kind: u8) -> bool {
        let held = if kind == KIND_ERR { &self.beyond.err } else { &self.beyond.out };
        let end = |stream| self.beyond.end(self.end(), stream);
        held.is_empty()
            && self
                .waiting
                .iter()
                .any(|w| w.stream.has(kind) && self.is_owner(w) && w.offset <= end(w.stream))
    }

    /// Reads up to `most` bytes of a pipe. For an owner no more than is kept; with `all`, the rest is held for him.
    fn take_in(&mut self, kind: u8, most: u64, all: bool, space: &mut [u8]) -> (Took, Option<Errno>) {
        let mut taken = 0;
        let mut failed = None;
        while taken < most {
            let bounded = self.owner.is_some() && !all;
            let size = if bounded { READ_BYTES.min(self.room() as usize) } else { READ_BYTES };
            if size == 0 {
                break;
            }
            let Some(Source { fd, .. }) = self.source(kind).as_ref() else { return (Took::End, failed) };
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut space[HEADER..HEADER + size])) {
                Ok(0) => return (Took::End, failed),
                Ok(n) => {
                    taken += n as u64;
                    failed = self.keep(kind, space, n).or(failed);
                }
                Err(Errno::AGAIN) => return (Took::All, failed),
                // A terminal whose last user has gone says EIO. Any other error would come again and again.
                Err(_) => return (Took::End, failed),
            }
        }
        (Took::Some, failed)
    }

    /// Keeps what the limit allows of the `n` bytes behind the header's place in `space`.
    fn keep(&mut self, kind: u8, space: &mut [u8], n: usize) -> Option<Errno> {
        self.tail.push(&space[HEADER..HEADER + n]);
        let fits = usize::try_from(self.room()).unwrap_or(usize::MAX).min(n);
        let outcome = match &mut self.log {
            Some(log) if fits > 0 => log.append(kind, &mut space[..HEADER + n], fits),
            _ => Ok(()),
        };
        let kept = if outcome.is_ok() && self.log.is_some() { fits } else { 0 };
        if self.owner.is_some() {
            self.beyond.rest(kind).extend_from_slice(&space[HEADER + kept..HEADER + n]);
        } else {
            self.beyond.passed.add(kind, (n - kept) as u64);
        }
        let failed = outcome.err()?;
        if self.owner.is_some() {
            // What comes after it is handed on likewise: kept bytes never come after others.
            self.limit_bytes = self.end().of(Stream::Both);
        } else if self.log.as_ref().is_some_and(|log| !log.is_sound()) {
            // The torn bytes couldn't be taken back: nothing may follow them.
            self.limit_bytes = 0;
        }
        Some(failed)
    }

    /// What is kept, for one who needn't wait for it.
    fn answer(&self, wanted: &Wanted) -> LogEvent {
        let bytes = match &self.log {
            Some(log) => log.read(wanted.stream, wanted.offset, wanted.max),
            None => Ok(Vec::new()),
        };
        let dropped = self.beyond.not_kept().of(Stream::Both);
        match bytes {
            Ok(bytes) => {
                let next = wanted.offset + bytes.len() as u64;
                LogEvent::Read { ticket: wanted.ticket, next, eof: false, dropped, bytes }
            }
            Err(e) => unreadable(wanted, &e),
        }
    }
}

/// From the output of an agent that has ended.
fn last_answer(log: Option<&Log>, beyond: &mut Beyond, wanted: &Wanted, is_owner: bool) -> LogEvent {
    let kept = log.map(|l| l.index.end).unwrap_or_default();
    let end = beyond.end(kept, wanted.stream);
    let mut next = wanted.offset;
    let mut bytes = Vec::new();
    if let Some(log) = log
        && wanted.offset < kept.of(wanted.stream)
    {
        bytes = match log.read(wanted.stream, wanted.offset, wanted.max) {
            Ok(bytes) => bytes,
            Err(e) => return unreadable(wanted, &e),
        };
        next += bytes.len() as u64;
    } else if let Some(held) = beyond.take(kept, wanted, is_owner) {
        (bytes, next) = held;
    }
    // Passing over the rest is an answer of its own: bytes are always the last before `next`.
    let eof = next >= end || (bytes.is_empty() && next >= kept.of(wanted.stream));
    if eof {
        next = next.max(end);
    }
    let dropped = beyond.not_kept().of(Stream::Both);
    LogEvent::Read { ticket: wanted.ticket, next, eof, dropped, bytes }
}

fn unreadable(wanted: &Wanted, e: &io::Error) -> LogEvent {
    let message = format!("the log of {} can't be read: {e}", wanted.agent);
    LogEvent::ReadFailed { ticket: wanted.ticket, message }
}

enum Took {
    /// Nothing is there at the moment.
    All,
    /// There may be more.
    Some,
    End,
}

struct Keeper {
    dir: PathBuf,
    poll: OwnedFd,
    wake: OwnedFd,
    inbox: mpsc::Receiver<Command>,
    notify: Box<dyn Fn(LogEvent) + Send>,
    live: HashMap<String, Live>,
    /// By the number that epoll knows it by; numbers aren't used again, so an event can't reach the wrong agent.
    sources: HashMap<u64, (String, u8)>,
    next_source: u64,
    /// Logs of agents that are gone, the latest read last.
    past: VecDeque<(String, Log)>,
    /// What agents that are gone have left for their owners, the latest last.
    held: VecDeque<(String, Owner, Beyond)>,
    buffer: Vec<u8>,
    disk_failed: bool,
}

impl Keeper {
    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => {
                    say!("the log keeper can't wait for output any more: {e}");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        if !self.commands() {
                            return;
                        }
                    }
                    source => self.ready(source),
                }
            }
        }
    }

    /// False at the end of everything.
    fn commands(&mut self) -> bool {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        for _ in 0..COMMANDS_PER_TURN {
            match self.inbox.try_recv() {
                Ok(Command::Add { agent, out, err, limit_bytes, owner }) => {
                    self.add(agent, out, err, limit_bytes, owner);
                }
                Ok(Command::Read(wanted)) => self.read(wanted),
                Ok(Command::Cancel { ticket }) => {
                    for live in self.live.values_mut() {
                        live.waiting.retain(|w| w.ticket != ticket);
                    }
                }
                Ok(Command::Gone { conn }) => self.gone(conn),
                Ok(Command::Finish { agent }) => self.finish(&agent),
                Ok(Command::Forget { agent }) => self.forget(&agent),
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        true
    }

    fn add(
        &mut self,
        agent: String,
        out: OwnedFd,
        err: Option<OwnedFd>,
        limit_bytes: u64,
        owner: Option<Owner>,
    ) {
        if let Some(mut earlier) = self.live.remove(&agent) {
            self.close_source(&mut earlier, KIND_OUT);
            self.close_source(&mut earlier, KIND_ERR);
            self.answer_last(&mut earlier);
        }
        self.past.retain(|(name, _)| *name != agent);
        self.held.retain(|(name, ..)| *name != agent);
        let log = match Log::open(&self.dir, &agent, true) {
            Ok(log) => Some(log),
            Err(e) => {
                say!("what {agent} prints can't be kept in {}: {e}", self.dir.display());
                None
            }
        };
        let passed = log.as_ref().map(|l| l.not_kept).unwrap_or_default();
        let mut live = Live {
            limit_bytes: if log.is_some() { limit_bytes } else { 0 },
            owner,
            beyond: Beyond { passed, ..Beyond::default() },
            tail: Tail { bytes: log.as_ref().map(last_words).unwrap_or_default() },
            log,
            out: None,
            err: None,
            waiting: Vec::new(),
        };
        for (kind, fd) in [(KIND_OUT, Some(out)), (KIND_ERR, err)] {
            let Some(fd) = fd else { continue };
            let number = self.next_source;
            self.next_source += 1;
            let nonblocking = rustix::fs::fcntl_getfl(&fd)
                .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
            if let Err(e) = nonblocking {
                say!("what {agent} prints can't be read: {e}");
                continue;
            }
            self.sources.insert(number, (agent.clone(), kind));
            *live.source(kind) = Some(Source { number, fd, watched: false });
            self.watch(&mut live, kind, true);
        }
        self.live.insert(agent, live);
    }

    fn ready(&mut self, source: u64) {
        // It may have been closed by a command in the same turn.
        let Some((agent, kind)) = self.sources.get(&source).cloned() else { return };
        let Some(mut live) = self.live.remove(&agent) else { return };
        if !live.is_passing() {
            if let Took::End = self.take_in(&mut live, kind, TURN_BYTES, false) {
                self.close_source(&mut live, kind);
            }
            self.answer_kept(&mut live);
        }
        if live.is_passing() {
            self.pass_on(&mut live);
        }
        self.live.insert(agent, live);
    }

    fn take_in(&mut self, live: &mut Live, kind: u8, most: u64, all: bool) -> Took {
        let (took, failed) = live.take_in(kind, most, all, &mut self.buffer);
        if let Some(e) = failed
            && !std::mem::replace(&mut self.disk_failed, true)
        {
            say!("output of agents can't be kept in {}: {e}; it is counted as dropped", self.dir.display());
        }
        took
    }

    /// From the pipes to the owner, if he waits; whoever else waits there gets it too.
    fn pass_on(&mut self, live: &mut Live) {
        for kind in [KIND_OUT, KIND_ERR] {
            if live.is_asked(kind)
                && let Took::End = self.take_in(live, kind, TURN_BYTES, true)
            {
                self.close_source(live, kind);
            }
        }
        let kept = live.end();
        // The owner last, as what he was given is let go.
        let (owners, others): (Vec<Wanted>, Vec<Wanted>) =
            std::mem::take(&mut live.waiting).into_iter().partition(|w| live.is_owner(w));
        for w in others.into_iter().chain(owners) {
            let is_owner = live.is_owner(&w);
            let (bytes, next) = match live.beyond.take(kept, &w, is_owner) {
                Some(taken) => taken,
                None if w.follow => {
                    live.waiting.push(w);
                    continue;
                }
                None => (Vec::new(), w.offset),
            };
            let dropped = live.beyond.not_kept().of(Stream::Both);
            (self.notify)(LogEvent::Read { ticket: w.ticket, bytes, next, eof: false, dropped });
        }
        for kind in [KIND_OUT, KIND_ERR] {
            let wanted = live.is_asked(kind);
            self.watch(live, kind, wanted);
        }
    }

    fn watch(&mut self, live: &mut Live, kind: u8, wanted: bool) {
        let Some(source) = live.source(kind).as_mut().filter(|s| s.watched != wanted) else { return };
        source.watched = wanted;
        if !wanted {
            let _ = epoll::delete(&self.poll, &source.fd);
            return;
        }
        let data = epoll::EventData::new_u64(source.number);
        if let Err(e) = epoll::add(&self.poll, &source.fd, data, epoll::EventFlags::IN) {
            say!("what an agent prints can't be read: {e}");
            self.sources.remove(&source.number);
            *live.source(kind) = None;
        }
    }

    fn close_source(&mut self, live: &mut Live, kind: u8) {
        // Closing is not enough when the launcher holds a duplicate (epoll(7), Q6).
        self.watch(live, kind, false);
        if let Some(source) = live.source(kind).take() {
            self.sources.remove(&source.number);
        }
    }

    /// Those that needn't wait any longer.
    fn answer_kept(&self, live: &mut Live) {
        if live.waiting.is_empty() {
            return;
        }
        let end = live.end();
        let (now, later): (Vec<Wanted>, Vec<Wanted>) =
            std::mem::take(&mut live.waiting).into_iter().partition(|w| end.of(w.stream) > w.offset);
        live.waiting = later;
        for wanted in &now {
            (self.notify)(live.answer(wanted));
        }
    }

    /// All that wait, at the agent's end.
    fn answer_last(&self, live: &mut Live) {
        let (owners, others): (Vec<Wanted>, Vec<Wanted>) =
            std::mem::take(&mut live.waiting).into_iter().partition(|w| live.is_owner(w));
        for w in others.iter().chain(&owners) {
            let is_owner = live.is_owner(w);
            (self.notify)(last_answer(live.log.as_ref(), &mut live.beyond, w, is_owner));
        }
    }

    fn read(&mut self, wanted: Wanted) {
        if let Some((agent, mut live)) = self.live.remove_entry(&wanted.agent) {
            let passing = live.is_passing();
            if live.end().of(wanted.stream) > wanted.offset || (!wanted.follow && !passing) {
                (self.notify)(live.answer(&wanted));
            } else {
                live.waiting.push(wanted);
                if passing {
                    self.pass_on(&mut live);
                }
            }
            self.live.insert(agent, live);
            return;
        }
        let held = self.held.iter().position(|(name, ..)| *name == wanted.agent);
        let mut held = held.and_then(|at| self.held.remove(at));
        let event = match (self.past_log(&wanted.agent), &mut held) {
            (log, Some((_, owner, beyond))) => {
                last_answer(log.ok(), beyond, &wanted, owner.pid == wanted.pid)
            }
            (Ok(log), None) => {
                let mut beyond = Beyond { passed: log.not_kept, ..Beyond::default() };
                last_answer(Some(log), &mut beyond, &wanted, false)
            }
            (Err(e), None) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                let message = format!("no output of {} is kept here", wanted.agent.escape_debug());
                LogEvent::ReadFailed { ticket: wanted.ticket, message }
            }
            (Err(e), None) => unreadable(&wanted, &e),
        };
        (self.notify)(event);
        if let Some((agent, owner, beyond)) = held {
            self.hold(agent, owner, beyond);
        }
    }

    fn hold(&mut self, agent: String, owner: Owner, beyond: Beyond) {
        if beyond.held(Stream::Both) == 0 {
            return;
        }
        self.held.push_back((agent, owner, beyond));
        let mut all: u64 = self.held.iter().map(|(.., b)| b.held(Stream::Both)).sum();
        while all > HELD_MOST as u64 {
            all -= self.held.pop_front().map_or(all, |(.., b)| b.held(Stream::Both));
        }
    }

    fn gone(&mut self, conn: u64) {
        self.held.retain(|(_, owner, _)| owner.conn != conn);
        let its = |live: &Live| live.owner.is_some_and(|o| o.conn == conn);
        let agents: Vec<String> =
            self.live.iter().filter(|(_, l)| its(l)).map(|(name, _)| name.clone()).collect();
        for agent in agents {
            let Some(mut live) = self.live.remove(&agent) else { continue };
            live.owner = None;
            live.beyond.give_up();
            self.watch(&mut live, KIND_OUT, true);
            self.watch(&mut live, KIND_ERR, true);
            self.live.insert(agent, live);
        }
    }

    fn past_log(&mut self, agent: &str) -> io::Result<&Log> {
        let log = match self.past.iter().position(|(name, _)| name == agent) {
            Some(at) => self.past.remove(at).map(|(_, log)| log),
            None => None,
        };
        let log = match log {
            Some(log) => log,
            None => Log::open(&self.dir, agent, false)?,
        };
        if self.past.len() >= PAST_KEPT {
            self.past.pop_front();
        }
        self.past.push_back((agent.to_owned(), log));
        self.past.back().map(|(_, log)| log).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn finish(&mut self, agent: &str) {
        let Some(mut live) = self.live.remove(agent) else {
            let (tail, dropped) = match self.past_log(agent) {
                Ok(log) => (Tail { bytes: last_words(log) }.text(), log.not_kept.of(Stream::Both)),
                Err(_) => Default::default(),
            };
            (self.notify)(LogEvent::Finished { agent: agent.to_owned(), tail, dropped });
            return;
        };
        for kind in [KIND_OUT, KIND_ERR] {
            // Whoever still holds the other end may go on writing: no more is taken than can lie in a pipe.
            let size = live
                .source(kind)
                .as_ref()
                .map_or(0, |s| rustix::pipe::fcntl_getpipe_size(s.fd.as_fd()).unwrap_or(1 << 20));
            self.take_in(&mut live, kind, size as u64, true);
            self.close_source(&mut live, kind);
        }
        let not_kept = live.beyond.not_kept();
        if let Some(log) = &mut live.log
            && not_kept != log.not_kept
            && log.is_sound()
        {
            self.buffer[HEADER..HEADER + 16].copy_from_slice(&not_kept.to_bytes());
            // When it fails, the count is missing after a restart of the kernel, and nothing else.
            let _ = log.append(KIND_DROPPED, &mut self.buffer, 16);
            log.not_kept = not_kept;
        }
        self.answer_last(&mut live);
        if let Some(owner) = live.owner {
            self.hold(agent.to_owned(), owner, live.beyond);
        }
        let (tail, dropped) = (live.tail.text(), not_kept.of(Stream::Both));
        if let Some(log) = live.log {
            if self.past.len() >= PAST_KEPT {
                self.past.pop_front();
            }
            self.past.push_back((agent.to_owned(), log));
        }
        (self.notify)(LogEvent::Finished { agent: agent.to_owned(), tail, dropped });
    }

    fn forget(&mut self, agent: &str) {
        if let Some(mut live) = self.live.remove(agent) {
            self.close_source(&mut live, KIND_OUT);
            self.close_source(&mut live, KIND_ERR);
            self.answer_last(&mut live);
        }
        self.past.retain(|(name, _)| name != agent);
        self.held.retain(|(name, ..)| name != agent);
        let Some(path) = log_path(&self.dir, agent) else { return };
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                say!("the log {} can't be removed: {e}", path.display());
            }
            _ => {}
        }
    }
}

fn last_words(log: &Log) -> Vec<u8> {
    let end = log.index.end.of(Stream::Both);
    log.read(Stream::Both, end.saturating_sub(TAIL_BYTES as u64), TAIL_BYTES as u32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, Instant};

    struct Place {
        dir: tempfile::TempDir,
        keeper: LogKeeper,
        events: mpsc::Receiver<LogEvent>,
    }

    fn place() -> Place {
        on(tempfile::tempdir().expect("folder"))
    }

    fn on(dir: tempfile::TempDir) -> Place {
        let (tell, events) = mpsc::channel();
        let keeper = LogKeeper::start(dir.path().join("logs"), move |e| drop(tell.send(e))).expect("started");
        Place { dir, keeper, events }
    }

    fn pipe() -> (OwnedFd, File) {
        let (r, w) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        (r, File::from(w))
    }

    impl Place {
        fn event(&self) -> LogEvent {
            self.events.recv_timeout(Duration::from_secs(20)).expect("an event")
        }

        fn ask(&self, ticket: u64, agent: &str, stream: Stream, offset: u64, max: u32, follow: bool) {
            self.keeper.read(Wanted { ticket, agent: agent.into(), stream, offset, max, follow, pid: 0 });
        }

        fn silent(&self) -> bool {
            self.events.recv_timeout(Duration::from_millis(100)).is_err()
        }

        fn read(&self, stream: Stream, offset: u64, max: u32) -> (Vec<u8>, u64, bool, u64) {
            self.ask(9, "a1.1", stream, offset, max, false);
            match self.event() {
                LogEvent::Read { ticket: 9, bytes, next, eof, dropped } => (bytes, next, eof, dropped),
                other => panic!("{other:?}"),
            }
        }

        fn finish(&self) -> (String, u64) {
            self.keeper.finish("a1.1");
            match self.event() {
                LogEvent::Finished { tail, dropped, .. } => (tail, dropped),
                other => panic!("{other:?}"),
            }
        }

        fn write_and_wait(&self, w: &mut File, stream: Stream, offset: u64, bytes: &[u8]) {
            w.write_all(bytes).expect("write");
            self.ask(1, "a1.1", stream, offset + bytes.len() as u64 - 1, 1, true);
            assert!(matches!(self.event(), LogEvent::Read { ticket: 1, .. }));
        }
    }

    #[test]
    fn streams_are_kept_apart_and_together() {
        let p = place();
        let ((out, mut to_out), (err, mut to_err)) = (pipe(), pipe());
        p.keeper.add("a1.1", out, Some(err), 1000, None);
        p.write_and_wait(&mut to_out, Stream::Out, 0, b"one ");
        p.write_and_wait(&mut to_err, Stream::Err, 0, b"ERR ");
        p.write_and_wait(&mut to_out, Stream::Out, 4, b"two ");
        assert_eq!(p.read(Stream::Out, 0, 100), (b"one two ".to_vec(), 8, false, 0));
        assert_eq!(p.read(Stream::Err, 1, 100), (b"RR ".to_vec(), 4, false, 0));
        assert_eq!(p.read(Stream::Both, 0, 100).0, b"one ERR two ");
        assert_eq!(p.read(Stream::Both, 2, 4), (b"e ER".to_vec(), 6, false, 0));
        assert_eq!(p.read(Stream::Both, 12, 4), (Vec::new(), 12, false, 0));
        // The other end is held open all the while.
        assert_eq!(p.finish(), ("one ERR two ".to_owned(), 0));
        assert_eq!(p.read(Stream::Both, 2, 100), (b"e ERR two ".to_vec(), 12, true, 0));
        assert!(!p.read(Stream::Out, 0, 3).2);
        // EPIPE from now on, and not a full pipe.
        assert!(to_out.write_all(b"x").is_err());
        drop(p.keeper);
    }

    #[test]
    fn following() {
        let p = place();
        let (out, mut to_out) = pipe();
        p.keeper.add("a1.1", out, None, 1000, None);
        p.ask(1, "a1.1", Stream::Both, 0, 100, true);
        p.ask(2, "a1.1", Stream::Both, 0, 100, true);
        p.ask(3, "a1.1", Stream::Err, 0, 100, true);
        p.keeper.cancel(2);
        assert!(p.silent());
        to_out.write_all(b"line\n").expect("write");
        assert_eq!(
            p.event(),
            LogEvent::Read { ticket: 1, bytes: b"line\n".to_vec(), next: 5, eof: false, dropped: 0 }
        );
        p.ask(4, "a1.1", Stream::Both, 5, 100, true);
        // The end of the stream isn't the end of the agent.
        drop(to_out);
        assert!(p.silent());
        p.keeper.finish("a1.1");
        for ticket in [3, 4] {
            let LogEvent::Read { ticket: t, bytes, eof, .. } = p.event() else { panic!("not read") };
            assert_eq!((t, bytes, eof), (ticket, Vec::new(), true));
        }
        assert!(matches!(p.event(), LogEvent::Finished { tail, .. } if tail == "line\n"));
        p.ask(5, "a1.1", Stream::Both, 5, 100, true);
        assert!(matches!(p.event(), LogEvent::Read { ticket: 5, eof: true, .. }));
    }

    #[test]
    fn a_flood_is_counted_and_starves_nobody() {
        let p = place();
        let (out, mut to_out) = pipe();
        let (quiet, mut to_quiet) = pipe();
        p.keeper.add("a1.1", out, None, 10_000, None);
        p.keeper.add("a2.1", quiet, None, 10_000, None);
        let flood = std::thread::spawn(move || {
            let block = vec![b'x'; 1 << 20];
            for _ in 0..300 {
                to_out.write_all(&block).expect("never blocked for good");
            }
            to_out.write_all(b"\nlast words").expect("write");
            301u64
        });
        let began = Instant::now();
        to_quiet.write_all(b"here").expect("write");
        p.ask(1, "a2.1", Stream::Both, 0, 10, true);
        assert!(matches!(p.event(), LogEvent::Read { ticket: 1, .. }));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        flood.join().expect("flooded");
        let (tail, dropped) = p.finish();
        assert_eq!(dropped, (300 << 20) + 11 - 10_000);
        assert!(tail.ends_with("\nlast words") && tail.len() <= TAIL_BYTES);
        assert_eq!(p.read(Stream::Both, 0, u32::MAX), (vec![b'x'; 10_000], 10_000, false, dropped));
        assert_eq!(p.read(Stream::Out, 10_000, 1), (Vec::new(), 10_000 + dropped, true, dropped));
        let file = p.dir.path().join("logs/a1.1.log");
        assert!(std::fs::metadata(file).expect("stat").len() < 11_000);
    }

    const OWNER: Owner = Owner { conn: 5, pid: 50 };
    /// Of the agent and of the other one.
    const OUT: u64 = 1;
    const ERR: u64 = 2;

    /// A byte of a stream that is nowhere the same.
    fn byte(n: u64) -> u8 {
        (n ^ (n >> 8) ^ (n >> 17)) as u8
    }

    /// Writes `bytes` and tells how far it is; the end may be refused.
    fn writer(
        mut to: File,
        bytes: u64,
    ) -> (Arc<std::sync::atomic::AtomicU64>, std::thread::JoinHandle<io::Result<()>>) {
        let written = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let told = Arc::clone(&written);
        let thread = std::thread::spawn(move || {
            let mut at = 0;
            while at < bytes {
                let block: Vec<u8> = (at..bytes.min(at + 10_007)).map(byte).collect();
                to.write_all(&block)?;
                at += block.len() as u64;
                told.store(at, std::sync::atomic::Ordering::SeqCst);
            }
            Ok(())
        });
        (written, thread)
    }

    /// A reader that checks what it gets.
    struct Follower {
        ticket: u64,
        stream: Stream,
        pid: u32,
        next: u64,
        missed: u64,
        eof: bool,
    }

    impl Follower {
        fn new(ticket: u64, stream: Stream, pid: u32) -> Follower {
            Follower { ticket, stream, pid, next: 0, missed: 0, eof: false }
        }

        fn ask(&self, p: &Place, max: u32) {
            let &Follower { ticket, stream, pid, next: offset, .. } = self;
            p.keeper.read(Wanted { ticket, agent: "a1.1".into(), stream, offset, max, follow: true, pid });
        }

        fn take(&mut self, e: LogEvent) -> usize {
            let LogEvent::Read { ticket, bytes, next, eof, .. } = e else { panic!("{e:?}") };
            assert_eq!(ticket, self.ticket);
            if !bytes.is_empty() {
                let at = next - bytes.len() as u64;
                assert!(bytes.iter().zip(at..).all(|(b, n)| *b == byte(n)), "at {at}");
            }
            self.missed += next - self.next - bytes.len() as u64;
            (self.next, self.eof) = (next, eof);
            bytes.len()
        }

        fn go_to_the_end(&mut self, p: &Place, max: u32) {
            while !self.eof {
                self.ask(p, max);
                self.take(p.event());
            }
        }
    }

    #[test]
    fn an_attached_agent_waits_for_its_owner_who_gets_everything() {
        const ALL: u64 = 3 << 20;
        let p = place();
        let (out, to_out) = pipe();
        p.keeper.add("a1.1", out, None, 10_000, Some(OWNER));
        let (written, thread) = writer(to_out, ALL);
        let mut owner = Follower::new(OUT, Stream::Out, OWNER.pid);
        for _ in 0..5 {
            // Not even a step when nobody reads: only what is kept and what lies in the pipe and with the keeper.
            std::thread::sleep(Duration::from_millis(50));
            let ahead = written.load(std::sync::atomic::Ordering::SeqCst).saturating_sub(owner.next);
            assert!(ahead <= 10_000 + 65_536 + TURN_BYTES, "{ahead}");
            owner.ask(&p, 1000);
            owner.take(p.event());
        }
        while owner.next < ALL {
            owner.ask(&p, 1 << 20);
            owner.take(p.event());
        }
        thread.join().expect("joined").expect("written");
        let (_, dropped) = p.finish();
        owner.go_to_the_end(&p, 1 << 20);
        assert_eq!((owner.next, owner.missed, dropped), (ALL, 0, ALL - 10_000));
        // Who comes late finds what is kept, and sees what isn't.
        let mut late = Follower::new(9, Stream::Both, 7);
        late.go_to_the_end(&p, 1 << 20);
        assert_eq!((late.next, late.missed), (ALL, ALL - 10_000));
        assert!(std::fs::metadata(p.dir.path().join("logs/a1.1.log")).expect("stat").len() < 11_000);
    }

    #[test]
    fn both_streams_of_an_attached_agent_at_once() {
        const ALL: u64 = 4 << 20;
        let p = place();
        let ((out, to_out), (err, to_err)) = (pipe(), pipe());
        p.keeper.add("a1.1", out, Some(err), 100_000, Some(OWNER));
        let (_, out_thread) = writer(to_out, ALL);
        let (err_written, err_thread) = writer(to_err, ALL);
        let mut followers =
            [Follower::new(OUT, Stream::Out, OWNER.pid), Follower::new(ERR, Stream::Err, OWNER.pid)];
        // One goes on without the other.
        while followers[0].next < ALL {
            followers[0].ask(&p, 1 << 20);
            followers[0].take(p.event());
        }
        assert!(err_written.load(std::sync::atomic::Ordering::SeqCst) <= 100_000 + 65_536 + TURN_BYTES);
        out_thread.join().expect("joined").expect("written");
        followers[0].ask(&p, 1 << 20);
        followers[1].ask(&p, 1 << 20);
        while followers[1].next < ALL {
            followers[1].take(p.event());
            followers[1].ask(&p, 1 << 20);
        }
        err_thread.join().expect("joined").expect("written");
        p.keeper.finish("a1.1");
        for _ in 0..2 {
            let e = p.event();
            let at = usize::from(matches!(e, LogEvent::Read { ticket: ERR, .. }));
            followers[at].take(e);
        }
        assert!(followers.iter().all(|f| f.eof && f.missed == 0 && f.next == ALL));
        assert!(matches!(p.event(), LogEvent::Finished { dropped, .. } if dropped == 2 * ALL - 100_000));
    }

    #[test]
    fn an_attached_agent_ends_while_it_waits() {
        let p = place();
        let ((out, to_out), (err, to_err)) = (pipe(), pipe());
        p.keeper.add("a1.1", out, Some(err), 1000, Some(OWNER));
        let (_, out_thread) = writer(to_out, 1 << 20);
        let (_, err_thread) = writer(to_err, 1 << 20);
        std::thread::sleep(Duration::from_millis(100));
        let mut owner = Follower::new(OUT, Stream::Out, OWNER.pid);
        let (tail, dropped) = p.finish();
        assert!(!tail.is_empty());
        assert!(out_thread.join().expect("joined").is_err() && err_thread.join().expect("joined").is_err());
        // What lay in the pipes is still the owner's, in pieces and at any time; others don't take it from him.
        let mut other = Follower::new(8, Stream::Out, 7);
        other.go_to_the_end(&p, 1 << 20);
        owner.go_to_the_end(&p, 5000);
        assert_eq!((owner.missed, other.missed, other.next), (0, 0, owner.next));
        let mut errors = Follower::new(ERR, Stream::Err, OWNER.pid);
        errors.go_to_the_end(&p, 5000);
        assert_eq!((errors.missed, owner.next + errors.next), (0, dropped + 1000));
        assert!(owner.next > 60_000 && errors.next > 60_000);
        // It was let go with that.
        let mut late = Follower::new(9, Stream::Both, OWNER.pid);
        late.ask(&p, 1000);
        let LogEvent::Read { bytes, next: 1000, eof: false, .. } = p.event() else { panic!("not read") };
        assert_eq!(bytes.len(), 1000);
        late.next = 1000;
        late.go_to_the_end(&p, 1000);
        assert_eq!(late.missed, dropped);
    }

    #[test]
    fn an_attached_agent_whose_owner_goes_is_as_any_other() {
        let p = place();
        let (out, to_out) = pipe();
        p.keeper.add("a1.1", out, None, 1000, Some(OWNER));
        let (written, thread) = writer(to_out, 1 << 20);
        std::thread::sleep(Duration::from_millis(100));
        assert!(written.load(std::sync::atomic::Ordering::SeqCst) < 1 << 20);
        p.keeper.gone(OWNER.conn + 1);
        assert!(p.silent() && !thread.is_finished());
        p.keeper.gone(OWNER.conn);
        thread.join().expect("joined").expect("written");
        assert_eq!(p.finish().1, (1 << 20) - 1000);
        // And one that has left something.
        let (out, to_out) = pipe();
        p.keeper.forget("a1.1");
        p.keeper.add("a1.1", out, None, 1000, Some(OWNER));
        let (_, thread) = writer(to_out, 1 << 20);
        std::thread::sleep(Duration::from_millis(100));
        p.finish();
        assert!(thread.join().expect("joined").is_err());
        p.keeper.gone(OWNER.conn);
        let mut owner = Follower::new(OUT, Stream::Out, OWNER.pid);
        owner.go_to_the_end(&p, 1 << 20);
        assert_eq!(owner.missed, owner.next - 1000);
    }

    #[test]
    fn others_look_on_without_taking_anything_from_the_owner() {
        let p = place();
        let (out, to_out) = pipe();
        p.keeper.add("a1.1", out, None, 1000, Some(OWNER));
        let (written, thread) = writer(to_out, 1 << 20);
        let mut other = Follower::new(8, Stream::Both, 7);
        other.ask(&p, 1000);
        other.take(p.event());
        // All that is kept has been read; from here on only the owner moves it.
        other.ask(&p, 1 << 20);
        assert!(p.silent());
        assert!(written.load(std::sync::atomic::Ordering::SeqCst) < 100_000);
        let mut owner = Follower::new(OUT, Stream::Out, OWNER.pid);
        owner.ask(&p, 1000);
        owner.take(p.event());
        owner.ask(&p, 1 << 20);
        other.take(p.event());
        owner.take(p.event());
        assert_eq!((other.next, other.missed), (owner.next, 0));
        // It doesn't look for a while: a gap, which it sees.
        while owner.next < 500_000 {
            owner.ask(&p, 1 << 20);
            owner.take(p.event());
        }
        other.ask(&p, 10_000);
        owner.ask(&p, 1 << 20);
        other.take(p.event());
        owner.take(p.event());
        assert!(other.missed > 300_000 && other.next <= owner.next);
        while owner.next < 1 << 20 {
            owner.ask(&p, 1 << 20);
            owner.take(p.event());
        }
        thread.join().expect("joined").expect("written");
        // Without a wait, from the owner too.
        let LogEvent::Read { bytes, eof: false, .. } = ({
            let (ticket, stream, offset) = (OUT, Stream::Out, owner.next);
            let agent = "a1.1".into();
            p.keeper.read(Wanted { ticket, agent, stream, offset, max: 9, follow: false, pid: OWNER.pid });
            p.event()
        }) else {
            panic!("not read")
        };
        assert_eq!((bytes.len(), owner.missed), (0, 0));
        p.finish();
    }

    #[test]
    fn what_is_held_for_owners_is_bounded() {
        let p = place();
        let piece = HELD_MOST / 10;
        let mut all = 0;
        let (tell, _) = mpsc::channel();
        let (_, inbox) = mpsc::channel();
        let mut keeper = Keeper {
            dir: p.dir.path().into(),
            poll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"),
            wake: eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd"),
            inbox,
            notify: Box::new(move |e| drop(tell.send(e))),
            live: HashMap::new(),
            sources: HashMap::new(),
            next_source: 1,
            past: VecDeque::new(),
            held: VecDeque::new(),
            buffer: Vec::new(),
            disk_failed: false,
        };
        for n in 0..30 {
            let beyond = Beyond { out: vec![0; piece], ..Beyond::default() };
            keeper.hold(format!("a{n}.1"), OWNER, beyond);
            all = keeper.held.iter().map(|(.., b)| b.out.len()).sum();
            assert!(all <= HELD_MOST);
        }
        assert!(all > HELD_MOST - 2 * piece);
        assert_eq!(keeper.held.back().map(|(name, ..)| name.as_str()), Some("a29.1"));
    }

    #[test]
    fn a_restart_reads_and_continues_in_spite_of_a_torn_chunk() {
        let p = place();
        let (out, mut to_out) = pipe();
        p.keeper.add("a1.1", out, None, 8, None);
        p.write_and_wait(&mut to_out, Stream::Out, 0, b"before");
        to_out.write_all(b" and too much").expect("write");
        assert_eq!(p.finish().1, 11);
        let Place { dir, keeper, .. } = p;
        drop(keeper);
        let path = dir.path().join("logs/a1.1.log");
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(&[1, 200, 0, 0, 0, b't', b'o', b'r', b'n']).expect("write");
        let p = on(dir);
        assert_eq!(p.read(Stream::Both, 0, 100), (b"before a".to_vec(), 8, false, 11));
        assert_eq!(p.read(Stream::Both, 8, 100), (Vec::new(), 19, true, 11));
        assert_eq!(p.finish(), ("before a".to_owned(), 11));
        let (out, mut to_out) = pipe();
        p.keeper.add("a1.1", out, None, 100, None);
        p.write_and_wait(&mut to_out, Stream::Out, 8, b" after");
        assert_eq!(p.finish(), ("before a after".to_owned(), 11));
        assert_eq!(p.read(Stream::Both, 0, 100), (b"before a after".to_vec(), 14, false, 11));
        p.keeper.forget("a1.1");
        p.ask(7, "a1.1", Stream::Both, 0, 1, true);
        assert!(matches!(p.event(), LogEvent::ReadFailed { ticket: 7, .. }));
        assert!(!path.exists());
    }

    #[test]
    fn someone_holds_the_other_end_and_writes_on() {
        let p = place();
        let (out, mut to_out) = pipe();
        p.keeper.add("a1.1", out, None, 1 << 30, None);
        let writer = std::thread::spawn(move || while to_out.write_all(&[b'y'; 4096]).is_ok() {});
        std::thread::sleep(Duration::from_millis(50));
        p.finish();
        writer.join().expect("it got EPIPE");
    }

    #[test]
    fn a_terminal_ends_with_an_error() {
        let p = place();
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).expect("pty");
        rustix::pty::grantpt(&master).expect("grant");
        rustix::pty::unlockpt(&master).expect("unlock");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("name");
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("slave");
        p.keeper.add("a1.1", master, None, 1000, None);
        let mut slave = File::from(slave);
        slave.write_all(b"hello\n").expect("write");
        p.ask(1, "a1.1", Stream::Both, 0, 100, true);
        assert!(matches!(p.event(), LogEvent::Read { bytes, .. } if bytes == b"hello\r\n"));
        drop(slave);
        assert_eq!(p.finish().0, "hello\r\n");
    }

    #[test]
    fn names_that_are_no_agents() {
        let p = place();
        for name in ["../../etc/passwd", "a1", "a1.1/x", "", "b1.1", "a.1", "a1.", "a1.1.1"] {
            let (out, mut to_out) = pipe();
            p.keeper.add(name, out, None, 100, None);
            to_out.write_all(b"x").expect("write");
            p.keeper.finish(name);
            assert!(matches!(p.event(), LogEvent::Finished { dropped: 1, .. }));
            p.ask(1, name, Stream::Both, 0, 1, false);
            assert!(matches!(p.event(), LogEvent::ReadFailed { .. }));
            p.keeper.forget(name);
        }
        assert_eq!(std::fs::read_dir(p.dir.path().join("logs")).expect("read").count(), 0);
    }

    #[test]
    fn a_full_disk_is_counted() {
        // /dev/full takes nothing; the file is put in place before the keeper opens it.
        let mut live = Live {
            log: Some(Log {
                file: File::options().write(true).open("/dev/full").expect("open"),
                index: Index::new(),
                not_kept: Counts::default(),
            }),
            limit_bytes: 100,
            owner: None,
            beyond: Beyond::default(),
            tail: Tail::default(),
            out: None,
            err: None,
            waiting: Vec::new(),
        };
        let mut space = *b".....abc";
        assert_eq!(live.keep(KIND_OUT, &mut space, 3), Some(Errno::NOSPC));
        assert_eq!((live.beyond.passed, live.end()), (Counts { out: 3, err: 0 }, Mark::default()));
        // An owner gets it all the same, and all that follows.
        live.owner = Some(Owner { conn: 1, pid: 1 });
        assert_eq!(live.keep(KIND_OUT, &mut space, 3), Some(Errno::NOSPC));
        assert_eq!((live.beyond.out.as_slice(), live.is_passing()), (b"abc".as_slice(), true));
    }

    #[test]
    fn many_small_chunks_are_found_by_the_index() {
        let p = place();
        let mut log = Log::open(&p.dir.path().join("logs"), "a1.1", true).expect("open");
        let mut model = (Vec::new(), Vec::new(), Vec::new());
        let mut space = [0u8; HEADER + 3];
        for n in 0..200_000u32 {
            let kind = if n % 3 == 0 { KIND_ERR } else { KIND_OUT };
            let content = n.to_le_bytes();
            let len = 1 + (n % 3) as usize;
            space[HEADER..HEADER + len].copy_from_slice(&content[..len]);
            log.append(kind, &mut space, len).expect("append");
            let own = if kind == KIND_OUT { &mut model.0 } else { &mut model.1 };
            own.extend_from_slice(&content[..len]);
            model.2.extend_from_slice(&content[..len]);
        }
        for (stream, all) in [(Stream::Out, &model.0), (Stream::Err, &model.1), (Stream::Both, &model.2)] {
            for offset in (0..all.len() + 10).step_by(1777) {
                let got = log.read(stream, offset as u64, 1000).expect("read");
                let want = &all[offset.min(all.len())..(offset + 1000).min(all.len())];
                assert!(got == want, "{stream:?} at {offset}");
            }
        }
        let again = Log::open(&p.dir.path().join("logs"), "a1.1", false).expect("open");
        assert_eq!((again.index.end, &again.index.marks), (log.index.end, &log.index.marks));
        let mut index = Index::new();
        for _ in 0..1_000_000 {
            index.push(KIND_OUT, 65536);
        }
        assert!(index.marks.len() <= Index::MARKS + 1);
    }

    #[test]
    fn tails() {
        let tail = |bytes: &[u8]| {
            let mut t = Tail::default();
            for part in bytes.chunks(97) {
                t.push(part);
            }
            t.text()
        };
        let lines: String = (0..50).map(|n| format!("line {n}\n")).collect();
        assert_eq!(tail(lines.as_bytes()).lines().count(), 20);
        assert!(tail(lines.as_bytes()).starts_with("line 30\n"));
        assert_eq!(tail(b"no newline"), "no newline");
        let euros = "€".repeat(5000);
        assert!(tail(euros.as_bytes()).chars().all(|c| c == '€'));
        assert!(tail(euros.as_bytes()).len() > 1990);
        assert!(tail(&[0xff; 9000]).len() <= TAIL_BYTES);
        assert_eq!(tail(b""), "");
    }
}
