//! One end of the socket between kernel and launcher: frames, queued when the other side is slow.

use crate::protocol::{Event, Request};
use clove_sys::scm;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The kernel's end.
pub type Link = Channel<Request, Event>;
/// The launcher's end.
pub type LauncherLink = Channel<Event, Request>;

const HEADER: usize = 8;
/// A longer body is a broken peer, not a message.
const MAX_BODY: usize = 16 << 20;
const READ_AT_ONCE: usize = 64 << 10;

/// What is left of a message that didn't fit into the socket.
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// A nonblocking stream socket that carries `Out` one way and `In` the other, with descriptors.
pub struct Channel<Out, In> {
    socket: OwnedFd,
    queue: VecDeque<Pending>,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    closed: bool,
    types: PhantomData<fn(Out) -> In>,
}

/// Why a channel can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the socket between kernel and launcher failed: {0}")]
    Socket(#[source] io::Error),
    #[error("a frame between kernel and launcher is damaged: {0}")]
    Frame(String),
}

/// A connected pair for kernel and launcher, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Takes the socket and makes it nonblocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Channel {
            socket,
            queue: VecDeque::new(),
            input: Vec::new(),
            fds: VecDeque::new(),
            closed: false,
            types: PhantomData,
        })
    }

    /// Sends or queues one message. Descriptors are duplicated only when it has to be queued. Never blocks.
    pub fn send(&mut self, message: &Out, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let body = serde_json::to_vec(message).map_err(|e| LinkError::Frame(e.to_string()))?;
        if body.len() > MAX_BODY || fds.len() > scm::MAX_FDS {
            return Err(LinkError::Frame(format!(
                "{} bytes and {} descriptors are too much",
                body.len(),
                fds.len()
            )));
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(fds.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let mut sent = 0;
        if self.queue.is_empty() {
            match scm::send(self.socket.as_fd(), &bytes, fds, SendFlags::DONTWAIT) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(n) => sent = n,
                Err(Errno::AGAIN) => {}
                Err(e) => return Err(LinkError::Socket(e.into())),
            }
        }
        // The descriptors have gone with the first byte.
        let left = if sent > 0 { &[] } else { fds };
        let fds = left
            .iter()
            .map(|fd| fd.try_clone_to_owned())
            .collect::<io::Result<_>>()
            .map_err(LinkError::Socket)?;
        self.queue.push_back(Pending { bytes, sent, fds });
        self.flush()
    }

    /// Sends what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while let Some(p) = self.queue.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = p.fds.iter().map(|f| f.as_fd()).collect();
            let rest = p.bytes.get(p.sent..).unwrap_or_default();
            match scm::send(self.socket.as_fd(), rest, &fds, SendFlags::DONTWAIT) {
                Ok(n) => {
                    p.sent += n;
                    p.fds.clear();
                    if p.sent >= p.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(LinkError::Socket(e.into())),
            }
        }
        Ok(())
    }

    /// Something is queued: watch for writability too, then call `flush`.
    pub fn wants_write(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The peer has closed its end, and everything it sent has been returned.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Every whole message that is there, with its descriptors. Never blocks.
    pub fn recv(&mut self) -> Result<Vec<(In, Vec<OwnedFd>)>, LinkError> {
        let mut chunk = vec![0; READ_AT_ONCE];
        while !self.closed {
            let mut fds = [const { None }; scm::MAX_FDS];
            match scm::recv(self.socket.as_fd(), &mut chunk, &mut fds, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.closed = true,
                Ok((n, _)) => {
                    self.input.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    self.fds.extend(fds.into_iter().flatten());
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNRESET) => self.closed = true,
                Err(e) => return Err(LinkError::Socket(e.into())),
            }
        }
        self.take_messages()
    }

    fn take_messages(&mut self) -> Result<Vec<(In, Vec<OwnedFd>)>, LinkError> {
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(header) = self.input.get(at..at + HEADER) {
            let number = |i: usize| {
                u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]) as usize
            };
            let (length, count) = (number(0), number(4));
            if length > MAX_BODY || count > scm::MAX_FDS {
                return Err(LinkError::Frame(format!("it claims {length} bytes and {count} descriptors")));
            }
            let Some(body) = self.input.get(at + HEADER..at + HEADER + length) else { break };
            if self.fds.len() < count {
                return Err(LinkError::Frame(format!(
                    "{count} descriptors announced, {} came",
                    self.fds.len()
                )));
            }
            let message = serde_json::from_slice(body).map_err(|e| LinkError::Frame(e.to_string()))?;
            messages.push((message, self.fds.drain(..count).collect()));
            at += HEADER + length;
        }
        self.input.drain(..at);
        Ok(messages)
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    fn channels() -> (Link, LauncherLink) {
        let (a, b) = pair().expect("pair");
        (Channel::new(a).expect("a"), Channel::new(b).expect("b"))
    }

    #[test]
    fn descriptors_stay_with_their_messages_when_the_socket_is_full() {
        let (mut kernel, mut launcher) = channels();
        let mut files = Vec::new();
        for i in 0..200u64 {
            let mut f = tempfile::tempfile().expect("file");
            write!(f, "{i}").expect("write");
            let argv = vec!["x".repeat(5000)];
            let cell = crate::plan::tests::policy();
            let fds = [f.as_fd()];
            let fds = if i % 3 == 0 { &fds[..] } else { &[] };
            kernel.send(&Request::Template { token: i, cell, argv }, fds).expect("send");
            files.push(f);
        }
        assert!(kernel.wants_write(), "this test is meant to fill the socket");
        let mut seen = 0;
        while seen < 200 {
            kernel.flush().expect("flush");
            for (message, fds) in launcher.recv().expect("recv") {
                let Request::Template { token, .. } = message else { panic!("{message:?}") };
                assert_eq!(token, seen);
                assert_eq!(fds.len(), usize::from(seen % 3 == 0));
                for fd in fds {
                    let mut f = std::fs::File::from(fd);
                    f.rewind().expect("rewind");
                    let mut text = String::new();
                    f.read_to_string(&mut text).expect("read");
                    assert_eq!(text, seen.to_string());
                }
                seen += 1;
            }
        }
        assert!(!kernel.wants_write());
        drop(kernel);
        assert!(launcher.recv().expect("end").is_empty());
        assert!(launcher.is_closed());
    }

    #[test]
    fn a_damaged_frame_is_an_error_not_a_wait() {
        let (a, b) = pair().expect("pair");
        let mut launcher = LauncherLink::new(b).expect("b");
        rustix::io::write(&a, &[0xff; 16]).expect("write");
        assert!(matches!(launcher.recv(), Err(LinkError::Frame(_))));
    }
}
