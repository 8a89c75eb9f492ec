//! The checkpoint keeper: what an agent writes to its checkpoint folder is on disk soon after it is complete.
//!
//! One thread watches (inotify on the agents' tmpfs), a second one copies, so that a large checkpoint doesn't keep the
//! first from hearing about the others. A copy is made once it has been quiet for a while. It doesn't replace an older
//! one when a file was still being written, was changed during the copy, when the bounds left something out, or when
//! nothing is left in the folder; only a file that stays unfinished for `PATIENCE` is copied as it is, since programs
//! may hold one open for ever.

use super::harvest::{self, Bounds, HarvestErrorKind};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// The sub-folder of the scratch folder that is watched.
pub const FOLDER: &str = "checkpoint";

/// No event for so long: what there is, is complete.
const QUIET: Duration = Duration::from_millis(200);
/// With events all the time a copy is tried nevertheless.
const LONGEST_QUIET_WAIT: Duration = Duration::from_secs(5);
/// So long an unfinished file holds a copy up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Younger files of a killed agent may have been in the making.
const FRESH: Duration = Duration::from_secs(2);
/// After a copy that took a second, the next one of the same agent waits for this many.
const PAUSE_FACTOR: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Events that come together are read together: an agent can't cost more turns than this allows.
const BREATH: Duration = Duration::from_millis(2);
/// The tree is walked for new folders at most so often.
const BETWEEN_WALKS: Duration = Duration::from_millis(50);
/// Watched folders of one agent; what happens in others is only seen when something happens in these.
const MOST_FOLDERS: usize = 256;

const WAKE: u64 = 0;
const NOTES: u64 = 1;

/// What is known about an agent that isn't watched any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Times its folder was copied.
    pub copies: u32,
    /// Something changed that was not copied.
    pub pending: bool,
}

type Done = Box<dyn FnOnce(Settled) + Send>;

/// A handle; the threads end with the last of them.
#[derive(Clone)]
pub struct CheckpointKeeper {
    line: Arc<Line>,
}

struct Line {
    commands: mpsc::Sender<Command>,
    wake: OwnedFd,
}

impl Line {
    fn send(&self, command: Command) {
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
    Watch { key: u64, scratch: OwnedFd, dest: PathBuf, bounds: Bounds },
    Unwatch { key: u64, done: Done },
    Copied { key: u64, watch: u64, outcome: Outcome, took: Duration },
    Stop,
}

enum Outcome {
    Kept,
    /// Not copied, or the copy thrown away: it wasn't complete.
    Unfinished,
    /// Won't get better without a further change.
    NotKept(String),
    /// Nothing there that would be worth it.
    Nothing,
}

impl CheckpointKeeper {
    pub fn start() -> io::Result<CheckpointKeeper> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let notes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        epoll::add(&poll, &notes, epoll::EventData::new_u64(NOTES), epoll::EventFlags::IN)?;
        let (commands, inbox) = mpsc::channel();
        let (jobs, work) = mpsc::channel();
        let (copier_commands, copier_wake) = (commands.clone(), wake.try_clone()?);
        std::thread::Builder::new()
            .name("checkpoint-copy".into())
            .spawn(move || copier(work, copier_commands, copier_wake))?;
        let watcher = Watcher {
            poll,
            notes,
            wake: wake.try_clone()?,
            inbox,
            jobs,
            watched: HashMap::new(),
            folders: HashMap::new(),
            next_watch: 0,
            out_of_watches: false,
        };
        std::thread::Builder::new().name("checkpoints".into()).spawn(move || watcher.run())?;
        Ok(CheckpointKeeper { line: Arc::new(Line { commands, wake }) })
    }

    /// From now on the sub-folder `FOLDER` of `scratch` is copied to `dest` after it has changed. `key` names the agent.
    pub fn watch(&self, key: u64, scratch: OwnedFd, dest: PathBuf, bounds: Bounds) {
        self.line.send(Command::Watch { key, scratch, dest, bounds });
    }

    /// Watches no longer. A copy under way goes on to its end, and a `copy_out` to the same place waits for it.
    pub fn unwatch(&self, key: u64) {
        self.unwatch_then(key, |_| {});
    }

    /// `unwatch`, after which `done` is called on the keeper's thread, at once or when the copy under way has ended; from
    /// then on nothing here touches `dest`, nor holds `scratch`.
    pub fn unwatch_then(&self, key: u64, done: impl FnOnce(Settled) + Send + 'static) {
        self.line.send(Command::Unwatch { key, done: Box::new(done) });
    }
}

/// The last copy, once nobody is left to write: to be called (on a driver) after `unwatch`. True when `dest` holds the
/// folder's content now. When the agent was `killed` while it may have been writing (its newest file is fresh), an
/// older whole one stays: what was complete before has been copied by the keeper already.
pub fn last_copy(
    scratch: BorrowedFd<'_>,
    dest: &Path,
    bounds: &Bounds,
    killed: bool,
) -> Result<bool, harvest::HarvestError> {
    harvest::settle(dest)?;
    if killed && dest.exists() {
        let now = SystemTime::now();
        let stale = harvest::visit(scratch, FOLDER, bounds, &mut |_, _, stat| {
            now.duration_since(modified(stat)).is_ok_and(|age| age > FRESH)
        });
        if stale != Ok(true) {
            return Ok(false);
        }
    }
    let copied = harvest::copy_out_if(scratch, FOLDER, dest, bounds, |c| c.files > 0 && !c.truncated);
    match copied {
        Ok((_, kept)) => Ok(kept),
        Err(e) if e.kind == HarvestErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Which files are complete, as far as events tell.
struct Finished {
    /// Files that were closed or moved to their place, by the inode of their folder.
    at: HashMap<(u64, Vec<u8>), SystemTime>,
    /// Watched folders by inode, with when that began: what was there before is taken as complete. So is what lies in
    /// folders without a watch, about which nothing is known.
    since: HashMap<u64, SystemTime>,
}

impl Finished {
    /// It was written to after it was closed last.
    fn is_unfinished(&self, folder: u64, name: &CStr, stat: &Stat) -> bool {
        let closed = self.at.get(&(folder, name.to_bytes().to_vec())).or_else(|| self.since.get(&folder));
        closed.is_some_and(|closed| modified(stat) > *closed)
    }

    /// From here on anew, when it can't be known or kept what was closed.
    fn start_over(&mut self) {
        self.at.clear();
        let now = SystemTime::now();
        self.since.values_mut().for_each(|since| *since = now);
    }
}

fn modified(stat: &Stat) -> SystemTime {
    // Times before 1970 or beyond all measure are an agent's joke.
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What the two threads share about an agent.
struct Shared {
    scratch: OwnedFd,
    dest: PathBuf,
    bounds: Bounds,
    finished: Mutex<Finished>,
    /// Counts events.
    changes: AtomicU64,
    /// A copy that hasn't begun needn't begin any more.
    given_up: AtomicBool,
}

impl Shared {
    fn finished(&self) -> std::sync::MutexGuard<'_, Finished> {
        // What it protects is right after any panic: single assignments.
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Job {
    key: u64,
    watch: u64,
    shared: Arc<Shared>,
    /// Copies unfinished files too.
    whatever: bool,
}

fn copier(work: mpsc::Receiver<Job>, commands: mpsc::Sender<Command>, wake: OwnedFd) {
    for Job { key, watch, shared, whatever } in work {
        let began = Instant::now();
        let given_up = shared.given_up.load(Ordering::SeqCst);
        let outcome = if given_up { Outcome::Unfinished } else { copy(&shared, whatever) };
        // Before the answer: whoever waits for it may count on the scratch folder being let go.
        drop(shared);
        if commands.send(Command::Copied { key, watch, outcome, took: began.elapsed() }).is_err() {
            return;
        }
        let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
    }
}

fn copy(shared: &Shared, whatever: bool) -> Outcome {
    let scratch = shared.scratch.as_fd();
    let changes = || shared.changes.load(Ordering::SeqCst);
    let before = changes();
    if !whatever {
        let all_finished = harvest::visit(scratch, FOLDER, &shared.bounds, &mut |folder, name, stat| {
            !shared.finished().is_unfinished(folder, name, stat)
        });
        match all_finished {
            Ok(true) => {}
            // Either an unfinished file or too many of them; the copy itself finds out which, when its time comes.
            Ok(false) => return Outcome::Unfinished,
            Err(Errno::NOENT) => return Outcome::Nothing,
            Err(e) => return Outcome::NotKept(e.to_string()),
        }
    }
    let copied = harvest::copy_out_if(scratch, FOLDER, &shared.dest, &shared.bounds, |copied| {
        copied.files > 0 && !copied.truncated && (whatever || (copied.changed == 0 && changes() == before))
    });
    match copied {
        Ok((_, true)) => Outcome::Kept,
        Ok((copied, false)) if copied.truncated => {
            let Bounds { bytes, files, depth } = shared.bounds;
            Outcome::NotKept(format!("it is beyond {bytes} bytes, {files} files or {depth} folders deep"))
        }
        Ok((copied, false)) if copied.files == 0 => Outcome::Nothing,
        Ok(_) => Outcome::Unfinished,
        Err(e) if e.kind == HarvestErrorKind::NotFound => Outcome::Nothing,
        Err(e) => Outcome::NotKept(e.to_string()),
    }
}

struct Watched {
    /// Tells an answer of the copier from one about an earlier watch of the same key.
    watch: u64,
    shared: Arc<Shared>,
    folders: HashSet<i32>,
    /// The first change that isn't copied yet.
    dirty_since: Option<Instant>,
    last_event: Instant,
    /// Unfinished at the last look; without an event only patience helps.
    held: bool,
    earliest: Instant,
    /// The first change that the copy under way is to cover.
    copying: Option<Instant>,
    new_folders: bool,
    last_walk: Instant,
    copies: u32,
    told: bool,
    done: Option<Done>,
}

impl Watched {
    fn changed(&mut self, now: Instant) {
        self.shared.changes.fetch_add(1, Ordering::SeqCst);
        self.dirty_since.get_or_insert(now);
        self.last_event = now;
        self.held = false;
    }

    fn settled(&self) -> Settled {
        Settled { copies: self.copies, pending: self.dirty_since.is_some() }
    }

    fn copy_due(&self) -> Option<Instant> {
        let since = self.dirty_since.filter(|_| self.copying.is_none())?;
        let due = if self.held {
            since + PATIENCE
        } else {
            (self.last_event + QUIET).min(since + LONGEST_QUIET_WAIT)
        };
        Some(due.max(self.earliest))
    }

    fn walk_due(&self) -> Option<Instant> {
        self.new_folders.then(|| self.last_walk + BETWEEN_WALKS)
    }
}

struct Watcher {
    poll: OwnedFd,
    notes: OwnedFd,
    wake: OwnedFd,
    inbox: mpsc::Receiver<Command>,
    jobs: mpsc::Sender<Job>,
    watched: HashMap<u64, Watched>,
    /// Watch descriptor to key and inode; the kernel doesn't use their numbers again soon (inotify(7)).
    folders: HashMap<i32, (u64, u64)>,
    next_watch: u64,
    out_of_watches: bool,
}

impl Watcher {
    fn run(mut self) {
        let mut events = Vec::with_capacity(8);
        loop {
            let now = Instant::now();
            let due = self.watched.values().flat_map(|w| [w.copy_due(), w.walk_due()]).flatten().min();
            // A millisecond more than asked for, lest it wakes just before the time.
            let timeout = due.map(|due| {
                let wait = due.saturating_duration_since(now) + Duration::from_millis(1);
                rustix::event::Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ }
            });
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    say!("checkpoints aren't watched any more: {e}");
                    return;
                }
            }
            // The notes first: a command may take the watch away that they are about.
            if events.iter().any(|e| e.data.u64() == NOTES) {
                std::thread::sleep(BREATH);
                self.read_notes();
            }
            if events.iter().any(|e| e.data.u64() == WAKE) && !self.commands() {
                return;
            }
            self.act();
        }
    }

    /// False at the end of everything.
    fn commands(&mut self) -> bool {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Watch { key, scratch, dest, bounds }) => self.watch(key, scratch, dest, bounds),
                Ok(Command::Unwatch { key, done }) => self.unwatch(key, done),
                Ok(Command::Copied { key, watch, outcome, took }) => self.copied(key, watch, outcome, took),
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn watch(&mut self, key: u64, scratch: OwnedFd, dest: PathBuf, bounds: Bounds) {
        if let Some(earlier) = self.watched.remove(&key) {
            self.let_go(&earlier);
        }
        let now = Instant::now();
        let finished = Mutex::new(Finished { at: HashMap::new(), since: HashMap::new() });
        let (changes, given_up) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { scratch, dest, bounds, finished, changes, given_up });
        self.next_watch += 1;
        let mut watched = Watched {
            watch: self.next_watch,
            shared: shared.clone(),
            folders: HashSet::new(),
            dirty_since: None,
            last_event: now,
            held: false,
            earliest: now,
            copying: None,
            new_folders: false,
            last_walk: now,
            copies: 0,
            told: false,
            done: None,
        };
        self.walk(key, &mut watched);
        if has_newer(&shared) {
            watched.changed(now);
        }
        self.watched.insert(key, watched);
    }

    fn unwatch(&mut self, key: u64, done: Done) {
        let Some(mut watched) = self.watched.remove(&key) else {
            done(Settled::default());
            return;
        };
        self.let_go(&watched);
        if watched.copying.is_some() {
            watched.done = Some(done);
            watched.folders.clear();
            self.watched.insert(key, watched);
        } else {
            let settled = watched.settled();
            drop(watched);
            done(settled);
        }
    }

    fn let_go(&mut self, watched: &Watched) {
        watched.shared.given_up.store(true, Ordering::SeqCst);
        for folder in &watched.folders {
            self.folders.remove(folder);
            // It fails for a folder that is gone.
            let _ = inotify::remove_watch(&self.notes, *folder);
        }
    }

    fn copied(&mut self, key: u64, watch: u64, outcome: Outcome, took: Duration) {
        let Some(watched) = self.watched.get_mut(&key).filter(|w| w.watch == watch) else { return };
        let since = watched.copying.take();
        match outcome {
            Outcome::Kept => {
                watched.copies += 1;
                watched.told = false;
            }
            Outcome::Nothing => {}
            Outcome::NotKept(why) => {
                if !std::mem::replace(&mut watched.told, true) {
                    say!("the checkpoint can't be kept in {}: {why}", watched.shared.dest.display());
                }
            }
            Outcome::Unfinished => {
                // With an event during the copy, quiet decides again.
                watched.held = watched.dirty_since.is_none();
                watched.dirty_since = since.or(watched.dirty_since);
            }
        }
        watched.earliest = Instant::now() + (took * PAUSE_FACTOR).min(LONGEST_PAUSE);
        if watched.done.is_some()
            && let Some(mut watched) = self.watched.remove(&key)
            && let Some(done) = watched.done.take()
        {
            let settled = watched.settled();
            drop(watched);
            done(settled);
        }
    }

    fn read_notes(&mut self) {
        let now = Instant::now();
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut notes = inotify::Reader::new(&self.notes, &mut buffer);
        let mut first = true;
        // One buffer at a time; what is left makes epoll report again.
        while first || !notes.is_buffer_empty() {
            first = false;
            let Ok(note) = notes.next() else { return };
            let what = note.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Nobody knows what was closed: everything that there is now counts as complete.
                for watched in self.watched.values_mut() {
                    watched.shared.finished().start_over();
                    watched.new_folders = true;
                    watched.changed(now);
                }
                continue;
            }
            let Some(&(key, inode)) = self.folders.get(&note.wd()) else { continue };
            if what.contains(ReadFlags::IGNORED) {
                self.folders.remove(&note.wd());
                if let Some(watched) = self.watched.get_mut(&key) {
                    watched.folders.remove(&note.wd());
                    watched.shared.finished().since.remove(&inode);
                }
                continue;
            }
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            let arrived = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            if what.contains(ReadFlags::ISDIR) {
                watched.new_folders |= arrived;
                watched.changed(now);
            } else if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
                if let Some(name) = note.file_name() {
                    let mut finished = watched.shared.finished();
                    if finished.at.len() > 2 * watched.shared.bounds.files as usize + 1024 {
                        finished.start_over();
                    }
                    finished.at.insert((inode, name.to_bytes().to_vec()), SystemTime::now());
                }
                watched.changed(now);
            } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
                if let Some(name) = note.file_name() {
                    watched.shared.finished().at.remove(&(inode, name.to_bytes().to_vec()));
                }
                watched.changed(now);
            }
        }
    }

    fn act(&mut self) {
        let now = Instant::now();
        let walks: Vec<u64> = self
            .watched
            .iter()
            .filter(|(_, w)| w.walk_due().is_some_and(|at| at <= now))
            .map(|(k, _)| *k)
            .collect();
        for key in walks {
            if let Some(mut watched) = self.watched.remove(&key) {
                self.walk(key, &mut watched);
                self.watched.insert(key, watched);
            }
        }
        for (key, watched) in &mut self.watched {
            if watched.done.is_some() || watched.copy_due().is_none_or(|at| at > now) {
                continue;
            }
            let Some(since) = watched.dirty_since.take() else { continue };
            watched.copying = Some(since);
            watched.held = false;
            let whatever = now.saturating_duration_since(since) >= PATIENCE;
            let job = Job { key: *key, watch: watched.watch, shared: watched.shared.clone(), whatever };
            if self.jobs.send(job).is_err() {
                watched.copying = None;
            }
        }
    }

    /// Puts watches on all folders, old ones again (that changes nothing) and new ones.
    fn walk(&mut self, key: u64, watched: &mut Watched) {
        watched.new_folders = false;
        watched.last_walk = Instant::now();
        let shared = watched.shared.clone();
        match harvest::open_folder(shared.scratch.as_fd(), FOLDER) {
            Ok(folder) => {
                let mut names_left = shared.bounds.files.saturating_mul(4).saturating_add(1024);
                self.walk_folder(key, watched, &folder, shared.bounds.depth.min(64), &mut names_left);
            }
            Err(Errno::NOENT) => {}
            Err(e) => {
                say!("the checkpoint folder for {} can't be watched: {e}", shared.dest.display())
            }
        }
    }

    fn walk_folder(
        &mut self,
        key: u64,
        watched: &mut Watched,
        folder: &OwnedFd,
        depth: u32,
        names_left: &mut u32,
    ) {
        let Ok(stat) = rustix::fs::fstat(folder) else { return };
        // Through /proc, since the path of an agent's folder means nothing outside of its mount namespace.
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CREATE
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.notes, path, what) {
            Ok(number) => {
                watched.folders.insert(number);
                self.folders.insert(number, (key, stat.st_ino));
                watched.shared.finished().since.entry(stat.st_ino).or_insert_with(SystemTime::now);
            }
            Err(e) => {
                if !std::mem::replace(&mut self.out_of_watches, true) {
                    say!(
                        "a checkpoint folder can't be watched: {e} (fs.inotify.max_user_watches may be too low); \
                         checkpoints are then kept only when an agent ends"
                    );
                }
                return;
            }
        }
        if depth == 0 {
            return;
        }
        let Ok(entries) = Dir::read_from(folder) else { return };
        for entry in entries.flatten() {
            if *names_left == 0 || watched.folders.len() >= MOST_FOLDERS {
                return;
            }
            *names_left -= 1;
            if entry.file_type() != FileType::Directory
                || matches!(entry.file_name().to_bytes(), b"." | b"..")
            {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            if let Ok(below) = harvest::open_theirs(folder.as_fd(), entry.file_name(), flags) {
                self.walk_folder(key, watched, &below, depth - 1, names_left);
            }
        }
    }
}

/// Something was written before the watch began that the copy on disk doesn't have.
fn has_newer(shared: &Shared) -> bool {
    let kept = kept_at(&shared.dest);
    let mut newer = false;
    let _ = harvest::visit(shared.scratch.as_fd(), FOLDER, &shared.bounds, &mut |_, _, stat| {
        newer = kept.is_none_or(|kept| modified(stat) > kept);
        !newer
    });
    newer
}

fn kept_at(dest: &Path) -> Option<SystemTime> {
    std::fs::metadata(dest).and_then(|m| m.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::fs::File;
    use std::io::Write;

    const ROOMY: Bounds = Bounds { bytes: 1 << 20, files: 100, depth: 8 };

    struct Place {
        dir: tempfile::TempDir,
        keeper: CheckpointKeeper,
    }

    fn place(bounds: Bounds) -> Place {
        let p = Place {
            dir: tempfile::tempdir().expect("folder"),
            keeper: CheckpointKeeper::start().expect("started"),
        };
        std::fs::create_dir_all(p.theirs("")).expect("folder");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch = rustix::fs::open(p.dir.path().join("scratch"), flags, Mode::empty()).expect("scratch");
        p.keeper.watch(7, scratch, p.kept(""), bounds);
        // The watch stands once a command after it was answered.
        let (tell, told) = mpsc::channel();
        p.keeper.unwatch_then(999, move |s| tell.send(s).expect("told"));
        assert_eq!(told.recv().expect("told"), Settled::default());
        p
    }

    impl Place {
        fn theirs(&self, name: &str) -> PathBuf {
            self.dir.path().join("scratch/checkpoint").join(name)
        }

        fn kept(&self, name: &str) -> PathBuf {
            let dest = self.dir.path().join("kept");
            if name.is_empty() { dest } else { dest.join(name) }
        }

        fn kept_becomes(&self, name: &str, content: &str) -> bool {
            let until = Instant::now() + Duration::from_secs(10);
            while Instant::now() < until {
                if std::fs::read_to_string(self.kept(name)).is_ok_and(|c| c == content) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        }

        fn settle(&self) -> Settled {
            let (tell, told) = mpsc::channel();
            self.keeper.unwatch_then(7, move |s| tell.send(s).expect("told"));
            told.recv_timeout(Duration::from_secs(10)).expect("told")
        }
    }

    const WHILE: Duration = Duration::from_millis(600);

    #[test]
    fn what_is_complete_is_kept_soon() {
        let p = place(ROOMY);
        std::fs::write(p.theirs("model"), "1").expect("write");
        assert!(p.kept_becomes("model", "1"));
        std::fs::write(p.theirs("model.tmp"), "2").expect("write");
        std::fs::rename(p.theirs("model.tmp"), p.theirs("model")).expect("rename");
        assert!(p.kept_becomes("model", "2"));
        std::thread::sleep(WHILE);
        assert!(!p.kept("model.tmp").exists());
        let settled = p.settle();
        assert!((2..=3).contains(&settled.copies) && !settled.pending, "{settled:?}");
        // Nobody watches now.
        std::fs::write(p.theirs("model"), "3").expect("write");
        std::thread::sleep(WHILE);
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "2");
    }

    #[test]
    fn folders_made_later_and_renamed_ones() {
        let p = place(ROOMY);
        std::fs::create_dir_all(p.theirs("tmp-1/deep")).expect("folder");
        std::fs::write(p.theirs("tmp-1/deep/w"), "w1").expect("write");
        std::fs::rename(p.theirs("tmp-1"), p.theirs("step-1")).expect("rename");
        assert!(p.kept_becomes("step-1/deep/w", "w1"));
        std::fs::write(p.theirs("step-1/deep/w"), "w2").expect("write");
        assert!(p.kept_becomes("step-1/deep/w", "w2"));
        std::fs::remove_dir_all(p.theirs("step-1")).expect("remove");
        std::fs::create_dir(p.theirs("step-2")).expect("folder");
        std::fs::write(p.theirs("step-2/w"), "w3").expect("write");
        assert!(p.kept_becomes("step-2/w", "w3"));
        assert!(!p.kept("step-1").exists());
    }

    #[test]
    fn a_half_written_file_doesnt_replace_a_whole_one() {
        let p = place(ROOMY);
        std::fs::write(p.theirs("model"), "good").expect("write");
        std::fs::write(p.theirs("optimizer"), "good").expect("write");
        assert!(p.kept_becomes("optimizer", "good"));
        let mut model = File::create(p.theirs("model")).expect("create");
        model.write_all(b"half").expect("write");
        std::thread::sleep(Duration::from_millis(20));
        // This one's event alone would make a copy.
        std::fs::write(p.theirs("optimizer"), "next").expect("write");
        std::thread::sleep(WHILE);
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "good");
        assert_eq!(std::fs::read_to_string(p.kept("optimizer")).expect("read"), "good");
        model.write_all(b" and half").expect("write");
        drop(model);
        assert!(p.kept_becomes("model", "half and half"));
        assert!(p.kept_becomes("optimizer", "next"));
    }

    #[test]
    fn too_large_or_empty_doesnt_replace_a_good_one() {
        let p = place(ROOMY);
        std::fs::write(p.theirs("model"), "good").expect("write");
        assert!(p.kept_becomes("model", "good"));
        std::fs::write(p.theirs("model"), vec![1u8; 2 << 20]).expect("write");
        std::thread::sleep(WHILE);
        std::fs::remove_file(p.theirs("model")).expect("remove");
        std::thread::sleep(WHILE);
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "good");
    }

    #[test]
    fn what_changes_all_the_time_is_copied_now_and_then() {
        let p = place(ROOMY);
        let until = Instant::now() + LONGEST_QUIET_WAIT + Duration::from_secs(3);
        let mut n = 0;
        while Instant::now() < until && !p.kept("log").exists() {
            n += 1;
            std::fs::write(p.theirs("log"), n.to_string()).expect("write");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(p.kept("log").exists());
    }

    #[test]
    fn nothing_happens_when_nothing_happens() {
        let p = place(ROOMY);
        std::thread::sleep(WHILE);
        assert_eq!(p.settle(), Settled::default());
        assert!(!p.kept("").exists());
    }

    #[test]
    fn what_was_there_before_the_watch_is_kept_once() {
        let p = place(ROOMY);
        p.settle();
        std::fs::write(p.theirs("early"), "x").expect("write");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch =
            || rustix::fs::open(p.dir.path().join("scratch"), flags, Mode::empty()).expect("scratch");
        p.keeper.watch(7, scratch(), p.kept(""), ROOMY);
        assert!(p.kept_becomes("early", "x"));
        p.settle();
        p.keeper.watch(7, scratch(), p.kept(""), ROOMY);
        std::thread::sleep(WHILE);
        assert_eq!(p.settle(), Settled::default());
    }

    #[test]
    fn the_last_copy_after_a_kill_spares_a_good_one() {
        let p = place(ROOMY);
        p.settle();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch = rustix::fs::open(p.dir.path().join("scratch"), flags, Mode::empty()).expect("scratch");
        let last = |killed| last_copy(scratch.as_fd(), &p.kept(""), &ROOMY, killed).expect("copied");
        assert!(!last(false));
        std::fs::write(p.theirs("model"), "first").expect("write");
        // Better a doubtful one than none.
        assert!(last(true));
        std::fs::write(p.theirs("model"), "torn").expect("write");
        assert!(!last(true));
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "first");
        let model = File::options().write(true).open(p.theirs("model")).expect("open");
        model.set_modified(SystemTime::now() - Duration::from_secs(10)).expect("time");
        assert!(last(true));
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "torn");
        std::fs::write(p.theirs("model"), "end").expect("write");
        assert!(last(false));
        assert_eq!(std::fs::read_to_string(p.kept("model")).expect("read"), "end");
    }

    #[test]
    fn many_folders_are_bounded() {
        let p = place(Bounds { files: 2000, ..ROOMY });
        for n in 0..600 {
            std::fs::create_dir(p.theirs(&format!("d{n}"))).expect("folder");
        }
        std::fs::write(p.theirs("model"), "1").expect("write");
        assert!(p.kept_becomes("model", "1"));
    }
}
