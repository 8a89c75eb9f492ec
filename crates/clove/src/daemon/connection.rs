//! One connection: bytes in, whole frames out; replies queued when the peer is slow.
//!
//! What it holds is bounded: a small frame that isn't whole yet, one piece of what was read and not yet looked at, a few
//! descriptors, and replies up to `MAX_UNSENT` and one more. A large frame needs a lease (`allowance.rs`) before the
//! first byte behind its header is read. A frame that nobody wants isn't kept at all, only passed over.

use super::allowance::{Account, Hold, Lease};
use super::foreign::{self, Closers, Foreign};
use clove_abi::error::SysError;
use clove_abi::frame::{FrameError, HEADER_LEN, Header, MAX_FDS};
use clove_sandbox::protocol::Token;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Longest frame, behind its header, that needs no lease.
pub const SMALL_FRAME: usize = 16 << 10;
/// Read at once while frames are small.
const PIECE: usize = 16 << 10;
/// Read at once into a large frame; the size of the loop's buffer.
pub const LARGE_PIECE: usize = 64 << 10;
/// With more than this unsent, no call is taken from the peer.
pub const MAX_UNSENT: usize = 256 << 10;
/// With more than this many calls unanswered, no call is taken from the peer.
pub const MAX_UNANSWERED: usize = 4_096;
/// Written in one go.
pub const WRITE_PER_TURN: usize = 128 << 10;
/// Pieces in one sendmsg(2).
const PIECES: usize = 32;
/// Descriptors that wait for their frames.
const MOST_FDS: usize = 2 * MAX_FDS as usize;

/// Who is on the other side, as the socket tells it.
#[derive(Clone, Debug)]
pub enum Who {
    Operator {
        uid: u32,
        pid: u32,
        command: String,
    },
    /// The agent in this cell, once it has one.
    Cell(Token),
}

/// Whose share of the loop, of memory and of drivers something takes: all connections of one process, or of one cell,
/// are one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Those who aren't in yet.
    Strangers,
    Process(u32),
    Cell(Token),
}

impl Who {
    /// Whose it is.
    pub fn party(&self) -> Party {
        match self {
            Who::Operator { pid, .. } => Party::Process(*pid),
            Who::Cell(token) => Party::Cell(*token),
        }
    }
}

/// A call as it arrived.
#[derive(Debug)]
pub struct Frame {
    pub header: Header,
    pub body: Vec<u8>,
    pub tail: Vec<u8>,
    pub fds: Vec<Foreign>,
    pub hold: Hold,
}

/// What a look at the connection brought.
#[derive(Debug)]
pub enum Step {
    /// A header: what behind it is wanted or not, [`Connection::accept`] or [`Connection::refuse`] has to say. Comes
    /// again until one of them did.
    Judge(Header),
    Frame(Frame),
    /// A frame that was refused has been passed over.
    Refused(Header, SysError),
    /// Nothing whole is there.
    Wait,
    /// There may be, but this turn's share of reading is used up.
    More,
    /// The peer broke the protocol: answer this once, then close.
    Broken(FrameError),
    /// The peer has ended, perhaps in the middle of a frame.
    End(Option<FrameError>),
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    All,
    /// The socket is full until the peer has read some of it.
    Blocked,
    /// This turn's share of writing is used up.
    More,
    /// The peer is gone.
    Gone,
}

/// Bytes on their way out.
pub enum Bytes {
    Own(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Bytes {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Own(b) => b,
            Bytes::Shared(b) => b,
        }
    }
}

enum Stage {
    Head {
        bytes: [u8; HEADER_LEN],
        have: usize,
    },
    /// The header is there, and nobody has said what is to be done about the rest.
    Judge(Header),
    Load(Load),
}

const NO_HEAD: Stage = Stage::Head { bytes: [0; HEADER_LEN], have: 0 };

/// What comes behind a header.
struct Load {
    header: Header,
    body: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes that are still to come.
    left: usize,
    hold: Hold,
    /// It isn't kept, and this is the answer.
    refused: Option<SysError>,
}

impl Load {
    fn len(&self) -> usize {
        self.header.body_len as usize + self.header.tail_len as usize
    }

    /// Takes its part of `data`; returns how much that is.
    fn feed(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(self.left);
        if self.refused.is_none() {
            let of_body = n.min(self.header.body_len as usize - self.body.len());
            self.body.extend_from_slice(&data[..of_body]);
            self.tail.extend_from_slice(&data[of_body..n]);
        }
        self.left -= n;
        n
    }
}

/// One peer.
pub struct Connection {
    socket: Foreign,
    closers: Closers,
    pub who: Who,
    pub account: Arc<Account>,
    stage: Stage,
    /// Read, and not yet looked at from `at` on.
    rest: Vec<u8>,
    at: usize,
    fds: VecDeque<Foreign>,
    output: VecDeque<Bytes>,
    /// Of the first of them.
    sent: usize,
    unsent: Lease,
    /// For calls without an answer yet, what they hold, by correlation id.
    reserved: Vec<(u64, Hold)>,
    /// Calls without an answer yet.
    pub unanswered: usize,
    /// Close once the output is flushed.
    pub closing: bool,
    /// A call of it is being decoded elsewhere: nothing is taken before that, so that calls stay in order.
    pub busy: bool,
    /// Its next frame waits for memory or a place.
    pub stalled: bool,
    /// It has asked for a turn.
    pub queued: bool,
    /// It has been put on the list of those to flush.
    pub dirty: bool,
    /// What epoll said: there may be something to read, and room to write.
    pub readable: bool,
    pub writable: bool,
    /// The peer has sent all that it will: what is there is read to its end.
    pub ending: bool,
    /// The peer has closed its socket: nothing that is sent arrives any more.
    pub hung_up: bool,
    /// epoll watches for room to write.
    pub watched_out: bool,
    /// Bytes that went in and out: does it get on?
    pub moved: u64,
    /// What `moved` was when it was last looked at, and when that was.
    pub seen: (u64, u64),
}

impl Connection {
    /// Takes a connected, nonblocking stream socket.
    pub fn new(socket: OwnedFd, who: Who, account: Arc<Account>, closers: &Closers) -> Connection {
        Connection {
            socket: closers.connection(who.party(), socket),
            closers: closers.clone(),
            who,
            stage: NO_HEAD,
            rest: Vec::new(),
            at: 0,
            fds: VecDeque::new(),
            output: VecDeque::new(),
            sent: 0,
            unsent: account.owe(0),
            account,
            reserved: Vec::new(),
            unanswered: 0,
            closing: false,
            busy: false,
            stalled: false,
            queued: false,
            dirty: false,
            readable: true,
            writable: true,
            ending: false,
            hung_up: false,
            watched_out: false,
            moved: 0,
            seen: (0, 0),
        }
    }

    // --- in

    /// The next thing to do with what was sent. Reads at most `budget` more bytes, through `buffer`.
    pub fn step(&mut self, buffer: &mut [u8], budget: &mut usize) -> Step {
        loop {
            if let Some(step) = self.whole() {
                return step;
            }
            if self.at < self.rest.len() {
                let rest = std::mem::take(&mut self.rest);
                self.at += self.feed(&rest[self.at..]);
                self.rest = rest;
                if self.at == self.rest.len() {
                    self.rest.clear();
                    self.at = 0;
                }
                continue;
            }
            let begun = !matches!(self.stage, Stage::Head { have: 0, .. });
            if !begun && !self.fds.is_empty() {
                // Descriptors without a frame to belong to are a violation.
                return self.broken("descriptor count", self.fds.len() as u64, 0);
            }
            if !self.readable {
                return Step::Wait;
            }
            if *budget == 0 {
                return Step::More;
            }
            let want = match &self.stage {
                Stage::Load(l) if l.left > PIECE => l.left.min(buffer.len()),
                _ => PIECE.min(buffer.len()),
            };
            let (fds, closers, party) = (&mut self.fds, &self.closers, self.who.party());
            let before = fds.len();
            let got = foreign::receive(self.socket.as_fd(), &mut buffer[..want], |fd| {
                fds.push_back(closers.passed(party, fd));
            });
            match got {
                Ok(0) => {
                    self.readable = false;
                    return Step::End(self.half());
                }
                Ok(n) => {
                    *budget = budget.saturating_sub(n);
                    self.moved += n as u64;
                    // A read stops behind each message with descriptors (unix(7)), else only when all was read. epoll
                    // tells of the end only once.
                    self.readable = n == want || self.fds.len() > before || self.ending;
                    if self.fds.len() > MOST_FDS {
                        return self.broken("descriptor count", self.fds.len() as u64, u64::from(MAX_FDS));
                    }
                    let used = self.feed(&buffer[..n]);
                    self.rest.extend_from_slice(&buffer[used..n]);
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.readable = false;
                    return Step::End(None);
                }
            }
        }
    }

    /// The frame whose header was judged is wanted.
    pub fn accept(&mut self, hold: Hold) {
        if let Stage::Judge(header) = self.stage {
            let (body, tail) = (header.body_len as usize, header.tail_len as usize);
            self.stage = Stage::Load(Load {
                header,
                // Exactly as much as there will be; of a large one, pages are only there once they are written to.
                body: Vec::with_capacity(body),
                tail: Vec::with_capacity(tail),
                left: body + tail,
                hold,
                refused: None,
            });
        }
    }

    /// The frame whose header was judged isn't wanted: it is passed over, then answered with `error`.
    pub fn refuse(&mut self, error: SysError) {
        if let Stage::Judge(header) = self.stage {
            self.stage = Stage::Load(Load {
                header,
                body: Vec::new(),
                tail: Vec::new(),
                left: header.body_len as usize + header.tail_len as usize,
                hold: Hold::default(),
                refused: Some(error),
            });
        }
    }

    /// What has become whole: a header, or a frame.
    fn whole(&mut self) -> Option<Step> {
        match &self.stage {
            Stage::Head { bytes, have } if *have == HEADER_LEN => match Header::decode(bytes) {
                Ok(h) if h.flags != 0 => Some(broken_frame(&h, "flags", u64::from(h.flags), 0)),
                Ok(h) => {
                    self.stage = Stage::Judge(h);
                    Some(Step::Judge(h))
                }
                Err(e) => Some(Step::Broken(e)),
            },
            Stage::Judge(h) => Some(Step::Judge(*h)),
            Stage::Load(l) if l.left == 0 => {
                let count = usize::from(l.header.fds);
                if self.fds.len() < count {
                    return Some(broken_frame(
                        &l.header,
                        "descriptor count",
                        self.fds.len() as u64,
                        count as u64,
                    ));
                }
                let Stage::Load(l) = std::mem::replace(&mut self.stage, NO_HEAD) else { return None };
                let fds: Vec<Foreign> = self.fds.drain(..count).collect();
                Some(match l.refused {
                    Some(e) => Step::Refused(l.header, e),
                    None => {
                        Step::Frame(Frame { header: l.header, body: l.body, tail: l.tail, fds, hold: l.hold })
                    }
                })
            }
            _ => None,
        }
    }

    fn feed(&mut self, data: &[u8]) -> usize {
        match &mut self.stage {
            Stage::Head { bytes, have } => {
                let n = data.len().min(HEADER_LEN - *have);
                bytes[*have..*have + n].copy_from_slice(&data[..n]);
                *have += n;
                n
            }
            Stage::Judge(_) => 0,
            Stage::Load(l) => l.feed(data),
        }
    }

    fn broken(&self, what: &'static str, got: u64, want: u64) -> Step {
        let (correlation, number) = match &self.stage {
            Stage::Head { .. } => (0, 0),
            Stage::Judge(h) | Stage::Load(Load { header: h, .. }) => (h.correlation, h.number),
        };
        Step::Broken(FrameError { what, got, want, correlation, number })
    }

    /// How far the frame is that will never be whole.
    fn half(&self) -> Option<FrameError> {
        let (have, want, correlation, number) = match &self.stage {
            Stage::Head { have: 0, .. } => return None,
            Stage::Head { have, .. } => (*have, HEADER_LEN, 0, 0),
            Stage::Judge(h) => {
                (HEADER_LEN, HEADER_LEN + (h.body_len + h.tail_len) as usize, h.correlation, h.number)
            }
            Stage::Load(l) => {
                let whole = HEADER_LEN + l.len();
                (whole - l.left, whole, l.header.correlation, l.header.number)
            }
        };
        Some(FrameError {
            what: "length before its end",
            got: have as u64,
            want: want as u64,
            correlation,
            number,
        })
    }

    /// There is something to be done with it.
    pub fn may_go_on(&self) -> bool {
        let has_input = self.readable || self.at < self.rest.len() || matches!(self.stage, Stage::Judge(_));
        let has_output = !self.output.is_empty() && self.writable;
        let takes = !self.closing && !self.busy && !self.stalled && !self.is_slow();
        (has_input && takes) || has_output
    }

    /// Too much is outstanding to take another call now.
    pub fn is_slow(&self) -> bool {
        self.unsent.bytes() > MAX_UNSENT || self.unanswered > MAX_UNANSWERED
    }

    /// Bytes under a lease that it holds until its peer sends or reads more.
    pub fn holds(&self) -> usize {
        let loading = match &self.stage {
            Stage::Load(Load { hold: Hold { frame: Some(lease), .. }, .. }) => lease.bytes(),
            _ => 0,
        };
        loading + self.unsent.bytes()
    }

    // --- out

    /// Until the call is answered, this is held.
    pub fn reserve(&mut self, correlation: u64, hold: Hold) {
        self.reserved.push((correlation, hold));
    }

    /// What the call with this id holds, once. An id that was used twice at a time means either.
    pub fn claim(&mut self, correlation: u64) -> Option<Hold> {
        let at = self.reserved.iter().position(|(c, _)| *c == correlation)?;
        Some(self.reserved.swap_remove(at).1)
    }

    /// Queues a reply's bytes.
    pub fn send(&mut self, bytes: Bytes) {
        let n = bytes.len();
        if self.hung_up || n == 0 {
            return;
        }
        self.unsent.resize(self.unsent.bytes() + n);
        self.output.push_back(bytes);
    }

    /// Writes as much as the peer takes, within a turn's bound.
    pub fn write(&mut self) -> Written {
        let mut left = WRITE_PER_TURN;
        while !self.output.is_empty() {
            if left == 0 {
                return Written::More;
            }
            let first = self.sent;
            let mut slices = [IoSlice::new(&[]); PIECES];
            let (mut n, mut total) = (0, 0);
            for (i, piece) in self.output.iter().take(PIECES).enumerate() {
                let piece = &piece.as_slice()[if i == 0 { first } else { 0 }..];
                let piece = &piece[..piece.len().min(left - total)];
                slices[n] = IoSlice::new(piece);
                n += 1;
                total += piece.len();
                if total == left {
                    break;
                }
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, &slices[..n], &mut none, flags) {
                Ok(n) => {
                    left -= n;
                    self.written(n);
                }
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    return Written::Blocked;
                }
                Err(Errno::INTR) => {}
                Err(_) => return Written::Gone,
            }
        }
        Written::All
    }

    fn written(&mut self, n: usize) {
        self.moved += n as u64;
        self.unsent.resize(self.unsent.bytes() - n);
        self.sent += n;
        while let Some(front) = self.output.front().map(Bytes::len) {
            if self.sent < front {
                break;
            }
            self.sent -= front;
            self.output.pop_front();
        }
    }

    /// The peer has closed: what is queued for it is thrown away, what it has sent is still to be read.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
        self.ending = true;
        self.readable = true;
        self.output.clear();
        self.sent = 0;
        self.unsent.resize(0);
    }

    /// All replies have left.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// For watching.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn broken_frame(h: &Header, what: &'static str, got: u64, want: u64) -> Step {
    Step::Broken(FrameError { what, got, want, correlation: h.correlation, number: h.number })
}

#[cfg(test)]
mod tests {
    use super::super::allowance::Allowance;
    use super::*;
    use clove_abi::frame::encode;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("nonblocking");
        let who = Who::Cell(1);
        let account = Allowance::default().account(who.party());
        (Connection::new(ours.into(), who, account, &Closers::new(|_| {})), theirs)
    }

    /// Takes what is there, accepting all.
    fn frames(c: &mut Connection, budget: usize) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        let (mut buffer, mut budget) = (vec![0; LARGE_PIECE], budget);
        let mut all = Vec::new();
        loop {
            match c.step(&mut buffer, &mut budget) {
                Step::Judge(_) => c.accept(Hold::default()),
                Step::Frame(f) => all.push((f.header.correlation, f.body, f.tail)),
                Step::Wait | Step::More => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn frames_are_cut_wherever_the_bytes_are() {
        let sizes = [0usize, 1, 23, 24, 25, 4_096, PIECE - 24, PIECE, PIECE + 1, 100_000];
        let wanted: Vec<_> =
            sizes.iter().enumerate().map(|(i, n)| (i as u64, vec![b'b'; *n], vec![b't'; n / 2])).collect();
        let bytes: Vec<u8> = wanted.iter().flat_map(|(i, b, t)| encode(1, 0, *i, b, t)).collect();
        for step in [1, 7, 24, 1_000, PIECE, 150_000] {
            let (mut c, mut theirs) = pair();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                theirs.write_all(piece).expect("written");
                c.readable = true;
                got.extend(frames(&mut c, usize::MAX));
            }
            assert!(got == wanted, "in pieces of {step}");
        }
    }

    #[test]
    fn a_turn_reads_no_more_than_its_budget() {
        let (mut c, mut theirs) = pair();
        theirs.write_all(&encode(1, 0, 1, b"{}", &[]).repeat(4_000)).expect("written");
        let first = frames(&mut c, PIECE).len();
        assert!((1..=PIECE / 26).contains(&first), "{first}");
        // What was read and not yet whole is at most a piece.
        assert!(c.rest.capacity() <= PIECE && c.may_go_on());
        assert_eq!(first + frames(&mut c, usize::MAX).len(), 4_000);
        assert!(!c.may_go_on());
    }

    #[test]
    fn what_is_refused_is_passed_over_and_not_kept() {
        let (mut c, mut theirs) = pair();
        let writer = std::thread::spawn(move || {
            theirs.write_all(&encode(1, 0, 1, &vec![1; 8 << 20], &vec![2; 8 << 20])).expect("written");
            theirs.write_all(&encode(1, 0, 2, b"{}", &[])).expect("written");
            theirs
        });
        let (mut buffer, mut refused) = (vec![0; LARGE_PIECE], 0);
        loop {
            c.readable = true;
            match c.step(&mut buffer, &mut { usize::MAX }) {
                Step::Judge(h) if h.correlation == 1 => {
                    c.refuse(SysError::new(clove_abi::ErrorCode::BadBody, "no"))
                }
                Step::Judge(_) => c.accept(Hold::default()),
                Step::Refused(h, _) => refused = h.correlation,
                Step::Frame(f) => {
                    assert_eq!((refused, f.header.correlation), (1, 2));
                    break;
                }
                Step::Wait => {
                    if let Stage::Load(l) = &c.stage {
                        assert_eq!(l.body.capacity() + l.tail.capacity(), 0);
                    }
                    std::thread::yield_now();
                }
                other => panic!("{other:?}"),
            }
        }
        writer.join().expect("written");
    }

    #[test]
    fn an_end_in_the_middle_is_told() {
        for (bytes, half) in [
            (Vec::new(), None),
            (encode(1, 0, 9, b"{}", &[])[..5].to_vec(), Some((5, 24))),
            (encode(1, 0, 9, b"{}", &[])[..25].to_vec(), Some((25, 26))),
        ] {
            let (mut c, mut theirs) = pair();
            theirs.write_all(&bytes).expect("written");
            drop(theirs);
            let mut buffer = vec![0; LARGE_PIECE];
            let end = loop {
                c.readable = true;
                match c.step(&mut buffer, &mut { usize::MAX }) {
                    Step::Judge(_) => c.accept(Hold::default()),
                    Step::Wait => {}
                    Step::End(e) => break e.map(|e| (e.got, e.want)),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(end, half);
        }
    }

    #[test]
    fn replies_leave_in_order_and_within_bounds() {
        let (mut c, mut theirs) = pair();
        let mut wanted = Vec::new();
        for n in 0..200usize {
            let bytes = vec![n as u8; n * 37];
            wanted.extend_from_slice(&bytes);
            c.send(if n % 2 == 0 { Bytes::Own(bytes) } else { Bytes::Shared(Arc::new(bytes)) });
        }
        c.send(Bytes::Own(vec![7; 3 << 20]));
        wanted.extend(vec![7; 3 << 20]);
        assert!(c.is_slow() && c.account.held() == wanted.len());
        let total = wanted.len();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; total];
            theirs.read_exact(&mut got).expect("read");
            got
        });
        loop {
            c.writable = true;
            let before = c.moved;
            let w = c.write();
            assert!(c.moved - before <= WRITE_PER_TURN as u64);
            if w == Written::All {
                break;
            }
        }
        assert!(reader.join().expect("read") == wanted);
        assert!(c.is_flushed() && !c.is_slow() && c.account.held() == 0);
        assert_eq!(c.write(), Written::All);
        c.send(Bytes::Own(vec![1; 10]));
        assert_eq!(c.write(), Written::Gone);
    }

    #[test]
    fn what_calls_hold_is_found_by_their_ids() {
        let (mut c, _theirs) = pair();
        let hold = |n| Hold { answer: Some(c.account.owe(n)), ..Hold::default() };
        let (a, b, again) = (hold(1), hold(2), hold(4));
        c.reserve(5, a);
        c.reserve(6, b);
        c.reserve(5, again);
        assert_eq!(c.account.held(), 7);
        assert!(c.claim(7).is_none());
        drop(c.claim(6));
        drop((c.claim(5), c.claim(5)));
        assert!(c.claim(5).is_none() && c.account.held() == 0);
    }
}
