//! Finds the kernel of a data directory, or starts it in the background.

use crate::build_id::build_id;
use crate::connection::Client;
use crate::error::ClientError;
use crate::paths::{Paths, PathsError, in_words};
use clove_abi::calls::{KernelHello, KernelHelloReply, KernelShutdown};
use clove_abi::{ABI_VERSION, ErrorCode};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Variables that a background kernel keeps from the command that started it; all others are the caller's business.
const KEPT_ENV: &[&str] = &["HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "TZ"];
/// The same, by their beginnings.
const KEPT_PREFIXES: &[&str] = &["CLOVE_", "XDG_", "LC_", "SLURM_", "DBUS_SESSION_"];

/// How a kernel begins what it says on its ready pipe when another one holds the data directory.
pub const LOCKED: &str = "locked: ";
/// Between the reason why a kernel can't start and what to do about it.
pub const TRY: &str = "\ntry: ";
/// How long a kernel may take for the answer to the first call.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How long somebody who holds the data directory and isn't a kernel that can be seen from here is waited for.
const STRANGER_PATIENCE: Duration = Duration::from_secs(2);
/// A kernel that says it is ready, and is gone each time, isn't started for ever.
const MOST_STARTS: u32 = 2;

/// How to find or start a kernel.
#[derive(Clone, Debug)]
pub struct StartOptions {
    pub paths: Paths,
    /// The program to start; this one when absent.
    pub program: Option<PathBuf>,
    /// Who asks, for example `clove run`.
    pub client: String,
    /// Start a kernel when none answers.
    pub start: bool,
    /// How long a start may take.
    pub deadline: Duration,
}

impl StartOptions {
    /// For the data directory that the environment names.
    ///
    /// # Errors
    /// When its folders can't be used.
    pub fn from_env(client: &str) -> Result<StartOptions, PathsError> {
        Ok(StartOptions {
            paths: Paths::from_env()?,
            program: None,
            client: client.to_owned(),
            start: true,
            deadline: Duration::from_secs(20),
        })
    }
}

/// A connection whose kernel has said who it is.
#[derive(Debug)]
pub struct Connected {
    pub client: Client,
    pub kernel: KernelHelloReply,
    /// This command started it.
    pub started: bool,
    /// A kernel of another build answers and is busy: what to tell the user, once.
    pub note: Option<String>,
    /// Where it was found.
    pub paths: Paths,
}

/// No kernel could be reached.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// Nobody listens, and starting one wasn't asked for.
    #[error("no kernel is running for {}", data_dir.display())]
    NotRunning { data_dir: PathBuf },
    /// The kernel said why it can't start, and perhaps what to do.
    #[error("the kernel didn't start: {reason}")]
    Failed { reason: String, hint: Option<String>, log: PathBuf },
    /// Neither ready nor failed in time.
    #[error("the kernel wasn't ready after {} s", after.as_secs())]
    TooSlow { after: Duration, log: PathBuf },
    /// Somebody holds the data directory's lock, but nobody answers at its socket.
    #[error("{} holds {}, but nobody answers at its socket {}", holder.shown(), data_dir.display(), socket.display())]
    HeldButSilent { data_dir: PathBuf, socket: PathBuf, holder: Holder },
    /// It took the connection, and says nothing.
    #[error("{} of {} {}", holder.shown(), data_dir.display(), holder.silence(*after))]
    Silent { data_dir: PathBuf, holder: Holder, after: Duration },
    /// It speaks another version of the wire, so not even its state can be asked for.
    #[error("the running kernel speaks another version than this command ({what})")]
    OtherVersion { what: String },
    /// The kernel answered the first call with an error.
    #[error("{}", refusal(.0))]
    Refused(ClientError),
    #[error("{doing} failed: {}", in_words(source))]
    Io { doing: &'static str, source: io::Error },
    /// Something of the system is missing that every kernel needs.
    #[error("the kernel can't be started here: {what}")]
    NoGround { what: &'static str, hint: &'static str },
}

/// The process that a data directory's lock names, as /proc shows it to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: Option<u32>,
    /// It is a kernel: its pid hasn't gone to something else, and isn't another PID namespace's.
    pub is_kernel: bool,
    /// Stopped by a signal. (One that is traced stops for an instant at each system call: that isn't this.)
    pub is_stopped: bool,
}

impl Holder {
    fn of(paths: &Paths) -> Holder {
        let pid = paths.kernel_words().0;
        let read = |name: &str| {
            pid.and_then(|p| std::fs::read(format!("/proc/{p}/{name}")).ok()).unwrap_or_default()
        };
        // Its second word: the first is what the starting command called it.
        let is_kernel = read("cmdline").split(|b| *b == 0).nth(1) == Some(b"serve");
        // The state follows the name, which is in brackets and may hold anything (proc_pid_stat(5)).
        let stat = read("stat");
        let after_name = stat.iter().rposition(|b| *b == b')').map_or(&[][..], |i| &stat[i + 1..]);
        let is_stopped = is_kernel && after_name.get(1) == Some(&b'T');
        Holder { pid, is_kernel, is_stopped }
    }

    fn shown(&self) -> String {
        match (self.is_kernel, self.pid) {
            (true, Some(pid)) => format!("the kernel (pid {pid})"),
            _ => "another process".to_owned(),
        }
    }

    fn silence(&self, after: Duration) -> String {
        if self.is_stopped {
            "is stopped, and doesn't answer".to_owned()
        } else {
            format!("hasn't answered for {} s", after.as_secs())
        }
    }

    fn hint(&self) -> String {
        match (self.is_kernel, self.pid) {
            (true, Some(pid)) if self.is_stopped => format!("kill -CONT {pid} lets it go on"),
            (true, Some(pid)) => format!(
                "its kernel.log may say what it is at; `kill -9 {pid}` ends it: what it has acknowledged is kept, and \
                 sweeps can be resumed"
            ),
            _ => "it may run in another container, which has this folder too: end it there, or set CLOVE_HOME to \
                  another folder"
                .to_owned(),
        }
    }
}

fn refusal(e: &ClientError) -> String {
    match e {
        ClientError::Refused(e) => format!("the kernel turned this command away: {} ({})", e.message, e.code),
        e => format!("the kernel refused the connection: {e}"),
    }
}

impl StartError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            StartError::Paths(e) => e.hint.clone(),
            StartError::NotRunning { .. } => "the next command that needs one starts it".into(),
            StartError::Failed { hint: Some(hint), .. } => hint.clone(),
            StartError::Failed { log, .. } | StartError::TooSlow { log, .. } => {
                format!("read {}, and run `clove doctor`", log.display())
            }
            StartError::HeldButSilent { holder, .. } | StartError::Silent { holder, .. } => holder.hint(),
            StartError::OtherVersion { .. } => "`clove stop` with the other version's `clove`".into(),
            StartError::Refused(ClientError::Refused(e)) if !e.hint.is_empty() => e.hint.clone(),
            StartError::Refused(_) | StartError::Io { .. } => "run `clove doctor`".into(),
            StartError::NoGround { hint, .. } => (*hint).into(),
        }
    }
}

/// Connects to the kernel of a data directory; starts it first when nobody answers. Commands that start at the same
/// moment share one kernel: the loser of the directory's lock connects to the winner.
///
/// # Errors
/// [`StartError`].
pub fn connect_or_start(options: &StartOptions) -> Result<Connected, StartError> {
    let begun = Instant::now();
    let deadline = begun + options.deadline;
    let mut paths = options.paths.clone();
    let mut handed_over = false;
    let mut starts = 0;
    let mut was_locked = false;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some((mut client, kernel)) = greet(&paths, &options.client)? {
            if kernel.build == build_id() || starts > 0 {
                return Ok(Connected { client, kernel, started: starts > 0, note: None, paths });
            }
            // An older kernel with nothing to do makes room for the newer build. Once: two builds that are used in
            // turns would else push each other out for ever.
            if kernel.idle && options.start && !handed_over {
                handed_over = true;
                match client.call(&KernelShutdown { force: false }) {
                    Ok(_) | Err(ClientError::Lost { .. }) => {
                        wait_until_gone(&paths.socket(), deadline);
                        continue;
                    }
                    // It got work in between.
                    Err(_) => {}
                }
            }
            let note = format!(
                "the running kernel (pid {}, version {}, build {}) is of another build than this command \
                 (version {}, build {}); once its work is done, `clove stop` makes room for this one",
                kernel.pid,
                kernel.version,
                kernel.build,
                env!("CARGO_PKG_VERSION"),
                build_id()
            );
            return Ok(Connected { client, kernel, started: false, note: Some(note), paths });
        }
        let outcome = match options.start {
            true => spawn_kernel(options, deadline)?,
            false if paths.is_locked() => StartOutcome::Locked,
            false => return Err(StartError::NotRunning { data_dir: paths.data_dir }),
        };
        match outcome {
            StartOutcome::Ready => {
                starts += 1;
                if starts > MOST_STARTS {
                    return Err(ended_at_once(&paths));
                }
            }
            // Somebody else's kernel is starting or ending, or makes a socket anew that was taken away.
            StartOutcome::Locked => {
                was_locked = true;
                let holder = Holder::of(&paths);
                let patience =
                    if holder.is_kernel { deadline } else { deadline.min(begun + STRANGER_PATIENCE) };
                if Instant::now() >= patience || holder.is_stopped {
                    return Err(held_but_silent(&paths, holder));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            StartOutcome::Silent if was_locked => {
                return Err(held_but_silent(&paths, Holder::of(&paths)));
            }
            StartOutcome::Silent => {
                return Err(StartError::TooSlow { after: options.deadline, log: paths.kernel_log() });
            }
        }
        paths.follow_kernel();
    }
}

fn held_but_silent(paths: &Paths, holder: Holder) -> StartError {
    StartError::HeldButSilent { data_dir: paths.data_dir.clone(), socket: paths.socket(), holder }
}

/// A further connection to the kernel that is running; for threads that wait on their own.
///
/// # Errors
/// As [`connect_or_start`]; it starts nothing.
pub fn connect_again(paths: &Paths, client: &str) -> Result<Client, StartError> {
    match greet(paths, client)? {
        Some((client, _)) => Ok(client),
        None => Err(StartError::NotRunning { data_dir: paths.data_dir.clone() }),
    }
}

/// Says hello. Nobody there is `None`.
fn greet(paths: &Paths, client: &str) -> Result<Option<(Client, KernelHelloReply)>, StartError> {
    let silent = |holder, after| StartError::Silent { data_dir: paths.data_dir.clone(), holder, after };
    let mut connection = match Client::connect(&paths.socket()) {
        Ok(c) => c,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(source) => return Err(StartError::Io { doing: "connecting to the kernel's socket", source }),
    };
    let io = |source| StartError::Io { doing: "setting up the connection to the kernel", source };
    // Its socket takes connections also while it is stopped.
    let holder = Holder::of(paths);
    if holder.is_stopped {
        return Err(silent(holder, Duration::ZERO));
    }
    connection.set_deadline(Some(ANSWER_PATIENCE)).map_err(io)?;
    let hello = KernelHello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: build_id().to_owned(),
        client: client.to_owned(),
    };
    match connection.call(&hello) {
        Ok(kernel) if kernel.abi != ABI_VERSION => {
            Err(StartError::OtherVersion { what: format!("wire {} against {ABI_VERSION}", kernel.abi) })
        }
        Ok(kernel) => {
            connection.set_deadline(None).map_err(io)?;
            Ok(Some((connection, kernel)))
        }
        Err(e @ ClientError::Garbled { .. }) => Err(StartError::OtherVersion { what: e.to_string() }),
        Err(e) if matches!(e.code(), Some(ErrorCode::Version | ErrorCode::BadFrame)) => {
            Err(StartError::OtherVersion { what: e.to_string() })
        }
        // It is on its way out.
        Err(e) if e.code() == Some(ErrorCode::Stopping) => Ok(None),
        Err(ClientError::Lost { source, .. })
            if !matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            Ok(None)
        }
        Err(ClientError::Lost { .. }) => Err(silent(Holder::of(paths), ANSWER_PATIENCE)),
        Err(e) => Err(StartError::Refused(e)),
    }
}

/// With the last thing that the kernel said, which is most likely why.
fn ended_at_once(paths: &Paths) -> StartError {
    let log = paths.kernel_log();
    let said = std::fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(4096)..]).into_owned();
    let mut last: Vec<&str> = said.lines().rev().take(2).collect();
    last.reverse();
    let reason = if last.is_empty() {
        "it ended right after its start".to_owned()
    } else {
        format!("it ended right after its start, and said last:\n    {}", last.join("\n    "))
    };
    StartError::Failed { reason, hint: None, log }
}

fn wait_until_gone(socket: &Path, deadline: Instant) {
    while Instant::now() < deadline && Client::connect(socket).is_ok() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

enum StartOutcome {
    Ready,
    /// The data directory is somebody else's at the moment.
    Locked,
    /// It has said nothing yet, and the time is over.
    Silent,
}

/// Starts `clove serve --background` and waits for what it says on its ready pipe: `1`, or a sentence, and what to try
/// in a line of its own.
fn spawn_kernel(options: &StartOptions, deadline: Instant) -> Result<StartOutcome, StartError> {
    let io = |doing| move |source| StartError::Io { doing, source };
    // This file even if it was replaced or removed since: a build that is still being written isn't started.
    let program = options.program.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let (reader, writer) = io::pipe().map_err(io("making a pipe"))?;
    // Only this one descriptor is to survive the exec. The command line starts kernels from one thread, so no other
    // child can catch it by accident.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())
        .map_err(|e| StartError::Io { doing: "preparing the ready pipe", source: e.into() })?;
    let here = std::env::current_dir().unwrap_or_default();
    let words: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let mut command = Command::new(&program);
    command
        .arg0("clove")
        .args(["serve", "--background", "--ready-fd"])
        .arg(writer.as_raw_fd().to_string())
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            KEPT_ENV.contains(&name.as_ref()) || KEPT_PREFIXES.iter().any(|p| name.starts_with(p))
        }))
        .env("CLOVE_HOME", &options.paths.data_dir)
        .env("CLOVE_STARTED_BY", format!("{} (in {})", words.join(" "), here.display()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Out of the terminal's group at once: a Ctrl-C before its setsid would else end it.
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(|source| no_ground().unwrap_or(StartError::Io { doing: "starting the kernel", source }))?;
    drop(writer);
    let said = read_until(reader, deadline).map_err(io("waiting for the kernel"))?;
    match said {
        None => Ok(StartOutcome::Silent),
        Some(text) if text.starts_with('1') => Ok(StartOutcome::Ready),
        Some(text) => {
            let ended = child.wait().map_err(io("waiting for the kernel"))?;
            let text = text.trim();
            if text.starts_with(LOCKED) {
                return Ok(StartOutcome::Locked);
            }
            let (reason, hint) = match text.split_once(TRY) {
                _ if text.is_empty() => {
                    let by_signal =
                        "memory may be short, or limited for this shell (ulimit -a); kernel.log may say more";
                    (format!("it ended with {ended}"), ended.signal().map(|_| by_signal.to_owned()))
                }
                Some((reason, hint)) => (reason.to_owned(), Some(hint.to_owned())),
                None => (text.to_owned(), None),
            };
            Err(StartError::Failed { reason, hint, log: options.paths.kernel_log() })
        }
    }
}

/// What of the system a program can't be started without.
fn no_ground() -> Option<StartError> {
    let missing = |what, hint| Some(StartError::NoGround { what, hint });
    if !Path::new("/proc/self/exe").exists() {
        return missing("no /proc is mounted", "mount -t proc proc /proc");
    }
    if !Path::new("/dev/null").exists() {
        return missing("there is no /dev/null", "mknod -m 666 /dev/null c 1 3");
    }
    None
}

/// What is written to a pipe until it is closed or begins with `1`; `None` when the time runs out first.
fn read_until(mut pipe: io::PipeReader, deadline: Instant) -> io::Result<Option<String>> {
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut poll = [rustix::event::PollFd::new(&pipe, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let mut chunk = [0u8; 4096];
        let n = pipe.read(&mut chunk)?;
        said.extend_from_slice(&chunk[..n]);
        if n == 0 || said.first() == Some(&b'1') || said.len() > 1 << 16 {
            return Ok(Some(String::from_utf8_lossy(&said).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clove_abi::frame::{FLAG_REPLY, HEADER_LEN, Header, encode};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn options(t: &tempfile::TempDir, script: &str) -> StartOptions {
        let program = t.path().join("kernel");
        std::fs::write(&program, format!("#!/bin/sh\nfd=$4\n{script}\n")).expect("write");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let dir = |name: &str| {
            let d = t.path().join(name);
            std::fs::create_dir_all(&d).expect("mkdir");
            d
        };
        StartOptions {
            paths: Paths { data_dir: dir("data"), runtime_dir: dir("run"), runtime_dirs: vec![dir("run")] },
            program: Some(program),
            client: "test".into(),
            start: true,
            deadline: Duration::from_secs(3),
        }
    }

    fn answer_hello(listener: &UnixListener, build: &str, idle: bool) {
        let (mut s, _) = listener.accept().expect("accept");
        let mut head = [0u8; HEADER_LEN];
        if s.read_exact(&mut head).is_err() {
            return;
        }
        let h = Header::decode(&head).expect("header");
        let mut body = vec![0; h.body_len as usize];
        s.read_exact(&mut body).expect("body");
        let reply = KernelHelloReply {
            version: "0".into(),
            build: build.into(),
            abi: ABI_VERSION,
            pid: 1,
            agent: None,
            idle,
        };
        let body = serde_json::to_vec(&reply).expect("json");
        s.write_all(&encode(h.number, FLAG_REPLY, h.correlation, &body, &[])).expect("reply");
    }

    #[test]
    fn a_kernel_that_says_why_it_failed_is_quoted() {
        let t = tempfile::tempdir().expect("tempdir");
        let e = connect_or_start(&options(&t, "eval \"echo the disk is on fire >&$fd\"; exit 3"))
            .expect_err("can't start");
        assert!(e.to_string().contains("the disk is on fire"), "{e}");
        let e = connect_or_start(&options(&t, "eval \"printf 'no room\\ntry: tidy up\\n' >&$fd\"; exit 3"))
            .expect_err("can't start");
        assert_eq!(
            (e.to_string().as_str(), e.hint().as_str()),
            ("the kernel didn't start: no room", "tidy up")
        );
        let e = connect_or_start(&options(&t, "exit 3")).expect_err("can't start");
        assert!(e.to_string().contains("exit status: 3"), "{e}");
    }

    #[test]
    fn a_kernel_that_hangs_is_given_up() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut o = options(&t, "exec sleep 2");
        o.deadline = Duration::from_millis(200);
        assert!(matches!(connect_or_start(&o), Err(StartError::TooSlow { .. })));
    }

    #[test]
    fn the_loser_of_the_lock_connects_to_the_winner() {
        let t = tempfile::tempdir().expect("tempdir");
        let o = options(&t, "eval \"echo locked: by pid 7 >&$fd\"; exit 1");
        let socket = o.paths.socket();
        let winner = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            answer_hello(&UnixListener::bind(socket).expect("bind"), build_id(), false);
        });
        let c = connect_or_start(&o).expect("connected");
        assert!(!c.started && c.note.is_none());
        winner.join().expect("winner");
    }

    /// The one that holds the lock may be another container's, which has the folder too: there is no use in waiting.
    #[test]
    fn a_stranger_that_holds_the_folder_is_not_waited_for_long() {
        let t = tempfile::tempdir().expect("tempdir");
        let mut o = options(&t, "eval \"echo locked: x >&$fd\"; exit 1");
        o.deadline = Duration::from_secs(60);
        let begun = Instant::now();
        let e = connect_or_start(&o).expect_err("held");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert!(e.to_string().starts_with("another process holds ") && e.hint().contains("container"), "{e}");
        // A pid that is something else's by now.
        std::fs::write(o.paths.lock(), format!("{}\n", std::process::id())).expect("write");
        let e = connect_or_start(&o).expect_err("held");
        assert!(e.to_string().starts_with("another process holds "), "{e}");
    }

    #[test]
    fn a_busy_kernel_of_another_build_is_used_with_a_note() {
        let t = tempfile::tempdir().expect("tempdir");
        let o = options(&t, "exit 1");
        let listener = UnixListener::bind(o.paths.socket()).expect("bind");
        let old = std::thread::spawn(move || answer_hello(&listener, "other", false));
        let c = connect_or_start(&o).expect("connected");
        assert!(c.note.is_some_and(|n| n.contains("clove stop")));
        old.join().expect("old kernel");
    }

    #[test]
    fn a_kernel_that_ends_right_after_its_start_is_not_started_for_ever() {
        let t = tempfile::tempdir().expect("tempdir");
        let o = options(
            &t,
            &format!(
                "echo x >> {0}/starts; echo no launcher >> {0}/data/kernel.log; eval \"echo 1 >&$fd\"",
                t.path().display()
            ),
        );
        let e = connect_or_start(&o).expect_err("gone each time");
        assert!(e.to_string().contains("said last:\n    no launcher\n    no launcher"), "{e}");
        assert_eq!(std::fs::read_to_string(t.path().join("starts")).expect("starts"), "x\nx\nx\n");
    }

    #[test]
    fn nothing_is_started_unless_asked_for() {
        let t = tempfile::tempdir().expect("tempdir");
        let o = StartOptions { start: false, ..options(&t, "exit 1") };
        assert!(matches!(connect_or_start(&o), Err(StartError::NotRunning { .. })));
    }
}
