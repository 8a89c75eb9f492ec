//! One blocking connection to the kernel.

use crate::error::ClientError;
use clove_abi::calls::{BlobPut, BlobPutReply};
use clove_abi::frame::{FLAG_ERROR, FLAG_REPLY, HEADER_LEN, Header, MAX_BODY, MAX_TAIL};
use clove_abi::{SysError, Syscall};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection. One call at a time; a thread that waits has one of its own.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next_correlation: u64,
    /// Set after a failure in the middle of a frame: nothing that follows could be believed.
    broken: bool,
}

impl Client {
    /// Connects to a kernel's socket.
    ///
    /// # Errors
    /// `NotFound` when there is no socket, `ConnectionRefused` when nobody listens any more.
    pub fn connect(socket: &Path) -> io::Result<Client> {
        Ok(Client::over(UnixStream::connect(socket)?))
    }

    /// Over a socket that is connected already.
    pub fn over(stream: UnixStream) -> Client {
        Client { stream, next_correlation: 1, broken: false }
    }

    /// How long a call may take before it counts as lost; for ever when absent.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn set_deadline(&self, deadline: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(deadline)?;
        self.stream.set_write_timeout(deadline)
    }

    /// Makes a call and waits for its reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<C: Syscall>(&mut self, call: &C) -> Result<C::Reply, ClientError> {
        self.exchange(call, &[], None).map(|(reply, _)| reply)
    }

    /// A call with raw bytes after its arguments; returns those after the reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call_with_tail<C: Syscall>(
        &mut self,
        call: &C,
        tail: &[u8],
    ) -> Result<(C::Reply, Vec<u8>), ClientError> {
        self.exchange(call, tail, None)
    }

    /// Stores bytes under their digest: small ones in the tail, others in a sealed memfd, which isn't copied through
    /// the socket.
    ///
    /// # Errors
    /// [`ClientError`]; `Lost` also when this process can't make a memfd.
    pub fn put_blob(&mut self, bytes: &[u8]) -> Result<BlobPutReply, ClientError> {
        const IN_TAIL: usize = 256 << 10;
        if bytes.len() <= IN_TAIL {
            return self.exchange(&BlobPut {}, bytes, None).map(|(reply, _)| reply);
        }
        let fd = sealed_memfd(bytes)
            .map_err(|source| ClientError::Lost { doing: "filling a memory file for the blob", source })?;
        self.exchange(&BlobPut {}, &[], Some(fd.as_fd())).map(|(reply, _)| reply)
    }

    fn exchange<C: Syscall>(
        &mut self,
        call: &C,
        tail: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(C::Reply, Vec<u8>), ClientError> {
        let name = C::SYSNO.spec().name;
        if self.broken {
            let source = io::Error::from(io::ErrorKind::NotConnected);
            return Err(ClientError::Lost { doing: "using it after a failure", source });
        }
        let body = serde_json::to_vec(call)
            .map_err(|e| ClientError::Garbled { call: name, what: format!("arguments: {e}") })?;
        let too_long = |part, bytes: usize, most| ClientError::TooLong { call: name, part, bytes, most };
        if body.len() > MAX_BODY {
            return Err(too_long("arguments", body.len(), MAX_BODY));
        }
        if tail.len() > MAX_TAIL {
            return Err(too_long("data", tail.len(), MAX_TAIL));
        }
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        self.broken = true;
        self.send(C::SYSNO as u16, correlation, &body, tail, fd)
            .map_err(|source| ClientError::Lost { doing: "sending a call", source })?;
        let (header, body, tail) = self.receive(name)?;
        if header.correlation != correlation && header.correlation != 0 {
            let what = format!("it answers call {} instead of {correlation}", header.correlation);
            return Err(ClientError::Garbled { call: name, what });
        }
        let unreadable = |e: serde_json::Error| ClientError::Garbled { call: name, what: e.to_string() };
        if header.flags & FLAG_ERROR != 0 {
            let e: SysError = serde_json::from_slice(&body).map_err(unreadable)?;
            self.broken = false;
            return Err(ClientError::Refused(e));
        }
        let reply = serde_json::from_slice(&body).map_err(unreadable)?;
        self.broken = false;
        Ok((reply, tail))
    }

    fn send(
        &mut self,
        number: u16,
        correlation: u64,
        body: &[u8],
        tail: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let len = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let header = Header {
            body_len: len(body.len())?,
            tail_len: len(tail.len())?,
            flags: 0,
            number,
            fds: u8::from(fd.is_some()),
            correlation,
        };
        // One write for a small call: the kernel wakes up once.
        let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
        frame.extend_from_slice(&header.encode());
        frame.extend_from_slice(body);
        let mut sent = 0;
        if let Some(fd) = fd {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            sent = rustix::net::sendmsg(
                &self.stream,
                &[IoSlice::new(&frame)],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
        }
        self.stream.write_all(&frame[sent..])?;
        self.stream.write_all(tail)
    }

    fn receive(&mut self, call: &'static str) -> Result<(Header, Vec<u8>, Vec<u8>), ClientError> {
        let lost = |source| ClientError::Lost { doing: "waiting for an answer", source };
        let mut head = [0u8; HEADER_LEN];
        self.stream.read_exact(&mut head).map_err(lost)?;
        let header = Header::decode(&head).map_err(|e| ClientError::Garbled {
            call,
            what: format!("{e} (a kernel of another version?)"),
        })?;
        if header.flags & FLAG_REPLY == 0 {
            return Err(ClientError::Garbled { call, what: "it isn't a reply".into() });
        }
        let mut body = vec![0u8; header.body_len as usize];
        self.stream.read_exact(&mut body).map_err(lost)?;
        let mut tail = vec![0u8; header.tail_len as usize];
        self.stream.read_exact(&mut tail).map_err(lost)?;
        Ok((header, body, tail))
    }
}

/// A memory file that nobody can change any more: the kernel maps it without fear (memfd_create(2), file sealing).
fn sealed_memfd(bytes: &[u8]) -> io::Result<std::fs::File> {
    let fd = rustix::fs::memfd_create("clove-blob", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clove_abi::calls::{KernelPing, KernelPingReply, ProcLogs, ProcLogsReply, ProcWait};
    use clove_abi::{ErrorCode, frame};
    use std::thread;

    /// A kernel of one thread that answers each frame with what `answer` makes of it.
    fn serve(answer: impl Fn(Header, Vec<u8>, Vec<u8>) -> Vec<u8> + Send + 'static) -> Client {
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        thread::spawn(move || {
            loop {
                let mut head = [0u8; HEADER_LEN];
                if theirs.read_exact(&mut head).is_err() {
                    return;
                }
                let h = Header::decode(&head).expect("header");
                let mut body = vec![0; h.body_len as usize];
                theirs.read_exact(&mut body).expect("body");
                let mut tail = vec![0; h.tail_len as usize];
                theirs.read_exact(&mut tail).expect("tail");
                let out = answer(h, body, tail);
                if out.is_empty() || theirs.write_all(&out).is_err() {
                    return;
                }
            }
        });
        Client::over(ours)
    }

    fn reply<T: serde::Serialize>(h: Header, flags: u8, body: &T, tail: &[u8]) -> Vec<u8> {
        let body = serde_json::to_vec(body).expect("json");
        frame::encode(h.number, FLAG_REPLY | flags, h.correlation, &body, tail)
    }

    #[test]
    fn replies_tails_and_refusals_are_told_apart() {
        let mut c = serve(|h, body, tail| match h.number {
            0x0103 => reply(h, 0, &KernelPingReply {}, &[]),
            0x0206 => {
                let args: ProcLogs = serde_json::from_slice(&body).expect("args");
                let mut out = tail;
                out.extend_from_slice(args.target.as_bytes());
                reply(h, 0, &ProcLogsReply { next: 9, eof: true, dropped: 0 }, &out)
            }
            _ => reply(h, FLAG_ERROR, &SysError::new(ErrorCode::NoAgent, "no `x`"), &[]),
        });
        c.call(&KernelPing {}).expect("pong");
        let e = c.call(&ProcWait { target: "x".into(), timeout_ms: None }).expect_err("refused");
        assert_eq!(e.code(), Some(ErrorCode::NoAgent));
        assert!(!e.is_lost());
        let call = ProcLogs { target: "abc".into(), ..ProcLogs::default() };
        let (r, tail) = c.call_with_tail(&call, b"\xff\x00").expect("logs");
        assert_eq!((r.next, tail), (9, b"\xff\x00abc".to_vec()));
    }

    #[test]
    fn a_dead_kernel_is_lost_not_refused() {
        let mut c = serve(|_, _, _| Vec::new());
        let e = c.call(&KernelPing {}).expect_err("nobody answers");
        assert!(e.is_lost(), "{e}");
        let e = c.call(&KernelPing {}).expect_err("still nobody");
        assert!(e.is_lost(), "{e}");
    }

    #[test]
    fn answers_to_another_call_are_not_believed() {
        let mut c = serve(|h, _, _| {
            let h = Header { correlation: h.correlation + 5, ..h };
            reply(h, 0, &KernelPingReply {}, &[])
        });
        assert!(matches!(c.call(&KernelPing {}), Err(ClientError::Garbled { .. })));
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let mut c = serve(|h, _, _| reply(h, 0, &KernelPingReply {}, &[]));
        let call = ProcWait { target: "x".repeat(MAX_BODY), timeout_ms: None };
        assert!(matches!(c.call(&call), Err(ClientError::TooLong { part: "arguments", .. })));
        c.call(&KernelPing {}).expect("the connection is still good");
    }

    #[test]
    fn a_large_blob_goes_as_a_sealed_descriptor() {
        let file = sealed_memfd(b"hello").expect("memfd");
        assert!((&file).write_all(b"x").is_err());
        let seals = rustix::fs::fcntl_get_seals(&file).expect("seals");
        assert!(seals.contains(SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK));
    }
}
