//! One connection: bytes in, whole frames out; replies queued when the peer is slow.

use clove_abi::frame::{FrameError, HEADER_LEN, Header};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Read per turn, so that one talker doesn't hold up the others.
const READ_PER_TURN: usize = 256 << 10;
/// With more than this unsent, nothing more is read from the peer.
const MAX_UNSENT: usize = 16 << 20;
/// With more than this many calls unanswered, nothing more is read from the peer.
const MAX_UNANSWERED: usize = 4_096;

/// Who is on the other side, as the socket tells it.
#[derive(Clone, Debug)]
pub enum Who {
    Operator {
        uid: u32,
        pid: u32,
        command: String,
    },
    /// The agent in this cell, once it has one.
    Cell(u64),
}

/// A call as it arrived.
pub struct Frame {
    pub header: Header,
    pub body: Vec<u8>,
    pub tail: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// What reading brought.
pub enum Step {
    Frame(Frame),
    /// Nothing whole is there.
    Wait,
    /// The peer broke the protocol: answer this once, then close.
    Broken(FrameError),
}

/// One peer.
pub struct Connection {
    pub socket: OwnedFd,
    pub who: Who,
    input: Vec<u8>,
    start: usize,
    fds: VecDeque<OwnedFd>,
    output: VecDeque<Vec<u8>>,
    sent: usize,
    unsent: usize,
    /// Calls without an answer yet.
    pub unanswered: usize,
    /// Close once the output is flushed.
    pub closing: bool,
    /// What epoll watches now: (in, out).
    pub watched: (bool, bool),
    /// It has been put on the list of those to flush.
    pub dirty: bool,
    eof: bool,
}

impl Connection {
    /// Takes a connected, nonblocking stream socket.
    pub fn new(socket: OwnedFd, who: Who) -> Connection {
        Connection {
            socket,
            who,
            input: Vec::new(),
            start: 0,
            fds: VecDeque::new(),
            output: VecDeque::new(),
            sent: 0,
            unsent: 0,
            unanswered: 0,
            closing: false,
            watched: (true, false),
            dirty: false,
            eof: false,
        }
    }

    /// Reads what is there, within the turn's bound. False when the peer is gone.
    pub fn fill(&mut self) -> bool {
        let mut got = 0;
        let mut chunk = [0u8; 64 << 10];
        while got < READ_PER_TURN {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let r = rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut chunk)],
                &mut ancillary,
                RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
            );
            match r {
                Ok(m) => {
                    for a in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = a {
                            self.fds.extend(fds);
                        }
                    }
                    if m.bytes == 0 {
                        self.eof = true;
                        return false;
                    }
                    self.input.extend_from_slice(&chunk[..m.bytes]);
                    got += m.bytes;
                    if m.bytes < chunk.len() {
                        return true;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.eof = true;
                    return false;
                }
            }
        }
        true
    }

    /// The next whole frame of what was read.
    pub fn next_frame(&mut self) -> Step {
        let have = self.input.len() - self.start;
        if have < HEADER_LEN {
            self.compact();
            // Descriptors without a frame to belong to are a violation.
            if have == 0 && !self.fds.is_empty() {
                return Step::Broken(FrameError {
                    what: "descriptor count",
                    got: self.fds.len() as u64,
                    want: 0,
                    correlation: 0,
                    number: 0,
                });
            }
            return Step::Wait;
        }
        let mut head = [0u8; HEADER_LEN];
        head.copy_from_slice(&self.input[self.start..self.start + HEADER_LEN]);
        let header = match Header::decode(&head) {
            Ok(h) => h,
            Err(e) => return Step::Broken(e),
        };
        let broken = |what, got, want| {
            Step::Broken(FrameError {
                what,
                got,
                want,
                correlation: header.correlation,
                number: header.number,
            })
        };
        if header.flags != 0 {
            return broken("flags", u64::from(header.flags), 0);
        }
        let (body, tail) = (header.body_len as usize, header.tail_len as usize);
        if have < HEADER_LEN + body + tail {
            self.compact();
            return Step::Wait;
        }
        if self.fds.len() < usize::from(header.fds) {
            return broken("descriptor count", self.fds.len() as u64, u64::from(header.fds));
        }
        let at = self.start + HEADER_LEN;
        let frame = Frame {
            header,
            body: self.input[at..at + body].to_vec(),
            tail: self.input[at + body..at + body + tail].to_vec(),
            fds: self.fds.drain(..usize::from(header.fds)).collect(),
        };
        self.start = at + body + tail;
        if self.start == self.input.len() {
            self.input.clear();
            self.input.shrink_to(1 << 20);
            self.start = 0;
        }
        Step::Frame(frame)
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
    }

    /// Queues a reply.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.unsent += bytes.len();
        self.output.push_back(bytes);
    }

    /// Writes as much as the peer takes. False when it is gone.
    pub fn flush(&mut self) -> bool {
        while let Some(front) = self.output.front() {
            match rustix::net::send(
                &self.socket,
                &front[self.sent..],
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(n) => {
                    self.sent += n;
                    self.unsent -= n;
                    if self.sent == front.len() {
                        self.output.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// What epoll should watch: (in, out).
    pub fn wants(&self) -> (bool, bool) {
        let slow = self.unsent > MAX_UNSENT || self.unanswered > MAX_UNANSWERED;
        (!slow && !self.closing && !self.eof, !self.output.is_empty())
    }

    /// All replies have left.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// More may be in the buffer than one turn took.
    pub fn has_input(&self) -> bool {
        self.input.len() - self.start >= HEADER_LEN
    }

    /// Too much is outstanding to take another call now.
    pub fn is_slow(&self) -> bool {
        let (read, _) = self.wants();
        !read && !self.eof
    }

    /// For watching.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
