//! Starts the kernel: alone in its data directory, its launcher forked before any thread exists.

use super::cells::Owner;
use super::drivers::{Drivers, Inbox, Message};
use super::shell::{Parts, Shell, wall_ms};
use super::{book, capacity, checkpoints, logs, projection, sdk, sync};
use anyhow::Context as _;
use clove_client::Paths;
use clove_kernel::Event;
use clove_sandbox::LauncherConfig;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// How long the launcher may take to set itself up.
const LAUNCHER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(15);

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
pub fn serve(options: Options) -> anyhow::Result<i32> {
    let ready = options.ready.clone();
    let tell = |text: &str| {
        if let Some(fd) = &ready {
            let _ = rustix::io::write(&**fd, text.as_bytes());
        }
    };
    match start(&options) {
        Ok(mut shell) => {
            tell("1");
            // The one who waits must see the end of the pipe too.
            drop(ready);
            let code = shell.run();
            shell.projection.close();
            // While the lock is still held, so that a successor's are never taken away.
            let _ = std::fs::remove_file(options.paths.socket());
            let _ = std::fs::remove_dir(&options.paths.runtime_dir);
            Ok(code?)
        }
        Err(e) => {
            tell(&format!("{e:#}"));
            Err(e)
        }
    }
}

fn start(options: &Options) -> anyhow::Result<Shell> {
    let data_dir = &options.paths.data_dir;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let lock = lock(data_dir)?;
    // Its predecessor may have taken the folder away while this process waited for the lock.
    make_folder(&options.paths.runtime_dir)?;
    if options.background {
        go_background(&options.paths)?;
    }
    raise_nofile();
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let config =
        LauncherConfig { data_dir: data_dir.clone(), protected: vec![options.paths.runtime_dir.clone()] };
    // The child closes everything but its socket, the lock's descriptor too: a dead kernel's launcher must not hold it.
    let (launcher_pid, mut link) =
        clove_sandbox::fork_launcher(config).context("the launcher can't be forked")?;
    let signals = clove_sys::signals::watch_terminate().context("signals can't be watched")?;

    let opened = book::open(&data_dir.join("journal"), wall_ms())?;
    for n in &opened.notes {
        eprintln!("clove: {n}");
    }
    let mut journal = opened.journal;
    let core = opened.core;
    if opened.replayed > 0 {
        eprintln!("clove: {} records applied after the last checkpoint", opened.replayed);
    }
    journal.flush().context("the journal can't be written")?;

    // It has been setting itself up meanwhile.
    let backend = greet(&mut link)?;
    let (postbox, inbox) = Inbox::new().context("no descriptors are left")?;
    let syncer =
        sync::Syncer::start(journal.sync_handle(), postbox.clone()).context("threads can't be started")?;
    let drivers = Drivers::start(2, &postbox).context("threads can't be started")?;
    let for_logs = postbox.clone();
    let log_folder = data_dir.join("logs");
    make_folder(&log_folder)?;
    make_folder(&data_dir.join("blobs"))?;
    make_folder(&data_dir.join("runs"))?;
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
                    let root = if rustix::process::geteuid().is_root() {
                        ""
                    } else {
                        " (CloveOS needs root for now)"
                    };
                    anyhow::bail!("{why}{root}; clove doctor says what this host lacks");
                }
                _ => {}
            }
        }
    }
    anyhow::bail!(
        "the launcher has left, or hasn't set itself up in time; clove doctor says what this host lacks"
    )
}

fn lock(data_dir: &Path) -> anyhow::Result<OwnedFd> {
    let path = data_dir.join("lock");
    let fd =
        rustix::fs::open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
            .with_context(|| format!("{} can't be opened", path.display()))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            anyhow::bail!("locked: another kernel runs on {} (clove stop ends it)", data_dir.display())
        }
        Err(e) => return Err(e).with_context(|| format!("{} can't be locked", path.display())),
    }
    let mut file = std::fs::File::from(fd);
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file.into())
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

/// Thousands of agents need a handful of descriptors each.
fn raise_nofile() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let have = getrlimit(Resource::Nofile);
    let most = have.maximum.unwrap_or(1 << 20).min(1 << 20);
    let higher = Rlimit { current: Some((1u64 << 20).max(most)), maximum: Some((1u64 << 20).max(most)) };
    // Root may raise the hard limit too.
    if setrlimit(Resource::Nofile, higher).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: have.maximum });
    }
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
fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
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
