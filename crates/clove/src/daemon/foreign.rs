//! Descriptors that somebody else made: whoever closes one may wait for as long as its maker likes.
//!
//! The last close of a TCP socket with SO_LINGER waits until its bytes are taken or the time is over (socket(7),
//! close(2)); that of a unix socket closes what still lies in its queue. So neither the loop nor a driver ever closes
//! one: dropping a [`Foreign`] hands it to a thread that serves one party at a time. Lingering is turned off first, which
//! is enough unless the socket is hidden in another's queue. A party whose descriptors can't be closed holds up its own,
//! and isn't read from until they are gone.

use super::connection::Party;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown};
use std::collections::{HashMap, VecDeque};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that close, at most: so many partys can hold up their own before others' wait too.
const MOST_THREADS: usize = 256;
/// A thread without work leaves after this long.
const IDLE: Duration = Duration::from_secs(10);
/// One party's descriptors that aren't closed yet: with more, nothing more is taken from it.
pub const MOST_UNCLOSED: usize = 512;
/// Messages that are taken out of a socket before it is closed.
const MOST_DRAINED: usize = 64;
/// SCM_MAX_FD (unix(7)): as many descriptors come with one message at most.
pub const MOST_IN_A_MESSAGE: usize = 253;

/// A descriptor that came from a peer, or that a peer has put something into.
#[derive(Debug)]
pub struct Foreign {
    fd: Option<Closing>,
    party: Party,
    closers: Closers,
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(c) => c.fd.as_fd(),
            // It is only taken out by `drop`.
            None => unreachable!("a descriptor that was dropped"),
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.closers.close(self.party, fd);
        }
    }
}

/// One on its way out.
#[derive(Debug)]
struct Closing {
    fd: OwnedFd,
    /// Nobody else has it: what lies in its queue may be thrown away.
    is_ours: bool,
}

/// The threads that close.
#[derive(Clone)]
pub struct Closers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Closers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closers")
    }
}

struct Shared {
    books: Mutex<Books>,
    work: Condvar,
    /// Called when a party that had too many unclosed has few again.
    relieved: Box<dyn Fn(Party) + Send + Sync>,
}

#[derive(Default)]
struct Books {
    partys: HashMap<Party, Queue>,
    /// Partys with something to close, and no thread at it.
    waiting: VecDeque<Party>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct Queue {
    fds: VecDeque<Closing>,
    /// A thread is at it.
    served: bool,
    /// Not closed yet, those in a thread's hands too.
    unclosed: usize,
    /// Somebody waits to be told.
    blocked: bool,
}

impl Closers {
    /// `relieved` is called on one of the threads and must not wait.
    pub fn new(relieved: impl Fn(Party) + Send + Sync + 'static) -> Closers {
        let shared = Shared { books: Mutex::default(), work: Condvar::new(), relieved: Box::new(relieved) };
        Closers { shared: Arc::new(shared) }
    }

    /// Takes charge of a descriptor that a party has sent.
    pub fn passed(&self, party: Party, fd: OwnedFd) -> Foreign {
        Foreign { fd: Some(Closing { fd, is_ours: false }), party, closers: self.clone() }
    }

    /// Takes charge of our end of a party's connection.
    pub fn connection(&self, party: Party, fd: OwnedFd) -> Foreign {
        Foreign { fd: Some(Closing { fd, is_ours: true }), party, closers: self.clone() }
    }

    /// Too many of this party's descriptors can't be closed; `relieved` will be called when that is over.
    pub fn is_blocked(&self, party: Party) -> bool {
        let mut books = lock(&self.shared.books);
        let Some(q) = books.partys.get_mut(&party) else { return false };
        q.blocked = q.unclosed > MOST_UNCLOSED;
        q.blocked
    }

    fn close(&self, party: Party, fd: Closing) {
        let mut books = lock(&self.shared.books);
        let q = books.partys.entry(party).or_default();
        q.fds.push_back(fd);
        q.unclosed += 1;
        if q.served || q.fds.len() > 1 {
            return;
        }
        books.waiting.push_back(party);
        // Each gets a thread of its own as long as there are any: the one before it may never be done.
        if books.waiting.len() <= books.idle || books.threads == MOST_THREADS {
            drop(books);
            return self.shared.work.notify_one();
        }
        books.threads += 1;
        drop(books);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("closer".into()).stack_size(128 << 10);
        if thread.spawn(move || shared.run()).is_err() {
            // It is closed when a thread can be had again; until then it only takes up its place.
            lock(&self.shared.books).threads -= 1;
        }
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    // Nothing panics with the lock held.
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run(&self) {
        let mut books = lock(&self.books);
        loop {
            let Some(party) = books.waiting.pop_front() else {
                books.idle += 1;
                let (b, waited) = self.work.wait_timeout(books, IDLE).unwrap_or_else(PoisonError::into_inner);
                books = b;
                books.idle -= 1;
                if waited.timed_out() && books.waiting.is_empty() {
                    books.threads -= 1;
                    return;
                }
                continue;
            };
            while let Some(fd) = next(&mut books, party) {
                drop(books);
                defuse(&fd);
                drop(fd);
                books = lock(&self.books);
                if closed(&mut books, party) {
                    drop(books);
                    (self.relieved)(party);
                    books = lock(&self.books);
                }
            }
        }
    }
}

/// The party's next descriptor; its entry goes with the last.
fn next(books: &mut Books, party: Party) -> Option<Closing> {
    let q = books.partys.get_mut(&party)?;
    let fd = q.fds.pop_front();
    q.served = fd.is_some();
    if fd.is_none() {
        books.partys.remove(&party);
    }
    fd
}

/// One is closed. True when somebody who waits has to be told.
fn closed(books: &mut Books, party: Party) -> bool {
    let Some(q) = books.partys.get_mut(&party) else { return false };
    q.unclosed -= 1;
    let relieved = q.blocked && q.unclosed <= MOST_UNCLOSED / 2;
    q.blocked &= !relieved;
    relieved
}

/// Takes away what would make a close wait: lingering (it fails on whatever is no socket, which is as well), and what lies
/// in our own socket's queue.
fn defuse(c: &Closing) {
    let _ = rustix::net::sockopt::set_socket_linger(&c.fd, None);
    if !c.is_ours {
        return;
    }
    // Nobody puts in more while it is emptied.
    let _ = rustix::net::shutdown(&c.fd, Shutdown::Both);
    let mut bytes = [0u8; 4 << 10];
    for _ in 0..MOST_DRAINED {
        let inner = |fd| defuse(&Closing { fd, is_ours: false });
        match receive(c.fd.as_fd(), &mut bytes, inner) {
            Ok(n) if n > 0 => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Receives what is there. There is room for all descriptors of a message: those that don't fit would be closed by
/// recvmsg(2) itself, on the thread that calls it.
pub fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    mut take: impl FnMut(OwnedFd),
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_IN_A_MESSAGE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags);
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fds.for_each(&mut take);
        }
    }
    got.map(|m| m.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Instant;

    const HOLDER: Party = Party::Cell(1);
    const OTHER: Party = Party::Cell(2);

    /// A socket whose last close waits for a minute, and its other end.
    fn lingering() -> (OwnedFd, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").expect("listen");
        let mut client = TcpStream::connect(server.local_addr().expect("address")).expect("connect");
        let (other, _) = server.accept().expect("accept");
        client.set_nonblocking(true).expect("nonblocking");
        while client.write(&[0; 1 << 16]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::from_secs(60))).expect("linger");
        (client.into(), other)
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("pair")
    }

    fn send(socket: &OwnedFd, fd: BorrowedFd<'_>) {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sent");
    }

    fn comes_to_nothing(closers: &Closers) {
        let begun = Instant::now();
        while !lock(&closers.shared.books).partys.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "something isn't closed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lingering_sockets_are_closed_at_once() {
        let closers = Closers::new(|_| {});
        let begun = Instant::now();
        let mut others = Vec::new();
        for _ in 0..20 {
            let (fd, other) = lingering();
            drop(closers.passed(HOLDER, fd));
            others.push(other);
        }
        // In the queue of a connection, too.
        let (ours, theirs) = pair();
        let (fd, other) = lingering();
        send(&theirs, fd.as_fd());
        drop(fd);
        others.push(other);
        drop(closers.connection(HOLDER, ours));
        comes_to_nothing(&closers);
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn one_party_holds_up_only_its_own() {
        let (told, relieved) = mpsc::channel();
        let told = Mutex::new(told);
        let closers = Closers::new(move |m| told.lock().expect("lock").send(m).expect("sent"));
        // In the queue of a socket that is passed on it isn't found: its close waits until the other end is gone.
        let (outer, theirs) = pair();
        let (fd, other) = lingering();
        send(&theirs, fd.as_fd());
        drop((fd, theirs));
        drop(closers.passed(HOLDER, outer));
        for _ in 0..MOST_UNCLOSED + 10 {
            let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("fd");
            drop(closers.passed(HOLDER, fd));
        }
        assert!(closers.is_blocked(HOLDER));
        let (a, b) = pair();
        drop(closers.connection(OTHER, a));
        // The other party's is closed: its peer sees it.
        let mut bytes = [0u8; 1];
        assert_eq!(rustix::io::read(&b, &mut bytes), Ok(0));
        assert!(!closers.is_blocked(OTHER) && closers.is_blocked(HOLDER));
        drop(other);
        assert_eq!(relieved.recv_timeout(Duration::from_secs(20)), Ok(HOLDER));
        comes_to_nothing(&closers);
        assert!(!closers.is_blocked(HOLDER));
    }
}
