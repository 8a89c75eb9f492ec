//! Starts the kernel: alone in its data directory, its launcher forked before any thread exists.

use super::cells::Owner;
use super::drivers::{Drivers, Inbox, Message};
use super::refusal::{Refusal, without_numbers};
use super::shell::{Parts, Shell};
use super::wall_clock::wall_ms;
use super::{book, capacity, checkpoints, ground, logs, projection, sdk, sync, unjournaled};
use anyhow::Context as _;
use clove_client::Paths;
use clove_kernel::Event;
use clove_sandbox::LauncherConfig;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// How long the launcher may take to set itself up.
const LAUNCHER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(15);

/// When it is the host that isn't as it should be.
const LACKS: &str = "`clove doctor` tries out what this host allows, and says what is missing";
/// How long a lock that a client has taken for an instant is waited for.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_millis(200);

/// How the kernel is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub paths: Paths,
    /// Leave the terminal and the caller's descriptors behind.
    pub background: bool,
    /// Told when the kernel listens (`1`), or why it can't (a sentence).
    pub ready: Option<Arc<OwnedFd>>,
    /// Leave after this long without work; stays when absent.
    pub idle_timeout_ms: Option<u64>,
    /// Command and folder that started it.
    pub started_by: String,
}

/// Runs the kernel until it is told to leave. Returns the exit code.
///
/// # Errors
/// When it can't be started; the sentence is also written to the `ready` descriptor.
pub fn serve(mut options: Options) -> Result<i32, Refusal> {
    let ready = options.ready.take();
    let tell = |text: &str| {
        if let Some(fd) = &ready {
            let _ = rustix::io::write(&**fd, text.as_bytes());
        }
    };
    let data_dir = options.paths.data_dir.clone();
    match start(&mut options) {
        Ok(mut shell) => {
            tell("1");
            // The one who waits must see the end of the pipe too.
            drop(ready);
            let code = shell.run();
            shell.projection.close();
            clear_away(&options.paths);
            code.map_err(|e| Refusal::of(&anyhow::Error::new(e).context("the loop ended"), &data_dir))
        }
        Err(e) => {
            let refusal = e.downcast::<Refusal>().unwrap_or_else(|e| Refusal::of(&e, &data_dir));
            tell(&refusal.told());
            Err(refusal)
        }
    }
}

/// The run-time directory goes while the lock is still held, so that a successor's is never taken away.
fn clear_away(paths: &Paths) {
    for file in [paths.socket(), paths.runtime_dir.join("defaults-told")] {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir(&paths.runtime_dir);
}

fn start(options: &mut Options) -> anyhow::Result<Shell> {
    ground::check_rights()?;
    ground::raise_nofile()?;
    ground::raise_file_size()?;
    let limits = ground::lift_limits();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let lock = lock(&options.paths)?;
    // Its predecessor may have taken the folder away while this process waited for the lock.
    options.paths.make_runtime_dir().map_err(|e| Refusal::new(e.to_string(), e.hint))?;
    sign(&lock, &options.paths);
    let data_dir = &options.paths.data_dir;
    if options.background {
        go_background(&options.paths)?;
    }
    if !limits.is_empty() {
        say!("limited by what started it, for each of its processes: {}", limits.join(", "));
    }
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let config =
        LauncherConfig { data_dir: data_dir.clone(), protected: vec![options.paths.runtime_dir.clone()] };
    // The child closes everything but its socket, the lock's descriptor too: a dead kernel's launcher must not hold it.
    let (launcher_pid, mut link) =
        clove_sandbox::fork_launcher(config).context("the launcher can't be forked")?;
    end_on_panic();
    let signals =
        clove_sys::signals::watch_terminate(!options.background).context("signals can't be watched")?;

    let opened = book::open(&data_dir.join("journal"), wall_ms())?;
    for n in &opened.notes {
        say!("{n}");
    }
    let mut journal = opened.journal;
    let core = opened.core;
    if opened.replayed > 0 {
        say!("{} records applied after the last checkpoint", opened.replayed);
    }
    journal.flush().context("the journal can't be written")?;

    // It has been setting itself up meanwhile.
    let backend = greet(&mut link)?;
    let (postbox, inbox) = Inbox::new().context("no descriptors are left")?;
    let syncer =
        sync::Syncer::start(journal.sync_handle(), postbox.clone()).context("threads can't be started")?;
    let drivers = Drivers::start(4, &postbox).context("threads can't be started")?;
    let for_logs = postbox.clone();
    let log_folder = data_dir.join("logs");
    make_folder(&log_folder)?;
    make_folder(&data_dir.join("blobs"))?;
    make_folder(&data_dir.join("runs"))?;
    let knows_agent = |id: &str| id.parse().is_ok_and(|id| core.state.agent(id).is_some());
    let knows_run = |id: &str| id.parse().is_ok_and(|id| core.state.runs.contains_key(&id));
    for n in unjournaled::put_aside(data_dir, wall_ms(), knows_agent, knows_run) {
        say!("{n}");
    }
    let logs = logs::LogKeeper::start(log_folder, move |e| for_logs.post(Message::Log(e)))
        .context("the log keeper can't be started")?;
    let checkpoints =
        checkpoints::CheckpointKeeper::start().context("the checkpoint keeper can't be started")?;
    let projection = projection::Projection::start(data_dir, &journal).context("threads can't be started")?;
    let socket = options.paths.socket();
    let front_door = listen(&socket)?;
    let parts = Parts {
        core,
        journal,
        syncer,
        inbox,
        drivers,
        logs,
        checkpoints,
        projection,
        link,
        launcher_pid: launcher_pid.unsigned_abs(),
        front_door,
        signals,
        data_dir: data_dir.clone(),
        socket,
        sdk: sdk::find_sdk(),
        owner: Owner { uid, gid },
        started_by: options.started_by.clone(),
        backend,
        idle_timeout_ms: options.idle_timeout_ms,
    };
    let mut shell = Shell::new(parts).context("the loop can't be set up")?;
    let c = capacity::measure();
    shell.raise(Event::Boot {
        capacity_bytes: c.memory_bytes,
        cpus: c.cpus,
        defaults: capacity::defaults(&c),
    });
    // Held until the process ends.
    std::mem::forget(lock);
    Ok(shell)
}

/// A thread that panics alone would leave everybody waiting for what it was to do. All there is to lose is in the
/// journal, so the kernel ends, and the next one goes on from there.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say!("a bug in CloveOS, so the kernel ends: {panic}");
        std::process::abort();
    }));
}

/// Waits for the launcher's first word: the name of its cgroup back end, or why it can't be set up.
fn greet(link: &mut clove_sandbox::Link) -> anyhow::Result<String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = std::time::Instant::now() + LAUNCHER_DEADLINE;
    while std::time::Instant::now() < deadline && !link.is_closed() {
        let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&step)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("the launcher's socket can't be watched"),
        }
        for (event, _) in link.recv().context("the launcher's socket")? {
            match event {
                clove_sandbox::protocol::Event::Hello { backend, refused: None } => return Ok(backend),
                clove_sandbox::protocol::Event::Hello { refused: Some(why), .. } => {
                    return Err(Refusal::new(without_numbers(&why), LACKS).into());
                }
                _ => {}
            }
        }
    }
    let seconds = LAUNCHER_DEADLINE.as_secs();
    let reason = if link.is_closed() {
        "the launcher has ended while it set itself up".to_owned()
    } else {
        format!("the launcher hasn't set itself up in {seconds} s")
    };
    Err(Refusal::new(reason, LACKS).into())
}

/// Takes the data directory's lock, or says who has it.
fn lock(paths: &Paths) -> anyhow::Result<OwnedFd> {
    let path = paths.lock();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .with_context(|| format!("{} can't be opened", path.display()))?;
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            // A client that looks for the kernel has it for an instant.
            Err(rustix::io::Errno::WOULDBLOCK) if std::time::Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let who = paths.kernel_words().0.map_or(String::new(), |pid| format!(" (pid {pid})"));
                let reason = format!("another kernel{who} runs on {}", paths.data_dir.display());
                return Err(Refusal { locked: true, ..Refusal::new(reason, "clove stop ends it") }.into());
            }
            Err(e) => return Err(e).with_context(|| format!("{} can't be locked", path.display())),
        }
    }
}

/// Writes into the lock's file who holds it, and where this kernel is found. On a full disk the old words may have to
/// give way to none: then it is found by those who have the same surroundings.
fn sign(lock: &OwnedFd, paths: &Paths) {
    let words = paths.lock_words();
    let written = rustix::io::pwrite(lock, &words, 0).is_ok_and(|n| n == words.len());
    let _ = rustix::fs::ftruncate(lock, if written { words.len() as u64 } else { 0 });
}

/// Leaves session, folder and the caller's descriptors behind; its own words go to `kernel.log`.
fn go_background(paths: &Paths) -> anyhow::Result<()> {
    let log = paths.kernel_log();
    // One generation is enough to look back.
    if std::fs::metadata(&log).is_ok_and(|m| m.len() > 4 << 20) {
        let _ = std::fs::rename(&log, log.with_extension("log.1"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::open(&log, flags, Mode::from_raw_mode(0o600))
        .with_context(|| format!("{} can't be opened", log.display()))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    // A session leader already (started by setsid) is as good.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    Ok(())
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("{} can't be made", path.display()))
}

/// The front door. The lock says that whoever left this socket behind is dead.
pub fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let address =
        SocketAddrUnix::new(path).with_context(|| format!("{} is too long for a socket", path.display()))?;
    rustix::net::bind(&socket, &address).with_context(|| format!("{} can't be bound", path.display()))?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket)
}
