//! The loop's sockets: who is let in, whose turn it is to be read, and how replies leave.
//!
//! epoll tells once that there is something to read (edge-triggered); from then on the connection asks for turns until
//! all has been read. A turn is a few frames of one connection; turns go round between parties (`turns.rs`), and every
//! `ROUND` the loop writes the journal, lets the replies out and looks who else has come. Those who were silent come
//! first, and have a round of their own. So their calls wait for one round at most, whatever others send.

use super::allowance::{Hold, Short};
use super::connection::{
    Bytes, Connection, LARGE_PIECE, MAX_UNANSWERED, Party, SMALL_FRAME, Step, Who, Written,
};
use super::peer;
use super::shell::{KIND_AGENT_DOOR, KIND_CONNECTION, KIND_FRONT_DOOR, KIND_STDIN, Shell};
use clove_abi::calls::BlobGet;
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::frame::{self, Header};
use clove_abi::ids::ConnId;
use clove_abi::table::{Audit, From, Spec, Sysno};
use clove_kernel::Event;
use clove_kernel::effect::ReplyTo;
use clove_sandbox::protocol::Token;
use rustix::event::epoll;
use rustix::net::SocketFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Frames taken from one connection in a turn.
const FRAMES_PER_TURN: usize = 8;
/// Bytes read from one connection in a turn.
const READ_PER_TURN: usize = 64 << 10;
/// After this long, the round of turns ends: the journal is written, and replies leave.
const ROUND: Duration = Duration::from_micros(60);
/// What a reply costs when it leaves, which nobody measures: counted with the turn that asked for it.
const REPLY_NS: u64 = 4_000;
/// Connections at the front door.
const MAX_CONNECTIONS: usize = 20_000;
/// Connections of one agent's programs.
const MAX_AGENT_CONNECTIONS: u32 = 64;
/// Newcomers in a turn; each of an operator's costs some reads of /proc.
const NEWCOMERS_PER_TURN: usize = 4;
/// Somebody waits for memory that all have together, and who has it does nothing for this long: it loses its
/// connection.
const STANDSTILL_MS: u64 = 5_000;
/// How often that is looked at, as long as somebody waits.
pub const RELIEF_MS: u64 = 1_000;

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    Connection(ConnId),
    FrontDoor,
    AgentDoor(Token),
}

/// What becomes of a frame whose header was read.
enum Verdict {
    Take(Hold),
    /// It is passed over, and told this.
    Refuse(SysError),
    Later(Short),
    /// It is told this, and its connection closed.
    Close(SysError),
}

impl Shell {
    // --- newcomers

    /// Watches a connected, nonblocking socket.
    pub fn add_connection(&mut self, socket: OwnedFd, who: Who) -> Option<ConnId> {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let account = self.allowance.account(who.party());
        let c = Connection::new(socket, who, account, self.drivers.closers());
        let data = epoll::EventData::new_u64(id.0 << 3 | KIND_CONNECTION);
        epoll::add(&self.epoll, c.fd(), data, interest(false)).ok()?;
        self.connections.insert(id, c);
        Some(id)
    }

    /// Watches an agent's own listening socket.
    pub fn watch_agent_door(&mut self, token: Token, door: BorrowedFd<'_>) {
        if rustix::io::ioctl_fionbio(door, true).is_ok() {
            let data = epoll::EventData::new_u64(token << 3 | KIND_AGENT_DOOR);
            let _ = epoll::add(&self.epoll, door, data, DOOR);
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

    /// Somebody is at a door, which isn't looked at again before they have had their turn.
    pub fn on_door(&mut self, door: Todo) {
        let party = match door {
            Todo::AgentDoor(token) => Party::Cell(token),
            _ => Party::Strangers,
        };
        self.turns.ask(party, door);
    }

    /// True when there may be more of them.
    fn accept_operators(&mut self) -> bool {
        for _ in 0..NEWCOMERS_PER_TURN {
            let Ok(socket) = accept(self.front_door.as_fd()) else {
                let data = epoll::EventData::new_u64(KIND_FRONT_DOOR);
                let _ = epoll::modify(&self.epoll, &self.front_door, data, DOOR);
                return false;
            };
            if self.connections.len() >= MAX_CONNECTIONS {
                self.turn_away(socket, Party::Strangers, &too_many(MAX_CONNECTIONS));
                continue;
            }
            match peer::operator(&socket, self.owner.uid) {
                Ok(p) => {
                    self.add_connection(socket, Who::Operator { uid: p.uid, pid: p.pid, command: p.command });
                }
                Err(why) => {
                    self.turn_away(socket, Party::Strangers, &SysError::new(ErrorCode::NotPermitted, why));
                }
            }
        }
        true
    }

    fn accept_agent(&mut self, token: Token) -> bool {
        for _ in 0..NEWCOMERS_PER_TURN {
            let Some(cell) = self.cells.get_mut(&token) else { return false };
            let Some(door) = &cell.listener else { return false };
            let Ok(socket) = accept(door.as_fd()) else {
                let data = epoll::EventData::new_u64(token << 3 | KIND_AGENT_DOOR);
                let _ = epoll::modify(&self.epoll, door, data, DOOR);
                return false;
            };
            if cell.connections >= MAX_AGENT_CONNECTIONS {
                self.turn_away(socket, Party::Cell(token), &too_many(MAX_AGENT_CONNECTIONS as usize));
                continue;
            }
            cell.connections += 1;
            self.add_connection(socket, Who::Cell(token));
        }
        true
    }

    /// Tells a newcomer why it isn't let in. It may have sent things already, so it isn't closed here.
    fn turn_away(&self, socket: OwnedFd, party: Party, error: &SysError) {
        let body = clove_kernel::core::json(error);
        let bytes = frame::encode(0, frame::FLAG_REPLY | frame::FLAG_ERROR, 0, &body, &[]);
        let _ = rustix::net::send(&socket, &bytes, rustix::net::SendFlags::NOSIGNAL);
        drop(self.drivers.closers().connection(party, socket));
    }

    // --- turns

    /// epoll has something about a connection.
    pub fn on_socket(&mut self, id: ConnId, flags: epoll::EventFlags) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        c.writable |= flags.contains(epoll::EventFlags::OUT);
        c.readable |= flags.contains(epoll::EventFlags::IN);
        if flags.contains(epoll::EventFlags::RDHUP) {
            c.ending = true;
            c.readable = true;
        }
        if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            c.hang_up();
            if c.stalled {
                // Nobody is left to whom it matters.
                return self.drop_connection(id);
            }
        }
        self.wake(id);
    }

    /// Asks for a turn, if there is something to be done.
    pub fn wake(&mut self, id: ConnId) {
        if let Some(c) = self.connections.get_mut(&id)
            && !c.queued
            && c.may_go_on()
        {
            c.queued = true;
            self.turns.ask(c.who.party(), Todo::Connection(id));
        }
    }

    /// A round of turns.
    pub fn take_turns(&mut self) {
        let begun = Instant::now();
        let mut last = begun;
        self.round_is_over = false;
        let mut some_were_fresh = false;
        while let Some(fresh) = self.turns.next_is_fresh() {
            if some_were_fresh && !fresh {
                // Their replies don't wait for the work of those who have been at it.
                return;
            }
            some_were_fresh |= fresh;
            let Some((party, what)) = self.turns.take() else { continue };
            if self.drivers.closers().is_blocked(party) {
                // What it has sent can't even be closed. It goes on when that is over (`let_go`).
                self.turns.hold(party);
                self.turns.ask(party, what);
                self.turns.used(party, 0);
                continue;
            }
            let calls = self.calls;
            let again = match what {
                Todo::Connection(id) => self.serve(id),
                Todo::FrontDoor => self.accept_operators(),
                Todo::AgentDoor(token) => self.accept_agent(token),
            };
            if again {
                self.ask_again(party, what);
            }
            let now = Instant::now();
            let spent = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
            self.turns.used(party, spent + (self.calls - calls) * REPLY_NS);
            last = now;
            if now - begun >= ROUND || self.round_is_over {
                return;
            }
        }
    }

    fn ask_again(&mut self, party: Party, what: Todo) {
        if let Todo::Connection(id) = what {
            match self.connections.get_mut(&id) {
                Some(c) if !c.queued => c.queued = true,
                _ => return,
            }
        }
        self.turns.ask(party, what);
    }

    /// One turn of one connection. True when it wants another one.
    fn serve(&mut self, id: ConnId) -> bool {
        let Some(c) = self.connections.get_mut(&id) else { return false };
        c.queued = false;
        if !c.is_flushed() && c.writable {
            self.flush(id);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(LARGE_PIECE, 0);
        let mut budget = READ_PER_TURN;
        self.take_frames(id, &mut buffer, &mut budget);
        self.buffer = buffer;
        if let Some(c) = self.connections.get(&id)
            && c.hung_up
            && c.unanswered > MAX_UNANSWERED
        {
            // It will never read an answer, so it would never be read to its end.
            self.drop_connection(id);
        }
        // A long reply takes several turns, also when nothing else is asked.
        self.connections.get(&id).is_some_and(Connection::may_go_on)
    }

    fn take_frames(&mut self, id: ConnId, buffer: &mut [u8], budget: &mut usize) {
        let mut frames = 0;
        loop {
            let Some(c) = self.connections.get_mut(&id) else { return };
            if c.closing || c.busy || c.stalled || c.is_slow() {
                return;
            }
            if frames == FRAMES_PER_TURN {
                return;
            }
            match c.step(buffer, budget) {
                Step::Wait | Step::More => return,
                Step::Judge(h) => self.judge(id, &h),
                Step::Frame(f) => {
                    frames += 1;
                    self.on_frame(id, f);
                }
                Step::Refused(h, error) => {
                    frames += 1;
                    self.calls += 1;
                    c.unanswered += 1;
                    self.fail(ReplyTo { conn: id, correlation: h.correlation }, &error);
                }
                Step::Broken(e) => {
                    self.close_with(id, e.correlation, &SysError::new(ErrorCode::BadFrame, e.to_string()));
                    return;
                }
                Step::End(half) => {
                    match half {
                        Some(e) if !c.hung_up => {
                            let error = SysError::new(ErrorCode::BadFrame, e.to_string());
                            self.close_with(id, e.correlation, &error);
                        }
                        _ => self.drop_connection(id),
                    }
                    return;
                }
            }
        }
    }

    /// The last words on a connection.
    fn close_with(&mut self, id: ConnId, correlation: u64, error: &SysError) {
        if let Some(c) = self.connections.get_mut(&id) {
            c.closing = true;
            c.unanswered += 1;
            self.fail(ReplyTo { conn: id, correlation }, error);
        }
    }

    /// What has to be said about a frame before anything of it is kept.
    fn judge(&mut self, id: ConnId, h: &Header) {
        match self.verdict(id, h) {
            Verdict::Take(hold) => {
                self.leave_line(id);
                if let Some(c) = self.connections.get_mut(&id) {
                    c.accept(hold);
                }
            }
            Verdict::Refuse(error) => {
                if let Some(c) = self.connections.get_mut(&id) {
                    c.refuse(error);
                }
            }
            Verdict::Later(short) => {
                if let Some(c) = self.connections.get_mut(&id) {
                    c.stalled = true;
                }
                match short {
                    Short::Own => {
                        // Those behind it don't wait for what only it lacks.
                        self.leave_line(id);
                        self.stalled.push(id);
                    }
                    Short::Shared if self.line.contains(&id) => {}
                    Short::Shared => self.line.push_back(id),
                }
            }
            Verdict::Close(error) => self.close_with(id, h.correlation, &error),
        }
    }

    fn verdict(&self, id: ConnId, h: &Header) -> Verdict {
        let Some(c) = self.connections.get(&id) else { return Verdict::Later(Short::Own) };
        let Some(sysno) = Sysno::from_number(h.number) else {
            let message = format!("no syscall has the number {:#06x}", h.number);
            return Verdict::Refuse(
                SysError::new(ErrorCode::NoSuchCall, message).hint("clove syscalls lists them"),
            );
        };
        let spec = sysno.spec();
        if h.fds > spec.fds {
            return Verdict::Close(bad_descriptor(spec));
        }
        match (spec.from, &c.who) {
            (From::Operator, Who::Cell(_)) | (From::Agent, Who::Operator { .. }) => {
                return Verdict::Refuse(clove_kernel::core::not_permitted(spec));
            }
            (From::Agent, Who::Cell(token)) if !self.is_own_connection(*token, id) => {
                return Verdict::Refuse(SysError::new(
                    ErrorCode::WrongState,
                    format!(
                        "{}: tasks are only for an agent that was forked from a template, on its own connection",
                        spec.name
                    ),
                ));
            }
            _ => {}
        }
        if c.hung_up && spec.audit == Audit::Counted {
            // It would do nothing but answer, and nobody is there to read it.
            return Verdict::Refuse(SysError::new(ErrorCode::Dead, "its caller is gone"));
        }
        let (body, tail) = (h.body_len as usize, h.tail_len as usize);
        for (what, has, most) in [("arguments", body, spec.most_body), ("tail", tail, spec.most_tail)] {
            if has > most {
                let message = format!("{}: {what} of {has} bytes, at most {most} are taken", spec.name);
                return Verdict::Refuse(SysError::new(ErrorCode::BadBody, message));
            }
        }
        if c.account.is_full() {
            return Verdict::Later(Short::Own);
        }
        let frame = if body + tail > SMALL_FRAME { body + tail } else { 0 };
        let answer = if sysno == Sysno::BlobGet { BlobGet::MOST_BYTES } else { 0 };
        let on_driver = spec.family == "blob";
        let is_next = self.line.front().is_none_or(|first| *first == id);
        match c.account.hold(frame, answer, on_driver, is_next) {
            Ok(hold) => Verdict::Take(hold),
            Err(short) => Verdict::Later(short),
        }
    }

    /// The connection that was made for the agent itself, on which alone it takes tasks and hands them in.
    fn is_own_connection(&self, token: Token, id: ConnId) -> bool {
        self.cells.get(&token).is_some_and(|cell| cell.conn == Some(id))
    }

    // --- memory that others wait for

    /// Lets those who wait try again, once something was given back.
    pub fn retry_stalled(&mut self) {
        if !self.allowance.was_released() {
            return;
        }
        for id in std::mem::take(&mut self.stalled) {
            self.retry(id);
        }
        if let Some(first) = self.line.front().copied() {
            self.retry(first);
        }
    }

    /// It no longer waits for memory that all share: whoever is first now tries.
    fn leave_line(&mut self, id: ConnId) {
        let Some(at) = self.line.iter().position(|c| *c == id) else { return };
        self.line.remove(at);
        if at == 0
            && let Some(next) = self.line.front().copied()
        {
            self.retry(next);
        }
    }

    fn retry(&mut self, id: ConnId) {
        if let Some(c) = self.connections.get_mut(&id) {
            c.stalled = false;
        }
        self.wake(id);
    }

    /// Nobody gets memory that all share, as long as those who have it do nothing with it: who has most of it and
    /// stands still loses its connection.
    pub fn relieve(&mut self, now_ms: u64) {
        if self.line.is_empty() || now_ms < self.relief_due_ms {
            return;
        }
        self.relief_due_ms = now_ms + RELIEF_MS;
        let mut worst: Option<(usize, ConnId)> = None;
        for (id, c) in &mut self.connections {
            if c.seen.0 != c.moved || c.seen.1 == 0 {
                c.seen = (c.moved, now_ms);
            }
            let still = now_ms - c.seen.1 >= STANDSTILL_MS && !c.busy;
            if still && c.holds() > SMALL_FRAME && worst.is_none_or(|w| c.holds() > w.0) {
                worst = Some((c.holds(), *id));
            }
        }
        if let Some((bytes, id)) = worst {
            say!("a connection that holds {bytes} bytes and stands still is closed: others wait for them");
            self.drop_connection(id);
        }
    }

    // --- replies on their way out

    /// Queues a reply's bytes, the end of a call.
    pub fn send_bytes(&mut self, to: ReplyTo, pieces: impl IntoIterator<Item = Bytes>) {
        if let Some(c) = self.connections.get_mut(&to.conn) {
            c.unanswered = c.unanswered.saturating_sub(1);
            drop(c.claim(to.correlation));
            for p in pieces {
                c.send(p);
            }
            if !c.dirty {
                c.dirty = true;
                self.dirty.push(to.conn);
            }
        }
    }

    /// Lets out what was queued in this round.
    pub fn flush_dirty(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            if let Some(c) = self.connections.get_mut(&id) {
                c.dirty = false;
            }
            self.flush(id);
            self.wake(id);
        }
    }

    fn flush(&mut self, id: ConnId) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        let written = c.write();
        // Who broke the protocol and doesn't read either isn't waited for.
        if written == Written::Gone || (c.closing && written != Written::More) {
            return self.drop_connection(id);
        }
        let wants_out = written == Written::Blocked;
        if wants_out != c.watched_out {
            c.watched_out = wants_out;
            let data = epoll::EventData::new_u64(id.0 << 3 | KIND_CONNECTION);
            let _ = epoll::modify(&self.epoll, c.fd(), data, interest(wants_out));
        }
    }

    // --- ends

    /// Takes the result that an ended process may have handed in with its last breath, then closes its connection. What
    /// else it has sent is passed over: nobody is left to be answered.
    pub fn read_out(&mut self, id: ConnId) {
        let mut buffer = vec![0; LARGE_PIECE];
        if let Some(c) = self.connections.get_mut(&id) {
            c.hang_up();
        }
        // What its socket's buffer holds is all that there can be, and nobody puts in more.
        while let Some(c) = self.connections.get_mut(&id)
            && !c.closing
        {
            match c.step(&mut buffer, &mut { usize::MAX }) {
                Step::Judge(h) if h.number == Sysno::TaskDone as u16 => {
                    let verdict = self.verdict(id, &h);
                    let Some(c) = self.connections.get_mut(&id) else { return };
                    match verdict {
                        Verdict::Take(hold) => c.accept(hold),
                        Verdict::Later(_) => c.accept(Hold::default()),
                        Verdict::Refuse(e) | Verdict::Close(e) => c.refuse(e),
                    }
                }
                Step::Judge(_) => c.refuse(SysError::new(ErrorCode::Dead, "the agent has ended")),
                Step::Frame(f) => self.on_frame_here(id, f),
                Step::Refused(..) | Step::More => {}
                Step::Wait | Step::Broken(_) | Step::End(_) => break,
            }
        }
        self.drop_connection(id);
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
        self.stalled.retain(|s| *s != id);
        self.leave_line(id);
        self.forget_session(id);
        // Its buffers may be large, and what frees them takes its time.
        self.drivers.discard(c);
        self.raise(Event::Gone { conn: id });
    }

    /// What a party has sent can be closed again.
    pub fn let_go(&mut self, party: Party) {
        self.turns.let_go(party);
    }
}

/// A door is looked at once; it says so when all who stood there have been let in.
pub const DOOR: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

fn interest(out: bool) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    flags.set(epoll::EventFlags::OUT, out);
    flags
}

fn accept(door: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::net::accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

fn too_many(most: usize) -> SysError {
    SysError::new(ErrorCode::Full, format!("there are {most} connections already"))
        .hint("close those that aren't needed: calls can be pipelined on one")
}

/// For descriptors that a row doesn't take.
pub fn bad_descriptor(spec: &Spec) -> SysError {
    let message = format!("{} takes {} descriptors, and only fully sealed memfds", spec.name, spec.fds);
    SysError::new(ErrorCode::BadDescriptor, message)
}
