//! Threads for what may block (files, digests, closing foreign descriptors), so that the loop never does.

use super::shell::Shell;
use rustix::event::EventfdFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};

/// What another thread has for the loop.
pub enum Message {
    /// Everything up to this sequence number is on the disk.
    Synced(u64),
    SyncFailed(String),
    Log(super::logs::LogEvent),
    /// A driver's job has ended; this is what the loop does about it.
    Then(Box<dyn FnOnce(&mut Shell) + Send>),
}

/// The loop's letter box: a channel, and a descriptor that becomes readable.
#[derive(Clone)]
pub struct Postbox {
    sender: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Postbox {
    /// Leaves a message and wakes the loop. The loop outlives all threads, so a lost message means that it is leaving.
    pub fn post(&self, m: Message) {
        if self.sender.send(m).is_ok() {
            // A full counter still wakes the reader.
            let _ = rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes());
        }
    }
}

/// The loop's end of the letter box.
pub struct Inbox {
    receiver: mpsc::Receiver<Message>,
    wake: Arc<OwnedFd>,
}

impl Inbox {
    /// Both ends.
    pub fn new() -> std::io::Result<(Postbox, Inbox)> {
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = mpsc::channel();
        Ok((Postbox { sender, wake: wake.clone() }, Inbox { receiver, wake }))
    }

    /// What to watch.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Everything that is there. Clears the wake-up first, so that none is lost.
    pub fn take(&self) -> Vec<Message> {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        self.receiver.try_iter().collect()
    }
}

type Job = Box<dyn FnOnce() -> Option<Message> + Send>;

/// A few threads that take jobs in order.
pub struct Drivers {
    jobs: mpsc::Sender<Job>,
}

impl Drivers {
    /// Starts `threads` of them.
    pub fn start(threads: usize, postbox: &Postbox) -> std::io::Result<Drivers> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..threads {
            let receiver = receiver.clone();
            let postbox = postbox.clone();
            std::thread::Builder::new().name(format!("driver-{n}")).stack_size(512 << 10).spawn(
                move || {
                    loop {
                        let job = match receiver.lock() {
                            Ok(r) => r.recv(),
                            Err(_) => return,
                        };
                        let Ok(job) = job else { return };
                        if let Some(m) = job() {
                            postbox.post(m);
                        }
                    }
                },
            )?;
        }
        Ok(Drivers { jobs })
    }

    /// Runs `job` on a thread, then `then` with its value on the loop.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Shell, T) + Send + 'static,
    ) {
        let job: Job = Box::new(move || {
            let value = job();
            Some(Message::Then(Box::new(move |shell| then(shell, value))))
        });
        // The threads live as long as the process.
        let _ = self.jobs.send(job);
    }

    /// Drops something on a thread: the last descriptor of a tmpfs frees all its pages, a socket may linger.
    pub fn discard<T: Send + 'static>(&self, thing: T) {
        let _ = self.jobs.send(Box::new(move || {
            drop(thing);
            None
        }));
    }
}
