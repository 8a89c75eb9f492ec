//! A kernel under attack: raw connections at both front doors, a bystander who must notice nothing, and the books
//! afterwards.

pub mod rows;

use clove_abi::frame::{FLAG_ERROR, FLAG_REPLY, HEADER_LEN, Header, encode};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const HELLO: u16 = 0x0101;
pub const PING: u16 = 0x0103;
pub const TASK_DONE: u16 = 0x0302;
pub const BLOB_PUT: u16 = 0x0601;
pub const BLOB_GET: u16 = 0x0602;

/// After this long a thing counts as never: generous, as the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that an event elsewhere brings about.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

// --- the kernel

/// A kernel's data directory with a working folder beside it; the kernel ends with it.
pub struct House {
    folder: tempfile::TempDir,
    pub socket: PathBuf,
    /// The kernel's process.
    pub pid: u32,
}

impl House {
    /// Starts a kernel.
    pub fn new() -> House {
        let folder = tempfile::tempdir().expect("tempdir");
        for name in ["work", "run"] {
            std::fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        let mut house = House { folder, socket: PathBuf::new(), pid: 0 };
        house.socket = house.ok(&["kernel", "socket", "--start"]).trim().into();
        house.pid = house.json(&["kernel", "info", "--json"])["pid"].as_u64().expect("pid") as u32;
        house
    }

    pub fn work(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("real").join("work")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("real").join("data")
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work().join(name);
        std::fs::write(&path, text).expect("write");
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // A kernel that hangs must not hang the tests.
        let mut c = Command::new("timeout");
        c.args(["-k", "5", "150", env!("CARGO_BIN_EXE_clove")])
            .args(args)
            .current_dir(self.folder.path().join("work"))
            .env("CLOVE_HOME", self.folder.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env("CLOVE_IDLE_TIMEOUT", "60s")
            .env("TERM", "dumb")
            .stdin(Stdio::null());
        c
    }

    pub fn clove(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("start clove")
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let o = self.clove(args);
        assert!(o.status.success(), "{args:?}: {}\n{}", text(&o.stderr), self.kernel_log());
        text(&o.stdout)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("json")
    }

    pub fn kernel_log(&self) -> String {
        std::fs::read_to_string(self.data().join("kernel.log")).unwrap_or_default()
    }

    /// A connection at the operators' door.
    pub fn connect(&self) -> Raw {
        Raw::to(&self.socket)
    }

    /// A cold agent that only lives, and its door as it is seen from outside: whoever connects there is that agent.
    pub fn agent(&self, name: &str) -> PathBuf {
        self.ok(&["run", "-d", "--name", name, "--", "sleep", "1000"]);
        let pid = until("the agent runs", || {
            let listed = self.json(&["ps", "--json"]);
            let mut all = listed.as_array().expect("a list").iter();
            let a = all.find(|a| a["name"] == name)?;
            (a["state"] == "running").then(|| a["pid"].as_u64()).flatten()
        });
        PathBuf::from(format!("/proc/{pid}/root/run/clove/kernel.sock"))
    }

    /// Runs `attack` of this very program inside a sandbox, to its end; what it prints is the answer.
    pub fn attack_from_inside(&self, attack: &str, flags: &[&str]) -> Output {
        self.start_inside(attack, flags).output().expect("start clove")
    }

    /// The command that does so.
    pub fn start_inside(&self, attack: &str, flags: &[&str]) -> Command {
        let program = std::env::current_exe().expect("this program");
        let mount = format!("{}:/attack", program.display());
        let choice = format!("WIRE_ATTACK={attack}");
        let mut args = vec!["run", "-v", &mount, "-e", &choice];
        args.extend(flags);
        args.extend(["--", "/attack", "--exact", "inside", "--nocapture"]);
        self.command(&args)
    }

    /// Descriptors that the kernel holds, but for its own files, which it opens and closes as it goes.
    pub fn fds(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the kernel lives").flatten();
        let what = all.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        what.filter(|to| !to.starts_with(self.data())).count()
    }

    /// The kernel comes back to at most so many descriptors.
    pub fn fds_come_to(&self, most: usize) {
        until(&format!("{} descriptors instead of {most}", self.fds()), || {
            (self.fds() <= most).then_some(())
        });
    }

    /// A line of /proc/PID/status, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the kernel lives");
        let found = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).expect("a line");
        found.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// The books agree, and it is still the same process.
    pub fn check(&self) {
        let said = self.ok(&["kernel", "check"]);
        assert!(said.ends_with("\nequal\n"), "{said}");
        assert_eq!(self.json(&["kernel", "info", "--json"])["pid"], self.pid);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let stopped = self.clove(&["stop", "--force"]);
        if !stopped.status.success() {
            if std::thread::panicking() {
                eprintln!("kernel.log: {}", self.kernel_log());
            }
            // It hangs; its launcher and all agents go with it.
            if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// --- connections

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub header: Header,
    pub body: Value,
    pub tail: Vec<u8>,
}

impl Answer {
    /// The error's code, for example `E0103`; nothing for a reply.
    pub fn code(&self) -> Option<&str> {
        (self.header.flags & FLAG_ERROR != 0).then(|| self.body["code"].as_str().expect("a code"))
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// A connection without manners.
pub struct Raw {
    pub stream: UnixStream,
}

impl Raw {
    pub fn to(socket: &Path) -> Raw {
        let stream = UnixStream::connect(socket)
            .unwrap_or_else(|e| panic!("{} can't be reached: {e}", socket.display()));
        Raw::over(stream)
    }

    pub fn over(stream: UnixStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Raw { stream }
    }

    /// Sends bytes as they are. False when nobody takes them any more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("the kernel takes nothing: {e}"),
        }
    }

    pub fn call(&mut self, number: u16, correlation: u64, body: &[u8]) -> Option<Answer> {
        self.send(&encode(number, 0, correlation, body, &[]));
        self.receive()
    }

    /// The next frame; nothing when the kernel has closed the connection.
    pub fn receive(&mut self) -> Option<Answer> {
        let mut head = [0u8; HEADER_LEN];
        if !self.fill(&mut head) {
            return None;
        }
        let header = Header::decode(&head).expect("a frame");
        assert_ne!(header.flags & FLAG_REPLY, 0, "it isn't a reply");
        let (mut body, mut tail) = (vec![0; header.body_len as usize], vec![0; header.tail_len as usize]);
        assert!(self.fill(&mut body) && self.fill(&mut tail), "half a frame");
        Some(Answer { header, body: serde_json::from_slice(&body).expect("json"), tail })
    }

    fn fill(&mut self, into: &mut [u8]) -> bool {
        match self.stream.read_exact(into) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("no answer: {e}"),
        }
    }

    /// The connection still answers.
    pub fn is_usable(&mut self) -> bool {
        let marker = 0xfeed_0000_0000_0001;
        self.send(&encode(PING, 0, marker, b"{}", &[]));
        while let Some(a) = self.receive() {
            if a.header.correlation == marker {
                return a.code().is_none() || a.code() == Some("E0404");
            }
        }
        false
    }

    /// The kernel has closed it; what it said before is passed over.
    pub fn is_closed(&mut self) -> bool {
        while self.receive().is_some() {}
        true
    }

    /// Sends without waiting, as much as is taken within a moment of quiet; returns how much.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).expect("nonblocking");
        let mut sent = 0;
        let mut quiet = Instant::now();
        while sent < bytes.len() && quiet.elapsed() < Duration::from_millis(200) {
            match self.stream.write(&bytes[sent..]) {
                Ok(n) => {
                    sent += n;
                    quiet = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => break,
            }
        }
        self.stream.set_nonblocking(false).expect("blocking");
        sent
    }

    /// Sends one byte string with descriptors.
    pub fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    }
}

// --- the bystander

/// Somebody who does nothing wrong: a process of its own that pings without a pause of note, and must get every answer.
pub struct Bystander {
    process: Child,
    begun: Instant,
}

/// How long its answers took.
pub struct Waits {
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
    pub count: usize,
}

impl Bystander {
    pub fn at(socket: &Path) -> Bystander {
        let mut c = Command::new(std::env::current_exe().expect("this program"));
        c.args(["--exact", "inside", "--nocapture"])
            .env("WIRE_ATTACK", "bystander")
            .env("WIRE_SOCKET", socket);
        let mut process = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
        // It says when it has had its first answer.
        let mut said = Vec::new();
        let mut byte = [0u8; 1];
        while !said.ends_with(b"begun\n") {
            process.stdout.as_mut().expect("pipe").read_exact(&mut byte).expect("a bystander gets in");
            said.push(byte[0]);
        }
        Bystander { process, begun: Instant::now() }
    }

    /// How it fared. It has been there for a while at least, so that there is something to tell.
    pub fn leaves(mut self) -> Waits {
        std::thread::sleep(Duration::from_millis(300).saturating_sub(self.begun.elapsed()));
        drop(self.process.stdin.take());
        let o = self.process.wait_with_output().expect("wait");
        assert!(o.status.success(), "a bystander gets every answer: {}", text(&o.stdout));
        let out = text(&o.stdout);
        let list = out.lines().find_map(|l| l.strip_prefix("waits ")).expect("its waits");
        let mut waits: Vec<Duration> =
            list.split(' ').map(|us| Duration::from_micros(us.parse().expect("a number"))).collect();
        waits.sort_unstable();
        let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
        Waits { p50: at(50), p99: at(99), longest: at(100), count: waits.len() }
    }
}

/// What a bystander does, until its standard input ends.
pub fn ping_until_told() {
    let socket = std::env::var("WIRE_SOCKET").expect("a socket");
    let mut raw = Raw::to(Path::new(&socket));
    let told = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut waits = Vec::new();
    while !told.is_finished() {
        let correlation = waits.len() as u64;
        let begun = Instant::now();
        let a = raw.call(PING, correlation, b"{}").expect("an answer");
        waits.push(begun.elapsed().as_micros().to_string());
        assert_eq!((a.header.correlation, a.code()), (correlation, None), "{a:?}");
        if correlation == 0 {
            println!("begun");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("waits {}", waits.join(" "));
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        write!(
            f,
            "{} pings: p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
            self.count,
            us(self.p50),
            us(self.p99),
            us(self.longest)
        )
    }
}

/// An answer that takes this long was held up by somebody: a loaded machine alone doesn't do that.
pub const HELD_UP: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });

/// Does something terrible while a bystander pings; the bystander gets every answer, none of them held up.
pub fn with_bystander<T>(house: &House, name: &str, attack: impl FnOnce() -> T) -> T {
    let before = Bystander::at(&house.socket).leaves();
    let during = Bystander::at(&house.socket);
    let done = attack();
    let during = during.leaves();
    println!("{name}: before: {before}; during: {during}");
    assert!(during.longest < HELD_UP, "{name}: a bystander waited for {:?}", during.longest);
    done
}
