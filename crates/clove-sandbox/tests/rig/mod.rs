//! A real launcher in a forked process, and the little that tests need around it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod warm;

use clove_abi::Limits;
use clove_abi::run::Mount;
use clove_sandbox::protocol::{CellPolicy, Event, Profile, Request, Status};
use clove_sandbox::{LauncherConfig, Link};
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For programs that do a lot, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Rig {
    pub link: Link,
    pub launcher_pid: i32,
    queue: VecDeque<(Event, Vec<OwnedFd>)>,
    next: u64,
    pub data_dir: tempfile::TempDir,
}

/// A program's end, as a test sees it.
#[derive(Debug)]
pub struct End {
    pub event: Event,
    pub stdout: String,
    pub stderr: String,
    pub missing_walls: Vec<String>,
}

impl End {
    pub fn status(&self) -> Status {
        match &self.event {
            Event::Exited { status, .. } => *status,
            other => panic!("it didn't run: {other:?}\nstderr: {}", self.stderr),
        }
    }
}

/// Runs `body` with a launcher. Each test is a program of its own main thread: the launcher must be forked before
/// threads exist, so these tests have `harness = false`.
impl Rig {
    pub fn new() -> Rig {
        Rig::new_in(tempfile::tempdir().unwrap())
    }

    pub fn new_in(data_dir: tempfile::TempDir) -> Rig {
        let config = LauncherConfig { data_dir: data_dir.path().to_owned(), protected: vec![] };
        let (launcher_pid, link) = clove_sandbox::fork_launcher(config).unwrap();
        Rig { link, launcher_pid, queue: VecDeque::new(), next: 1, data_dir }
    }

    /// One whose launcher waits only so long for templates and embryos.
    pub fn patient_for(patience: Duration) -> Rig {
        let data_dir = tempfile::tempdir().unwrap();
        let config = LauncherConfig { data_dir: data_dir.path().to_owned(), protected: vec![] };
        let (launcher_pid, link) = clove_sandbox::fork_launcher_with(config, patience).unwrap();
        Rig::with_link(link, launcher_pid, data_dir)
    }

    pub fn with_link(link: Link, launcher_pid: i32, data_dir: tempfile::TempDir) -> Rig {
        Rig { link, launcher_pid, queue: VecDeque::new(), next: 1, data_dir }
    }

    pub fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn send(&mut self, request: Request, fds: &[BorrowedFd<'_>]) {
        self.link.send(&request, fds).unwrap();
    }

    /// The next event that `wanted` likes, within twenty seconds.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> (Event, Vec<OwnedFd>) {
        self.expect_within(Duration::from_secs(20), what, wanted)
    }

    fn expect_within(
        &mut self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Event) -> bool,
    ) -> (Event, Vec<OwnedFd>) {
        let until = Instant::now() + patience;
        loop {
            if let Some(at) = self.queue.iter().position(|(e, _)| wanted(e)) {
                return self.queue.remove(at).unwrap();
            }
            assert!(Instant::now() < until, "no {what}; queued: {:?}", self.queue);
            assert!(!self.link.is_closed(), "the launcher is gone, no {what}");
            let mut poll = [rustix::event::PollFd::new(&self.link, rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            rustix::event::poll(&mut poll, Some(&timeout)).unwrap();
            self.queue.extend(self.link.recv().unwrap());
        }
    }

    pub fn expect_end(&mut self, token: u64) -> Event {
        self.expect_end_within(token, Duration::from_secs(20))
    }

    pub fn expect_end_within(&mut self, token: u64, patience: Duration) -> Event {
        self.expect_within(patience, "end", |e| {
            matches!(e, Event::Exited { token: t, .. } | Event::SpawnFailed { token: t, .. } if *t == token)
        })
        .0
    }

    /// Starts a program with its output in files.
    pub fn start(&mut self, cell: CellPolicy, argv: &[&str]) -> (u64, std::fs::File, std::fs::File) {
        let token = self.token();
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let null = std::fs::File::open("/dev/null").unwrap();
        let argv = argv.iter().map(|s| s.to_string()).collect();
        self.send(
            Request::Spawn { token, cell, argv, hold: false },
            &[null.as_fd(), out.as_fd(), err.as_fd()],
        );
        (token, out, err)
    }

    /// Runs a program to its end.
    pub fn run(&mut self, cell: CellPolicy, argv: &[&str]) -> End {
        self.run_within(Duration::from_secs(20), cell, argv)
    }

    /// One that takes its time.
    pub fn run_patiently(&mut self, cell: CellPolicy, argv: &[&str]) -> End {
        self.run_within(PATIENCE, cell, argv)
    }

    fn run_within(&mut self, patience: Duration, cell: CellPolicy, argv: &[&str]) -> End {
        let (token, out, err) = self.start(cell, argv);
        let event = self.expect_end_within(token, patience);
        let ready = self
            .queue
            .iter()
            .position(|(e, _)| matches!(e, Event::CellReady { token: t, .. } if *t == token));
        let missing_walls = match ready.and_then(|at| self.queue.remove(at)) {
            Some((Event::CellReady { missing_walls, .. }, _)) => missing_walls,
            _ => Vec::new(),
        };
        self.queue.retain(|(e, _)| !matches!(e, Event::Started { token: t, .. } if *t == token));
        End { event, stdout: text(out), stderr: text(err), missing_walls }
    }

    /// Runs a shell line.
    pub fn sh(&mut self, line: &str) -> End {
        self.run(policy(), &["/bin/sh", "-c", line])
    }
}

pub fn text(mut f: std::fs::File) -> String {
    use std::io::Seek;
    let mut s = Vec::new();
    f.rewind().unwrap();
    f.read_to_end(&mut s).unwrap();
    String::from_utf8_lossy(&s).into_owned()
}

pub fn policy() -> CellPolicy {
    CellPolicy {
        label: "test-1".into(),
        limits: Limits {
            memory_bytes: 256 << 20,
            memory_reserve_bytes: 256 << 20,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 128,
            disk_bytes: 64 << 20,
            nofile: 256,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        mounts: vec![],
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/work".into())],
        cwd: "/work".into(),
        profile: Profile::Default,
        tty: None,
        files: vec![],
        operator_uid: 0,
        operator_gid: 0,
        allow_degraded: false,
    }
}

/// The tests of one file, run one after the other in this (single) thread.
pub type Test = (&'static str, fn(&mut Rig));

pub fn run_all(tests: &[Test]) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: these tests need root");
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if std::env::args().any(|a| a == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return;
    }
    let mut failed = 0;
    let mut rig = Rig::new();
    for (name, test) in tests {
        if !only.is_empty() && !only.iter().any(|o| name.contains(o.as_str())) {
            continue;
        }
        let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut rig))).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            failed += 1;
            // What a failed test left behind isn't the next one's problem.
            rig = Rig::new();
        }
    }
    assert_eq!(failed, 0, "{failed} tests failed");
}

pub fn host_python() -> Option<PathBuf> {
    let out = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .ok()?;
    let path = String::from_utf8(out.stdout).ok()?;
    Some(PathBuf::from(path.trim())).filter(|p| p.exists())
}

pub fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let found = [deps.join("libclove_sys.so"), deps.parent().unwrap().join("libclove_sys.so")];
    found.into_iter().find(|p| p.exists()).expect("libclove_sys.so is built with clove-sys")
}

pub fn mount(path: &Path) -> Mount {
    let path = path.to_str().unwrap().to_owned();
    Mount { source: path.clone(), target: path, writable: false }
}

pub fn python_policy() -> (CellPolicy, String) {
    let python = host_python().expect("python3");
    let prefix = python.parent().unwrap().parent().unwrap().to_owned();
    let mut p = policy();
    p.mounts = vec![
        mount(&prefix),
        Mount {
            source: library().to_str().unwrap().into(),
            target: "/opt/libclove_sys.so".into(),
            writable: false,
        },
        Mount {
            source: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/rig/template_host.py")
                .to_str()
                .unwrap()
                .into(),
            target: "/opt/template_host.py".into(),
            writable: false,
        },
    ];
    (p, python.to_str().unwrap().to_owned())
}

/// How many processes of this host uid there are.
pub fn processes_of(uid: u32) -> usize {
    use std::os::unix::fs::MetadataExt;
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter(|e| {
            let status = std::fs::read_to_string(e.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
            line.split_whitespace().next() == Some(&uid.to_string())
                || e.metadata().is_ok_and(|m| m.uid() == uid)
        })
        .count()
}
