//! Threads for what may block (files, digests, closing foreign descriptors), so that the loop never does.

use super::foreign::Closers;
use super::shell::Shell;
use clove_abi::ids::RunId;
use rustix::event::EventfdFlags;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

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

    /// What is there, a bounded part of it. Clears the wake-up first, so that none is lost.
    pub fn take(&self) -> Vec<Message> {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        let some: Vec<Message> = self.receiver.try_iter().take(MESSAGES_PER_ROUND).collect();
        if some.len() == MESSAGES_PER_ROUND {
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
        some
    }
}

/// Messages that the loop takes at once.
const MESSAGES_PER_ROUND: usize = 64;

type Job = Box<dyn FnOnce() -> Option<Message> + Send>;

/// A few threads that take jobs in order. Jobs that agents can make long, by what they leave behind, belong to a run, and
/// no run's take more than half of the threads: the others are there for everybody else's, turn by turn.
pub struct Drivers {
    line: Arc<Line>,
    /// One of its own for what is only long and touches nothing: arguments that are decoded.
    decoder: mpsc::Sender<Job>,
    /// And one that lets go of things.
    disposer: mpsc::Sender<Job>,
    closers: Closers,
}

struct Line {
    queue: Mutex<Queue>,
    /// A job has come, or a run may have another thread.
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The kernel's own, which go first.
    own: VecDeque<Job>,
    of: BTreeMap<RunId, VecDeque<Job>>,
    /// Runs with waiting jobs, in the order of their turns.
    turns: VecDeque<RunId>,
    running: BTreeMap<RunId, usize>,
    /// Threads that one run may have.
    share: usize,
    /// No more jobs will come.
    closed: bool,
}

impl Queue {
    fn put(&mut self, owner: Option<RunId>, job: Job) {
        let Some(owner) = owner else { return self.own.push_back(job) };
        let waiting = self.of.entry(owner).or_default();
        if waiting.is_empty() {
            self.turns.push_back(owner);
        }
        waiting.push_back(job);
    }

    fn take(&mut self) -> Option<(Option<RunId>, Job)> {
        if let Some(job) = self.own.pop_front() {
            return Some((None, job));
        }
        let at = self.turns.iter().position(|o| self.running.get(o).is_none_or(|n| *n < self.share))?;
        let owner = self.turns.remove(at)?;
        let waiting = self.of.get_mut(&owner)?;
        let job = waiting.pop_front()?;
        if waiting.is_empty() {
            self.of.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        *self.running.entry(owner).or_default() += 1;
        Some((Some(owner), job))
    }

    fn done(&mut self, owner: RunId) {
        if let Some(n) = self.running.get_mut(&owner) {
            *n -= 1;
            if *n == 0 {
                self.running.remove(&owner);
            }
        }
    }
}

impl Line {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Jobs run outside of the lock, and what it protects is right after each statement.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, postbox: &Postbox) {
        let mut queue = self.queue();
        loop {
            let Some((owner, job)) = queue.take() else {
                if queue.closed && queue.of.is_empty() {
                    return;
                }
                queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            if let Some(m) = job() {
                postbox.post(m);
            }
            queue = self.queue();
            if let Some(owner) = owner {
                queue.done(owner);
                self.news.notify_one();
            }
        }
    }
}

impl Drivers {
    /// Starts `threads` of them.
    pub fn start(threads: usize, postbox: &Postbox) -> std::io::Result<Drivers> {
        let queue = Queue { share: (threads / 2).max(1), ..Queue::default() };
        let line = Arc::new(Line { queue: Mutex::new(queue), news: Condvar::new() });
        for n in 0..threads {
            let (line, postbox) = (line.clone(), postbox.clone());
            let thread = std::thread::Builder::new().name(format!("driver-{n}")).stack_size(512 << 10);
            thread.spawn(move || line.work(&postbox))?;
        }
        let decoder = start("decoder", postbox)?;
        let disposer = start("disposer", postbox)?;
        let post = Mutex::new(postbox.clone());
        let closers = Closers::new(move |party| {
            if let Ok(p) = post.lock() {
                p.post(Message::Then(Box::new(move |shell| shell.let_go(party))));
            }
        });
        Ok(Drivers { line, decoder, disposer, closers })
    }

    fn put(&self, owner: Option<RunId>, job: Job) {
        self.line.queue().put(owner, job);
        self.line.news.notify_one();
    }

    /// Runs `job` on a thread, then `then` with its value on the loop. For jobs whose length no agent decides.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Shell, T) + Send + 'static,
    ) {
        self.put(None, with_answer(job, then));
    }

    /// As [`Drivers::run`], for what agents of this run have left behind.
    pub fn run_for<T: Send + 'static>(
        &self,
        run: RunId,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Shell, T) + Send + 'static,
    ) {
        self.put(Some(run), with_answer(job, then));
    }

    /// As [`Drivers::run`], for what computes and touches nothing, so that no file waits for it.
    pub fn decode<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Shell, T) + Send + 'static,
    ) {
        // The threads live as long as the process.
        let _ = self.decoder.send(with_answer(job, then));
    }

    /// Drops something on a thread: the last descriptor of a tmpfs frees all its pages, large buffers are unmapped.
    pub fn discard<T: Send + 'static>(&self, thing: T) {
        let _ = self.disposer.send(Box::new(move || {
            drop(thing);
            None
        }));
    }

    /// Who closes what others have made.
    pub fn closers(&self) -> &Closers {
        &self.closers
    }
}

impl Drop for Drivers {
    fn drop(&mut self) {
        self.line.queue().closed = true;
        self.line.news.notify_all();
    }
}

fn with_answer<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
    then: impl FnOnce(&mut Shell, T) + Send + 'static,
) -> Job {
    Box::new(move || {
        let value = job();
        Some(Message::Then(Box::new(move |shell| then(shell, value))))
    })
}

fn start(name: &str, postbox: &Postbox) -> std::io::Result<mpsc::Sender<Job>> {
    let (jobs, receiver) = mpsc::channel::<Job>();
    let postbox = postbox.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10);
    thread.spawn(move || {
        for job in receiver {
            if let Some(m) = job() {
                postbox.post(m);
            }
        }
    })?;
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn nobody_takes_all_threads() {
        let (postbox, _inbox) = Inbox::new().expect("a letter box");
        let drivers = Drivers::start(4, &postbox).expect("threads");
        let (begun, began) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        // One run's jobs, none of which ends.
        for _ in 0..10 {
            let (begun, held) = (begun.clone(), held.clone());
            let job: Job = Box::new(move || {
                let _ = begun.send("greedy");
                let _ = held.lock().map(|h| h.recv());
                None
            });
            drivers.put(Some(RunId(1)), job);
        }
        for _ in 0..2 {
            assert_eq!(began.recv_timeout(LONG), Ok("greedy"));
        }
        for (owner, name) in [(Some(RunId(2)), "other"), (None, "own")] {
            let begun = begun.clone();
            drivers.put(
                owner,
                Box::new(move || {
                    let _ = begun.send(name);
                    None
                }),
            );
            assert_eq!(began.recv_timeout(LONG), Ok(name));
        }
        // And when they end after all, the rest has its turn.
        drop(release);
        for _ in 0..8 {
            assert_eq!(began.recv_timeout(LONG), Ok("greedy"));
        }
    }

    #[test]
    fn owners_take_turns_and_the_kernel_goes_first() {
        let mut queue = Queue { share: 9, ..Queue::default() };
        let mut put = |owner: Option<RunId>| queue.put(owner, Box::new(|| None));
        let (one, two) = (Some(RunId(1)), Some(RunId(2)));
        for owner in [one, one, one, two, two, None] {
            put(owner);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take().map(|(owner, _)| owner)).collect();
        assert_eq!(order, [None, one, two, one, two, one]);
        assert!(queue.of.is_empty() && queue.turns.is_empty());
        for owner in order.into_iter().flatten() {
            queue.done(owner);
        }
        assert!(queue.running.is_empty());
    }
}
