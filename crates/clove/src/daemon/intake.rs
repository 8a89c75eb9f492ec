//! A call on its way from a frame to the core: what it may carry, whose it is, where its raw bytes are kept.

use super::allowance::Hold;
use super::blobs;
use super::connection::{Frame, Who};
use super::foreign::Foreign;
use super::opaque::{MOST_INPUTS, MOST_RESULTS};
use super::shell::Shell;
use super::sockets::bad_descriptor;
use clove_abi::calls::{RunCollect, RunPush};
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::{ConnId, RunId};
use clove_abi::table::{Call, Sysno};
use clove_kernel::effect::ReplyTo;
use clove_kernel::{Effect, Event, Peer, Tail};
use clove_sandbox::protocol::Token;
use std::os::fd::AsFd;

/// Longer arguments are decoded on a thread of their own.
const DECODED_HERE: usize = 64 << 10;
/// What a blob counts for at least: it takes up a name and a block on the disk, however small it is.
const LEAST_BLOB: u64 = 4 << 10;
/// Freeing more than this takes its time, and isn't done on the loop.
const FREED_HERE: usize = 1 << 20;

/// No connection has this id.
const NOBODY: ConnId = ConnId(0);

/// What a call brings beside its arguments.
struct Luggage {
    tail: Vec<u8>,
    fds: Vec<Foreign>,
    hold: Hold,
}

impl Shell {
    /// A whole frame: its header was judged already.
    pub fn on_frame(&mut self, id: ConnId, f: Frame) {
        if f.body.len() <= DECODED_HERE {
            return self.on_frame_here(id, f);
        }
        let Some((to, sysno, luggage, body)) = self.unpack(id, f) else { return };
        // Its connection waits meanwhile, so that its calls stay in order; others don't.
        if let Some(c) = self.connections.get_mut(&id) {
            c.busy = true;
        }
        self.drivers.decode(
            move || Call::decode(sysno, &body),
            move |shell, call| {
                if let Some(c) = shell.connections.get_mut(&to.conn) {
                    c.busy = false;
                    shell.on_call(to, sysno, call, luggage);
                    shell.wake(to.conn);
                }
            },
        );
    }

    /// The same, without leaving the loop.
    pub fn on_frame_here(&mut self, id: ConnId, f: Frame) {
        if let Some((to, sysno, luggage, body)) = self.unpack(id, f) {
            let call = Call::decode(sysno, &body);
            self.on_call(to, sysno, call, luggage);
        }
    }

    fn unpack(&mut self, id: ConnId, f: Frame) -> Option<(ReplyTo, Sysno, Luggage, Vec<u8>)> {
        self.calls += 1;
        let to = ReplyTo { conn: id, correlation: f.header.correlation };
        self.connections.get_mut(&id)?.unanswered += 1;
        let sysno = Sysno::from_number(f.header.number)?;
        self.round_is_over |= sysno.spec().answers_large;
        if !f.fds.iter().all(|fd| blobs::is_sealed_memfd(fd.as_fd())) {
            self.fail(to, &bad_descriptor(sysno.spec()));
            self.connections.get_mut(&id)?.closing = true;
            return None;
        }
        Some((to, sysno, Luggage { tail: f.tail, fds: f.fds, hold: f.hold }, f.body))
    }

    fn on_call(&mut self, to: ReplyTo, sysno: Sysno, call: Result<Call, SysError>, mut l: Luggage) {
        let call = match call {
            Ok(c) => c,
            Err(mut e) => {
                e.message = format!("{}: {}", sysno.spec().name, e.message);
                self.free(l.tail);
                return self.fail(to, &e);
            }
        };
        let Some(who) = self.connections.get(&to.conn).map(|c| c.who.clone()) else { return };
        let (peer, token) = match who {
            Who::Operator { uid, pid, command } => (Some(Peer::Operator { uid, pid, command }), None),
            Who::Cell(token) => (self.cells.get(&token).and_then(|c| c.agent).map(Peer::Agent), Some(token)),
        };
        if let (Call::TaskNext(_), Some(token)) = (&call, token)
            && self.on_task_next(token, to.conn, to)
        {
            return;
        }
        let Some(peer) = peer else {
            return self.fail(to, &SysError::new(ErrorCode::WrongState, "this process has no task yet"));
        };
        if let Err(e) = self.check_room(&call, &l).and_then(|()| self.check_blob_call(&call, token, &l)) {
            self.free(l.tail);
            return self.fail(to, &e);
        }
        if let (Call::TaskDone(_), Some(token)) = (&call, token) {
            return self.on_task_done(token, to, peer, call, l.tail);
        }
        let mut keys = 0..0;
        let tail = match &call {
            Call::RunPush(push) => {
                let bytes = l.tail.len() as u64;
                keys = self.keep_inputs(push, l.tail);
                self.session(push.run, to.conn);
                Tail { bytes, key: keys.start }
            }
            Call::BlobPut(_) => {
                let source = match l.fds.pop() {
                    Some(fd) => blobs::Source::Memfd(fd),
                    None => blobs::Source::Bytes(l.tail),
                };
                let (bytes, key) = (source.bytes(), self.opaque.keys(1));
                self.incoming
                    .insert(key, blobs::Incoming { source, token, hold: std::mem::take(&mut l.hold) });
                keys = key..key + 1;
                Tail { bytes, key }
            }
            Call::RunCollect(collect) => {
                self.forget_collected(to.conn, collect);
                Tail::default()
            }
            _ => {
                let bytes = l.tail.len() as u64;
                let key = self.opaque.keep(l.tail);
                keys = key..key + u64::from(key != 0);
                Tail { bytes, key }
            }
        };
        if l.hold.answer.is_some() || l.hold.place.is_some() {
            let hold = Hold { frame: None, ..l.hold };
            if let Some(c) = self.connections.get_mut(&to.conn) {
                c.reserve(to.correlation, hold);
            }
        }
        let before = self.effects.len();
        self.handle(Event::Call { conn: to.conn, correlation: to.correlation, peer, call, tail });
        // What came with a call that was refused is of no use to anybody.
        let is_refusal = |e: &Effect| matches!(e, Effect::Fail { to: t, .. } if *t == to);
        if self.broken.is_some() || self.effects.iter().skip(before).any(is_refusal) {
            for key in keys {
                self.opaque.remove(key);
                self.incoming.remove(&key);
            }
        }
    }

    fn free(&self, bytes: Vec<u8>) {
        if bytes.len() > FREED_HERE {
            self.drivers.discard(bytes);
        }
    }

    /// Whether raw bytes can be kept in memory. Their owners take them away as they go on.
    fn check_room(&self, call: &Call, l: &Luggage) -> Result<(), SysError> {
        let most = match call {
            Call::RunPush(_) => MOST_INPUTS,
            Call::TaskDone(_) => MOST_RESULTS,
            _ => return Ok(()),
        };
        if l.tail.is_empty() || self.opaque.bytes() + l.tail.len() as u64 <= most {
            return Ok(());
        }
        let text =
            format!("the kernel keeps {} bytes of inputs and results in memory already", self.opaque.bytes());
        Err(SysError::new(ErrorCode::Full, text).hint("collect results, or send large ones as blobs"))
    }

    /// Splits the tail of `run.push` into the tasks' inputs, under keys that follow each other.
    fn keep_inputs(&mut self, push: &RunPush, tail: Vec<u8>) -> std::ops::Range<u64> {
        let wanted: u64 = push.tasks.iter().map(|t| t.payload_bytes).fold(0, u64::saturating_add);
        let n = push.tasks.len() as u64;
        let key = self.opaque.keys(n);
        if wanted == tail.len() as u64 {
            let mut at = 0usize;
            for (i, t) in push.tasks.iter().enumerate() {
                let end = at + t.payload_bytes as usize;
                if t.payload_bytes > 0 {
                    self.opaque.put(key + i as u64, tail[at..end].to_vec());
                }
                at = end;
            }
        }
        key..key + n
    }

    /// What the owner of a session has taken in needn't be kept any longer.
    fn forget_collected(&mut self, conn: ConnId, args: &RunCollect) {
        self.session(args.run, conn);
        let Some(run) = self.core.state.runs.get(&args.run) else { return };
        let Some(session) = self.sessions.get_mut(&args.run).filter(|s| s.0 == conn || s.0 == NOBODY) else {
            return;
        };
        let since = args.since.min(run.version);
        if since <= session.1 {
            return;
        }
        let taken = run.by_change.range(session.1 + 1..=since).filter_map(|(_, i)| run.tasks.get(i));
        for t in taken.filter(|t| t.state.is_final()) {
            self.opaque.remove(t.opaque.key);
        }
        session.1 = since;
    }

    /// Notes whose session it is; one that isn't attached is anybody's.
    fn session(&mut self, run: RunId, conn: ConnId) {
        let Some(r) = self.core.state.runs.get(&run) else { return };
        if !r.spec.attached {
            self.sessions.entry(run).or_insert((NOBODY, 0));
        } else if r.attached == Some(conn) {
            self.sessions.entry(run).or_insert((conn, 0));
        }
    }

    /// The owner of sessions is gone: nobody can collect what they still have.
    pub fn forget_session(&mut self, conn: ConnId) {
        let runs: Vec<RunId> =
            self.sessions.iter().filter(|(_, (owner, _))| *owner == conn).map(|(run, _)| *run).collect();
        for run in runs {
            self.sessions.remove(&run);
            self.forget_opaque(run);
        }
    }

    /// Keeps no raw bytes of this run any longer.
    pub fn forget_opaque(&mut self, run: RunId) {
        if let Some(r) = self.core.state.runs.get(&run) {
            for t in r.tasks.values() {
                self.opaque.remove(t.payload.key);
                self.opaque.remove(t.opaque.key);
            }
        }
        let opaque = &mut self.opaque;
        self.payload_keys.retain(|(r, _), keys| {
            if *r == run {
                keys.iter().for_each(|k| drop(opaque.remove(*k)));
            }
            *r != run
        });
    }

    /// An agent stores blobs within its own disk limit, and reads those that it stored or was given. A digest is no
    /// key: it can be guessed from content, and tells whether content exists.
    fn check_blob_call(&self, call: &Call, token: Option<Token>, l: &Luggage) -> Result<(), SysError> {
        let Some(cell) = token.and_then(|t| self.cells.get(&t)) else { return Ok(()) };
        let digest = match call {
            Call::BlobPut(_) => {
                let bytes =
                    l.tail.len() as u64 + l.fds.iter().map(|f| blobs::memfd_bytes(f.as_fd())).sum::<u64>();
                let limit =
                    cell.agent.and_then(|a| self.core.state.agent(a)).map_or(0, |a| a.limits.disk_bytes);
                let used = cell.blob_bytes.saturating_add(blob_cost(bytes));
                if used > limit {
                    let text = format!("its blobs would have {used} bytes, its disk limit is {limit}");
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
}

/// What a blob of so many bytes counts for against the disk limit of the agent that stores it.
pub fn blob_cost(bytes: u64) -> u64 {
    bytes.max(LEAST_BLOB)
}
