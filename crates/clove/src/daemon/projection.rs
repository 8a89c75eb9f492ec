//! The SQLite projection `state.db`: rows from changes, and the thread that applies them.
//!
//! The loop makes the rows of each record at once, since it has the state after it, and hands them over when the record
//! is durable. It never waits for SQLite: once too much is queued, records go without rows. The thread sees by
//! the sequence numbers what it lacks and reads that from the journal; so it also catches up after a start. Nothing
//! here may stop the kernel: without `state.db` there is one line in its log, and the next start tries again.

use super::book::{Appended, OutcomeRecord};
use clove_abi::certificate::{Cause, Certificate};
use clove_abi::ids::{AgentId, RunId, TaskIndex};
use clove_abi::run::{RunState, TaskSpec, TaskState};
use clove_abi::table::Sysno;
use clove_journal::{Checkpoints, Journal, Reader, RecordView, SyncHandle};
use clove_kernel::state::{Agent, Run, Task};
use clove_kernel::{Change, Input, State, view};
use clove_store::{
    Applied, AuditRow, Row, RunRow, Store, StoreError, StoreErrorKind, Taken, TaskProgress, TaskRow,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Records whose rows are queued have at most so many bytes together in the journal.
const QUEUE_BYTES: usize = 16 << 20;
/// Groups of durable records in the queue.
const QUEUE_GROUPS: usize = 4_096;
/// A record with more changes is left to the journal: its rows would hold up the loop.
const MOST_CHANGES: usize = 4_096;
/// Rows of one transaction, when they are from more than one record.
const BATCH_ROWS: usize = 1_000;
/// What the thread lacks may be on its way; the journal is read after so long without it.
const PATIENCE: Duration = Duration::from_millis(50);
/// After a full disk or a lock that somebody else holds.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a kernel that leaves waits for the last rows.
const CLOSING: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(86_400);
/// Audit rows, and ended agents without a run, are kept for so long.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// The loop's side.
pub struct Projection {
    /// Gone with the thread.
    line: Option<mpsc::SyncSender<Message>>,
    shared: Arc<Shared>,
    /// Rows of records that aren't durable yet.
    waiting: VecDeque<Entry>,
    /// Records go without rows until the thread has worked off what it has.
    dropping: bool,
    /// Ends with the thread.
    done: mpsc::Receiver<()>,
}

struct Shared {
    /// The last durable record.
    durable: AtomicU64,
    /// Bytes of the records whose rows wait, here or there.
    queued: AtomicUsize,
}

enum Message {
    /// Rows of durable records; maybe not of all of them.
    Durable(Vec<Entry>),
    /// The same of records that must be made durable first; then the thread ends.
    Leave(Vec<Entry>),
}

/// The rows of one record.
struct Entry {
    seq: u64,
    bytes: usize,
    pieces: Vec<Piece>,
}

/// Rows, or what the thread makes many of.
enum Piece {
    Row(Row),
    Tasks { run: RunId, first: TaskIndex, specs: Vec<TaskSpec> },
}

impl Projection {
    /// Starts the thread, which opens the store and brings it up to the journal's head. Call it before a record is
    /// appended.
    pub fn start(data_dir: &Path, journal: &Journal) -> std::io::Result<Projection> {
        let head = journal.head().seq;
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(journal.durable_head().seq),
            queued: AtomicUsize::new(0),
        });
        let (line, inbox) = mpsc::sync_channel(QUEUE_GROUPS);
        let (ending, done) = mpsc::channel();
        let (path, journal_dir) = (data_dir.join("state.db"), data_dir.join("journal"));
        let (checkpoints, sync) = (journal.checkpoints(), journal.sync_handle());
        let theirs = shared.clone();
        std::thread::Builder::new().name("projection".into()).stack_size(1 << 20).spawn(move || {
            // Its work can wait; that of the loop and of the agents can't. (On Linux this is the thread's own.)
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
            match open(&path, &journal_dir, head) {
                Ok(store) => {
                    let keeper = Keeper {
                        store,
                        shared: theirs,
                        checkpoints,
                        sync,
                        journal_dir,
                        retry_at: None,
                        complained: false,
                        built_again: false,
                        trim_at: Instant::now() + PAUSE,
                    };
                    keeper.run(&inbox);
                }
                Err(e) => say!("{e}; the kernel goes on without it"),
            }
            drop(ending);
        })?;
        Ok(Projection { line: Some(line), shared, waiting: VecDeque::new(), dropping: false, done })
    }

    /// Takes the changes of a record that was appended; `state` is the one after it.
    pub fn record(&mut self, input: &Input, a: Appended, changes: Vec<Change>, state: &State) {
        if self.line.is_none() {
            return;
        }
        let queued = self.shared.queued.load(Ordering::Relaxed);
        // Once begun, dropping goes on until the queue is empty: each gap costs the thread a look into the journal.
        self.dropping = if self.dropping { queued > 0 } else { queued + a.bytes > QUEUE_BYTES };
        if self.dropping || changes.len() > MOST_CHANGES {
            return;
        }
        let audit = audit(a.seq, input.wall_ms, input.event.kind().to_owned(), a.actor, &changes);
        let mut pieces = pieces(changes, state);
        pieces.push(Piece::Row(Row::Audit(audit)));
        self.shared.queued.fetch_add(a.bytes, Ordering::Relaxed);
        self.waiting.push_back(Entry { seq: a.seq, bytes: a.bytes, pieces });
    }

    /// Everything up to `durable` is on the disk: the thread may have it.
    pub fn synced(&mut self, durable: u64) {
        let Some(line) = &self.line else { return };
        let covered = self.waiting.partition_point(|e| e.seq <= durable);
        let entries = self.waiting.drain(..covered).collect();
        self.shared.durable.fetch_max(durable, Ordering::SeqCst);
        match line.try_send(Message::Durable(entries)) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(Message::Durable(lost) | Message::Leave(lost))) => {
                self.shared.release(&lost);
            }
            Err(mpsc::TrySendError::Disconnected(_)) => {
                self.line = None;
                self.waiting.clear();
            }
        }
    }

    /// The loop has ended, everything is flushed: the thread gets a moment for the last records. What it doesn't manage
    /// is for the next start.
    pub fn close(&mut self) {
        let Some(line) = self.line.take() else { return };
        let _ = line.try_send(Message::Leave(self.waiting.drain(..).collect()));
        drop(line);
        let _ = self.done.recv_timeout(CLOSING);
    }
}

impl Shared {
    fn release(&self, entries: &[Entry]) {
        self.queued.fetch_sub(entries.iter().map(|e| e.bytes).sum(), Ordering::Relaxed);
    }
}

// --- rows from changes

/// Rows of one record: what doesn't follow from the changes alone is taken from the state after them.
fn pieces(changes: Vec<Change>, state: &State) -> Vec<Piece> {
    let mut out = Vec::with_capacity(changes.len() + 1);
    // What was touched is told once, as it is now.
    let (mut runs, mut tasks, mut agents) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut ends = Vec::new();
    let mut to_come: BTreeMap<RunId, u32> = BTreeMap::new();
    for c in &changes {
        if let Change::TasksAdded { run, tasks, .. } = c {
            *to_come.entry(*run).or_default() += tasks.len() as u32;
        }
    }
    for c in changes {
        match c {
            // What "as many as there are CPUs" means may have changed.
            Change::Booted { .. } => {
                let open = |r: &&Run| matches!(r.state, RunState::Active | RunState::Interrupted);
                let rows = state.runs.values().filter(open).filter(|r| r.spec.jobs == 0);
                out.extend(rows.map(|r| Piece::Row(run_row(state, r))));
            }
            Change::RunCreated { id, .. } => {
                out.extend(state.runs.get(&id).map(|r| Piece::Row(run_row(state, r))));
            }
            Change::TasksAdded { run, tasks: specs, .. } => {
                if let (Some(r), Some(left)) = (state.runs.get(&run), to_come.get_mut(&run)) {
                    let first = r.next_index.saturating_sub(*left);
                    *left -= specs.len() as u32;
                    out.push(Piece::Tasks { run, first, specs });
                }
            }
            Change::TasksForgotten { run, tasks } => {
                let taken = state.runs.get(&run).map(taken);
                out.extend(taken.map(|taken| Piece::Row(Row::TasksTaken { run, tasks, taken })));
            }
            Change::RunMoved { run, .. } | Change::RunCharged { run, .. } => {
                runs.insert(run);
            }
            Change::TaskFailed { run, task, certificate, .. } => {
                tasks.insert((run, task));
                out.extend(certificate.map(|certificate| Piece::Row(Row::Attempt { certificate })));
            }
            Change::TaskStarted { run, task, .. }
            | Change::TaskDone { run, task, .. }
            | Change::TaskReset { run, task }
            | Change::TaskDue { run, task }
            | Change::TaskCancelled { run, task, .. } => {
                tasks.insert((run, task));
            }
            Change::AgentCreated { agent } => {
                agents.insert(agent.id);
            }
            Change::AgentReady { id, .. }
            | Change::AgentEnding { id, .. }
            | Change::WorkerTask { id, task: Some(_), .. } => {
                agents.insert(id);
            }
            Change::AgentEnded { id, certificate } => {
                let listed = match state.agent(id) {
                    Some(a) => is_listed(a),
                    // Forgotten with its end: an executor session's.
                    None => certificate.run.is_none(),
                };
                if listed || ended_badly(&certificate) {
                    ends.push(agent_ended(certificate));
                }
            }
            // None of this is listed; what was forgotten stays in the store for those who look back.
            Change::WorkerTask { task: None, .. }
            | Change::AgentDeadline { .. }
            | Change::AgentSignalled { .. }
            | Change::AgentForgotten { .. }
            | Change::RunClosed { .. } => {}
        }
    }
    for (run, task) in tasks {
        if let Some(t) = state.runs.get(&run).and_then(|r| r.tasks.get(&task)) {
            out.push(Piece::Row(Row::TaskState { run, task, progress: Box::new(progress(t)) }));
        }
    }
    for r in runs.iter().filter_map(|run| state.runs.get(run)) {
        let (run, message) = (r.id, r.message.clone());
        out.push(Piece::Row(Row::RunState { run, state: r.state, message, ended_ms: r.ended_wall_ms }));
        let (cpu_us, peak_memory_bytes) = (r.cpu_us, r.peak_memory_bytes);
        out.push(Piece::Row(Row::RunUsage { run, cpu_us, peak_memory_bytes }));
    }
    for a in agents.iter().filter_map(|id| state.agent(*id)).filter(|a| is_listed(a)) {
        out.push(Piece::Row(Row::AgentUpsert(Box::new(view::agent(state, a)))));
    }
    out.extend(ends.into_iter().map(Piece::Row));
    out
}

impl Piece {
    fn into_rows(self, rows: &mut Vec<Row>) {
        match self {
            Piece::Row(r) => rows.push(r),
            Piece::Tasks { run, first, specs } => {
                rows.extend(specs.into_iter().zip(first..).map(|(s, task)| {
                    let progress = TaskProgress {
                        state: TaskState::Pending,
                        attempts: 0,
                        agent: None,
                        result: None,
                        exception: None,
                        started_ms: None,
                        ended_ms: None,
                        elapsed_us: None,
                        payload_bytes: 0,
                        payload_blob: None,
                    };
                    Row::TaskUpsert(Box::new(TaskRow { run, task, name: s.name, config: s.config, progress }))
                }))
            }
        }
    }
}

/// The whole state, for a store that can't be brought there record by record.
fn whole(state: &State) -> Vec<Row> {
    let mut rows = Vec::new();
    for r in state.runs.values() {
        rows.push(run_row(state, r));
        for (task, t) in &r.tasks {
            rows.push(Row::TaskUpsert(Box::new(TaskRow {
                run: r.id,
                task: *task,
                name: t.spec.name.clone(),
                config: t.spec.config.clone(),
                progress: progress(t),
            })));
            let of = t.certificates.iter().map(|c| Row::Attempt { certificate: Box::new(c.clone()) });
            rows.extend(of);
        }
    }
    for a in state.agents.values() {
        let end = a.certificate.as_ref().filter(|c| is_listed(a) || ended_badly(c));
        if is_listed(a) {
            rows.push(Row::AgentUpsert(Box::new(view::agent(state, a))));
        }
        rows.extend(end.map(|c| agent_ended(c.clone())));
    }
    rows
}

fn run_row(state: &State, r: &Run) -> Row {
    Row::RunUpsert(Box::new(RunRow {
        run: r.id,
        spec: r.spec.clone(),
        state: r.state,
        message: r.message.clone(),
        jobs: r.jobs(state.cpus),
        submitted_ms: r.submitted_wall_ms,
        ended_ms: r.ended_wall_ms,
        cpu_us: r.cpu_us,
        peak_memory_bytes: r.peak_memory_bytes,
        taken: taken(r),
    }))
}

fn taken(r: &Run) -> Taken {
    let of = |s: TaskState| r.forgotten[s as usize];
    Taken {
        done: of(TaskState::Done),
        failed: of(TaskState::Failed),
        quarantined: of(TaskState::Quarantined),
        cancelled: of(TaskState::Cancelled),
    }
}

fn progress(t: &Task) -> TaskProgress {
    TaskProgress {
        state: t.state,
        attempts: t.attempts,
        agent: t.agent,
        result: t.result.clone(),
        exception: t.exception.clone(),
        started_ms: t.started_wall_ms,
        ended_ms: t.ended_wall_ms,
        // It is the agent's own word, and SQLite's integers are signed.
        elapsed_us: t.elapsed_us.map(|us| us.min(i64::MAX as u64)),
        payload_bytes: t.opaque.bytes,
        payload_blob: t.blob.clone(),
    }
}

/// Agents of an executor session come and go by the million, and nothing lets go of them here before their run goes:
/// only those that end badly are kept.
fn is_listed(a: &Agent) -> bool {
    !(a.remove && a.run.is_some())
}

fn ended_badly(c: &Certificate) -> bool {
    c.cause != Cause::Exit || c.exit_code.is_some_and(|code| code != 0)
}

fn agent_ended(certificate: Box<Certificate>) -> Row {
    Row::AgentEnded { ended: view::ended_word(&certificate), certificate }
}

fn audit(seq: u64, wall_ms: u64, kind: String, actor: String, changes: &[Change]) -> AuditRow {
    let agent = changes.iter().find_map(agent_of);
    AuditRow { seq, wall_ms, kind, actor, agent, run: changes.iter().find_map(run_of) }
}

fn agent_of(c: &Change) -> Option<AgentId> {
    match c {
        Change::AgentCreated { agent } => Some(agent.id),
        Change::AgentReady { id, .. }
        | Change::AgentDeadline { id, .. }
        | Change::AgentEnding { id, .. }
        | Change::AgentSignalled { id, .. }
        | Change::AgentEnded { id, .. }
        | Change::AgentForgotten { id }
        | Change::WorkerTask { id, .. } => Some(*id),
        _ => None,
    }
}

fn run_of(c: &Change) -> Option<RunId> {
    match c {
        Change::RunCreated { id, .. } => Some(*id),
        Change::AgentCreated { agent } => agent.run,
        Change::AgentEnded { certificate, .. } => certificate.run,
        Change::TasksAdded { run, .. }
        | Change::RunClosed { run }
        | Change::RunMoved { run, .. }
        | Change::TaskStarted { run, .. }
        | Change::TaskDone { run, .. }
        | Change::TaskFailed { run, .. }
        | Change::TaskReset { run, .. }
        | Change::TaskDue { run, .. }
        | Change::TaskCancelled { run, .. }
        | Change::TasksForgotten { run, .. }
        | Change::RunCharged { run, .. } => Some(*run),
        _ => None,
    }
}

/// Name of a record's syscall or event. Inputs of older builds needn't be readable in full.
fn kind_of(r: &RecordView<'_>) -> String {
    #[derive(Deserialize)]
    struct Head {
        event: Tag,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tag {
        Bare(String),
        With(BTreeMap<String, IgnoredAny>),
    }
    if let Some(sysno) = Sysno::from_number(r.kind) {
        return sysno.spec().name.to_owned();
    }
    match serde_json::from_slice::<Head>(r.input).map(|h| h.event) {
        Ok(Tag::Bare(name)) => name,
        Ok(Tag::With(of)) => of.into_keys().next().unwrap_or_default(),
        Err(_) => String::new(),
    }
}

// --- the thread

struct Keeper {
    store: Store,
    shared: Arc<Shared>,
    checkpoints: Checkpoints,
    sync: SyncHandle,
    journal_dir: PathBuf,
    /// After a failure: what comes in until then is dropped, and read from the journal later.
    retry_at: Option<Instant>,
    complained: bool,
    /// Once in a life it is built again because something fitted nothing.
    built_again: bool,
    trim_at: Instant,
}

/// Why rows weren't applied.
enum Trouble {
    Store(StoreError),
    /// The journal can't be read: a segment was pruned meanwhile, or worse.
    Journal(String),
    /// The store was emptied: what comes next is the journal's beginning.
    Emptied,
    /// Nothing is wrong, but the kernel leaves.
    Leaving,
}

impl From<StoreError> for Trouble {
    fn from(e: StoreError) -> Trouble {
        Trouble::Store(e)
    }
}

fn open(path: &Path, journal_dir: &Path, head: u64) -> Result<Store, String> {
    let name = journal_name(journal_dir)
        .map_err(|e| format!("{} can't be tied to its journal: {e}", path.display()))?;
    let (mut store, _) = Store::open(path).map_err(|e| e.to_string())?;
    store.follow(&name, head).map_err(|e| e.to_string())?;
    if let Some(why) = store.dropped() {
        say!("{why}; it is built again from the journal");
    }
    Ok(store)
}

/// A random name in a file of the journal's folder, so that it goes with the journal. Its hashes wouldn't do: record 1
/// is pruned one day.
fn journal_name(dir: &Path) -> std::io::Result<String> {
    let file = dir.join("name");
    match std::fs::read_to_string(&file) {
        Ok(name) if name.len() == 32 => return Ok(name),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let name: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // Nothing is lost when the file is: the store is built again under another name.
    std::fs::write(&file, &name)?;
    Ok(name)
}

impl Keeper {
    fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        loop {
            let now = Instant::now();
            let behind = self.store.applied().0 < self.shared.durable.load(Ordering::SeqCst);
            let next = self.retry_at.unwrap_or(self.trim_at).saturating_duration_since(now);
            let wait = if behind && self.retry_at.is_none() { next.min(PATIENCE) } else { next };
            let done = match inbox.recv_timeout(wait) {
                Ok(Message::Durable(entries)) => self.take(entries, inbox),
                Ok(Message::Leave(entries)) => return self.leave(entries),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) if behind && self.retry_at.is_none() => self.catch_up(),
                Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
            };
            let done = done.and_then(|()| self.what_is_due());
            if let Err(trouble) = done
                && !self.recovers(trouble)
            {
                return;
            }
        }
    }

    /// Applies what has come, together with what else is there.
    fn take(&mut self, mut entries: Vec<Entry>, inbox: &mpsc::Receiver<Message>) -> Result<(), Trouble> {
        let mut leave = None;
        while entries.len() < BATCH_ROWS && leave.is_none() {
            match inbox.try_recv() {
                Ok(Message::Durable(more)) => entries.extend(more),
                Ok(Message::Leave(more)) => leave = Some(more),
                Err(_) => break,
            }
        }
        let done = self.apply(entries);
        if let Some(last) = leave {
            if done.is_ok() {
                self.leave(last);
            }
            return Err(Trouble::Leaving);
        }
        done
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Trouble> {
        self.shared.release(&entries);
        if self.retry_at.is_some() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for e in entries {
            let has = batch.last().unwrap_or(self.store.applied().0);
            if e.seq > has + 1 {
                self.commit(&mut batch)?;
                self.fill(e.seq - 1)?;
            }
            if e.seq <= batch.last().unwrap_or(self.store.applied().0) {
                continue;
            }
            let mut rows = Vec::with_capacity(e.pieces.len());
            for p in e.pieces {
                p.into_rows(&mut rows);
            }
            batch.push(e.seq, rows);
            if batch.rows >= BATCH_ROWS {
                self.commit(&mut batch)?;
            }
        }
        self.commit(&mut batch)
    }

    fn what_is_due(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        match self.retry_at {
            Some(at) if now >= at => {
                self.retry_at = None;
                self.catch_up()?;
                self.complained = false;
            }
            None if now >= self.trim_at => {
                self.trim_at = now + DAY;
                let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
                self.store.trim(super::wall_clock::wall_ms().saturating_sub(kept))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn catch_up(&mut self) -> Result<(), Trouble> {
        self.fill(self.shared.durable.load(Ordering::SeqCst))
    }

    fn leave(&mut self, entries: Vec<Entry>) {
        let last = entries.last().map_or(0, |e| e.seq);
        // Only what the journal can't lose any more. After a failed write it says so here.
        if last > 0 && self.sync.sync_to(last).is_ok() {
            // The next start catches up with whatever isn't in.
            let _ = self.apply(entries);
        }
    }

    /// Whether the thread goes on.
    fn recovers(&mut self, trouble: Trouble) -> bool {
        let (text, rebuild, goes_on) = match trouble {
            Trouble::Leaving => return false,
            Trouble::Emptied => return true,
            Trouble::Journal(why) => (format!("state.db can't be brought up to date: {why}"), false, true),
            Trouble::Store(e) => {
                let goes_on = match e.kind {
                    StoreErrorKind::Damaged
                    | StoreErrorKind::Busy
                    | StoreErrorKind::Full
                    | StoreErrorKind::Io
                    | StoreErrorKind::Unstorable => true,
                    StoreErrorKind::Newer { .. }
                    | StoreErrorKind::NotAStore
                    | StoreErrorKind::SecondWriter
                    | StoreErrorKind::Sql => false,
                };
                (e.to_string(), e.is_damage(), goes_on)
            }
        };
        if !self.complained || !goes_on {
            self.complained = true;
            say!("{text}");
        }
        if rebuild && let Err(e) = self.store.rebuild() {
            say!("{e}; the kernel goes on without it");
            return false;
        }
        self.retry_at = Some(Instant::now() + PAUSE);
        goes_on
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let Batch { records, rows: _ } = std::mem::take(batch);
        let Some(last) = records.last().map(|r| r.0) else { return Ok(()) };
        let seqs: Vec<(u64, usize)> = records.iter().map(|(seq, rows)| (*seq, rows.len())).collect();
        let rows: Vec<Row> = records.into_iter().flat_map(|r| r.1).collect();
        let orphans = match self.store.apply(last, &rows) {
            Ok(Applied::Now { orphans }) => orphans,
            Ok(Applied::Already) => 0,
            // One record must not keep all others out for ever.
            Err(e) if e.kind == StoreErrorKind::Unstorable => {
                let mut from = 0;
                for (seq, n) in seqs {
                    let of = &rows[from..from + n];
                    from += n;
                    match self.store.apply(seq, of) {
                        Ok(_) => {}
                        Err(e) if e.kind == StoreErrorKind::Unstorable => {
                            say!("record {seq} isn't in state.db: {e}");
                            self.store.apply(seq, &[])?;
                        }
                        Err(e) => return Err(e.into()),
                    }
                }
                0
            }
            Err(e) => return Err(e.into()),
        };
        if orphans > 0 && !self.built_again {
            self.built_again = true;
            say!("{orphans} rows fitted nothing in state.db; it is built again from the journal");
            self.store.rebuild()?;
            return Err(Trouble::Emptied);
        }
        Ok(())
    }

    /// Brings the store from wherever it is to `until` at least, from the journal. Where it lies before the newest
    /// checkpoint, the state before it is only known if record 1 is still there; else it begins anew with the checkpoint.
    fn fill(&mut self, until: u64) -> Result<(), Trouble> {
        let journal = |e: &dyn std::fmt::Display| Trouble::Journal(e.to_string());
        let applied = self.store.applied().0;
        if applied >= until {
            return Ok(());
        }
        let checkpoint = self.checkpoints.newest().map_err(|e| journal(&e))?;
        let (mut state, from) = match checkpoint {
            Some(c) if c.seq <= applied || Reader::open(&self.journal_dir, 1, 1).is_err() => {
                let state = State::from_checkpoint(&c.bytes).map_err(|e| journal(&e))?;
                if c.seq > applied {
                    if applied > 0 {
                        self.store.rebuild()?;
                    }
                    let mut batch = Batch::default();
                    batch.push(c.seq, whole(&state));
                    self.commit(&mut batch)?;
                }
                (state, c.seq)
            }
            _ => (State::default(), 0),
        };
        let mut reader = Reader::open(&self.journal_dir, from + 1, until).map_err(|e| journal(&e))?;
        let mut batch = Batch::default();
        while let Some(r) = reader.next_view().map_err(|e| journal(&e))? {
            let OutcomeRecord { changes, .. } =
                serde_json::from_slice::<OutcomeRecord<Vec<Change>>>(r.outcome).map_err(|e| journal(&e))?;
            changes.iter().for_each(|c| state.apply(c));
            if r.seq > applied {
                let audit = audit(r.seq, r.wall_ms, kind_of(&r), r.actor.to_owned(), &changes);
                let mut rows = Vec::new();
                pieces(changes, &state).into_iter().for_each(|p| p.into_rows(&mut rows));
                rows.push(Row::Audit(audit));
                batch.push(r.seq, rows);
                if batch.rows >= BATCH_ROWS {
                    self.commit(&mut batch)?;
                }
            }
        }
        self.commit(&mut batch)
    }
}

/// Records whose rows go into one transaction.
#[derive(Default)]
struct Batch {
    records: Vec<(u64, Vec<Row>)>,
    rows: usize,
}

impl Batch {
    fn push(&mut self, seq: u64, rows: Vec<Row>) {
        self.rows += rows.len();
        self.records.push((seq, rows));
    }

    fn last(&self) -> Option<u64> {
        self.records.last().map(|r| r.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::book;
    use super::*;
    use clove_abi::calls::{RunClose, RunPush, RunSubmit};
    use clove_abi::ids::ConnId;
    use clove_abi::table::Call;
    use clove_kernel::{Core, Event, Peer, Tail};
    use serde_json::json;

    /// A kernel without agents: they end as their task's index tells.
    struct House {
        folder: tempfile::TempDir,
        journal: Journal,
        core: Core,
        ms: u64,
    }

    impl House {
        /// Opens the journal, with small segments that are pruned as soon as two checkpoints allow it.
        fn open(folder: tempfile::TempDir) -> House {
            let dir = folder.path().join("journal");
            let options =
                clove_journal::Options { segment_bytes: 8 << 10, size_cap_bytes: 0, ..Default::default() };
            let (journal, recovered) = Journal::open(&dir, options).expect("journal");
            let mut core = Core::default();
            if let Some(c) = recovered.checkpoint {
                core = Core::new(State::from_checkpoint(&c.bytes).expect("checkpoint"));
            }
            for r in recovered.records {
                let o: OutcomeRecord<Vec<Change>> =
                    serde_json::from_slice(&r.expect("record").outcome).expect("outcome");
                core.recover(&o.changes);
            }
            House { folder, journal, core, ms: 1 }
        }

        fn reopen(self) -> House {
            let House { folder, journal, .. } = self;
            drop(journal);
            House::open(folder)
        }

        fn start(&self) -> Projection {
            Projection::start(self.folder.path(), &self.journal).expect("thread")
        }

        fn handle(&mut self, p: Option<&mut Projection>, event: Event) {
            self.ms += 1;
            let input = Input { wall_ms: 1_700_000_000_000 + self.ms, mono_ms: self.ms, event };
            let outcome = self.core.handle(&input);
            let refused = outcome.effects.iter().find(|e| matches!(e, clove_kernel::Effect::Fail { .. }));
            assert!(refused.is_none(), "{refused:?}");
            let a = book::append(&mut self.journal, &input, 0, &outcome.changes, &outcome.effects)
                .expect("append");
            self.journal.flush().expect("flush");
            if let Some(p) = p {
                let seq = a.seq;
                p.record(&input, a, outcome.changes, &self.core.state);
                self.journal.sync_handle().sync_to(seq).expect("sync");
                p.synced(seq);
            }
        }

        fn call(&mut self, p: Option<&mut Projection>, call: Call) {
            let peer = Peer::Operator { uid: 0, pid: 7, command: "test".into() };
            let event = Event::Call { conn: ConnId(1), correlation: 1, peer, call, tail: Tail::default() };
            self.handle(p, event);
        }

        fn boot(&mut self, p: Option<&mut Projection>, cpus: u32) {
            let defaults = State::default().defaults;
            self.handle(p, Event::Boot { capacity_bytes: 1 << 30, cpus, defaults });
        }

        /// Lets every agent become ready and end until none is left; odd tasks end badly.
        fn work(&mut self, mut p: Option<&mut Projection>) {
            loop {
                let live = self.core.state.live().next().cloned();
                let Some(a) = live else { return };
                let ready = Event::Ready {
                    agent: a.id,
                    pid: 9,
                    missing_walls: Vec::new(),
                    missing_limits: Vec::new(),
                };
                self.handle(p.as_deref_mut(), ready);
                let odd = a.task.is_some_and(|t| t % 2 == 1);
                let exited = Event::Exited {
                    agent: a.id,
                    status: clove_kernel::input::ExitStatus::Code(i32::from(odd)),
                    usage: Default::default(),
                    output_tail: "last words".into(),
                    output_dropped: 0,
                    result: Some(json!({"v": 0.1})),
                    result_error: None,
                };
                self.handle(p.as_deref_mut(), exited);
            }
        }

        /// A sweep, and an executor session whose owner takes results in.
        fn story(&mut self, mut p: Option<&mut Projection>) {
            let submit = |kind: &str, n: u32| {
                let tasks: Vec<_> = (0..n).map(|n| json!({"name": "", "config": {"n": n}})).collect();
                let spec = json!({"kind": kind, "name": kind, "program": {"cold": {"argv": ["/x"]}},
                    "retry": {"failures": 0}, "limits": {"memory_bytes": 8 << 20}, "attached": false});
                let call: RunSubmit =
                    serde_json::from_value(json!({"spec": spec, "tasks": tasks})).expect("submit");
                Call::RunSubmit(call)
            };
            self.call(p.as_deref_mut(), submit("sweep", 5));
            self.work(p.as_deref_mut());
            self.call(p.as_deref_mut(), submit("executor", 0));
            let run = *self.core.state.runs.keys().last().expect("run");
            for _ in 0..3 {
                let collected = self.core.state.runs[&run].version;
                let tasks: Vec<_> = (0..3).map(|n| json!({"name": "", "config": n})).collect();
                let push: RunPush =
                    serde_json::from_value(json!({"run": run, "tasks": tasks, "collected": collected}))
                        .expect("push");
                self.call(p.as_deref_mut(), Call::RunPush(push));
                self.work(p.as_deref_mut());
            }
            let close: RunClose = serde_json::from_value(json!({"run": run})).expect("close");
            self.call(p, Call::RunClose(close));
        }

        fn checkpoint(&mut self) {
            let mark = self.journal.checkpoint_mark();
            self.journal.checkpoints().write(&mark, &self.core.state.to_checkpoint()).expect("checkpoint");
            self.journal.checkpoints().prune(mark.seq).expect("prune");
        }

        /// What the store says once it has everything.
        fn told(&self) -> Vec<String> {
            let path = self.folder.path().join("state.db");
            let (mut store, applied) = Store::open(&path).expect("store");
            assert_eq!(applied.0, self.journal.head().seq, "it isn't up to date");
            let mut all = vec![format!("{:?}", store.runs().expect("runs"))];
            for run in self.core.state.runs.keys() {
                all.push(format!("{:?}", store.run_rows(*run).expect("rows")));
            }
            let doubt =
                store.follow(&journal_name(&self.folder.path().join("journal")).expect("name"), u64::MAX);
            assert_eq!(doubt.expect("follow"), applied);
            all
        }

        /// As others see it, while the thread writes.
        fn applied(&self) -> rusqlite::Result<u64> {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let db = rusqlite::Connection::open_with_flags(self.folder.path().join("state.db"), flags)?;
            db.query_row("SELECT applied_seq FROM projection", [], |r| r.get::<_, i64>(0))
                .map(i64::unsigned_abs)
        }

        fn audited(&self) -> Vec<AuditRow> {
            let (store, _) = Store::open(&self.folder.path().join("state.db")).expect("store");
            store.audit(0, 10_000).expect("audit")
        }

        fn delete(&self) {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(self.folder.path().join(format!("state.db{suffix}")));
            }
        }

        fn is_whole(&self) -> bool {
            Reader::open(&self.folder.path().join("journal"), 1, 1).is_ok()
        }
    }

    fn settled(p: &mut Projection, house: &House) -> Vec<String> {
        // `close` waits for the thread, which takes what it lacks from the journal.
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let has = house.applied().unwrap_or(0);
            if has == house.journal.head().seq {
                break;
            }
            assert!(Instant::now() < until, "it stays at {has} of {}", house.journal.head().seq);
            std::thread::sleep(Duration::from_millis(20));
        }
        p.close();
        house.told()
    }

    #[test]
    fn live_rows_a_replay_and_a_whole_state_say_the_same() {
        let mut house = House::open(tempfile::tempdir().expect("tempdir"));
        let mut p = house.start();
        house.boot(Some(&mut p), 2);
        house.story(Some(&mut p));
        let live = settled(&mut p, &house);
        let audited = house.audited();
        assert_eq!(audited.len() as u64, house.journal.head().seq);
        assert!(live[0].contains("failed: 2") && live[1].contains("Attempt"), "{live:?}");
        // The executor's tasks were taken in, but for the last three.
        assert_eq!(live[2].matches("TaskUpsert").count(), 3, "{}", live[2]);
        assert!(house.core.state.runs.values().any(|r| r.forgotten.iter().sum::<u32>() == 6));

        house.delete();
        let house = house.reopen();
        let mut p = house.start();
        assert_eq!(settled(&mut p, &house), live, "from the journal");
        assert_eq!(house.audited(), audited);

        // A state alone has forgotten agents of the executor, nothing else.
        house.delete();
        let (mut store, _) = Store::open(&house.folder.path().join("state.db")).expect("store");
        let name = journal_name(&house.folder.path().join("journal")).expect("name");
        store.follow(&name, u64::MAX).expect("follow");
        let rows = whole(&house.core.state);
        let applied = store.apply(house.journal.head().seq, &rows).expect("apply");
        assert_eq!(applied, Applied::Now { orphans: 0 });
        drop(store);
        let told = house.told();
        assert_eq!(told[..2], live[..2], "from the state");
        assert!(live[2].starts_with(told[2].trim_end_matches(['(', '[', ']', ')'])), "from the state");
    }

    #[test]
    fn gaps_are_filled_from_the_journal() {
        let mut house = House::open(tempfile::tempdir().expect("tempdir"));
        house.boot(None, 2);
        house.story(None);
        let mut p = house.start();
        house.boot(Some(&mut p), 3);
        // As if the queue had been full.
        house.story(None);
        house.boot(Some(&mut p), 1);
        house.story(None);
        let head = house.journal.head().seq;
        house.journal.sync_handle().sync_to(head).expect("sync");
        p.synced(head);
        let told = settled(&mut p, &house);
        house.delete();
        let mut house = house.reopen();
        let mut p = house.start();
        assert_eq!(settled(&mut p, &house), told);

        // Behind a checkpoint, with the beginning of the journal gone.
        house.story(None);
        house.checkpoint();
        house.story(None);
        house.checkpoint();
        assert!(!house.is_whole(), "nothing was pruned");
        house.story(None);
        let house = house.reopen();
        let mut p = house.start();
        let from_an_older_one = settled(&mut p, &house);
        house.delete();
        let house = house.reopen();
        let mut p = house.start();
        assert_eq!(settled(&mut p, &house), from_an_older_one);
        assert_eq!(from_an_older_one.len(), 1 + 12);
    }

    #[test]
    fn a_full_queue_drops_until_it_is_empty() {
        let mut house = House::open(tempfile::tempdir().expect("tempdir"));
        let mut p = house.start();
        p.shared.queued.fetch_add(QUEUE_BYTES, Ordering::SeqCst);
        house.boot(Some(&mut p), 2);
        assert!(p.dropping && p.waiting.is_empty());
        p.shared.queued.fetch_sub(QUEUE_BYTES - 1, Ordering::SeqCst);
        house.boot(Some(&mut p), 2);
        assert!(p.dropping);
        p.shared.queued.fetch_sub(1, Ordering::SeqCst);
        house.story(Some(&mut p));
        assert!(!p.dropping);
        let told = settled(&mut p, &house);
        assert_eq!(p.shared.queued.load(Ordering::SeqCst), 0);
        house.delete();
        let mut p = house.start();
        assert_eq!(settled(&mut p, &house), told);
    }
}
