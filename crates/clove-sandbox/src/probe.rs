//! What this host really enforces, found by trying: throw-away cells that run into each wall and each limit.

use crate::cgroup;
use crate::protocol::{CellPolicy, Event, Profile, Request, Status, Token};
use crate::{LauncherConfig, Link};
use clove_abi::Limits;
use clove_abi::certificate::Usage;
use clove_abi::run::Mount;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Protection,
    Limit,
    Feature,
}

/// One line of `clove doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub id: &'static str,
    pub kind: Kind,
    pub name: &'static str,
    pub enforced: bool,
    /// By what, or why not.
    pub how: String,
    /// What to do about it; empty when it is enforced.
    pub remedy: String,
}

/// Long enough for a slow machine; each trial takes some ten milliseconds on a usual one.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tries everything with a launcher of its own. Call it from a process with one thread. Takes about a second.
pub fn probe(config: &LauncherConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let landlock = clove_sys::landlock::abi();
    match Bench::new(config) {
        Err(why) => findings.push(Finding {
            id: "launcher",
            kind: Kind::Feature,
            name: "launcher",
            enforced: false,
            how: why,
            remedy: "run as root (sudo clove doctor)".into(),
        }),
        Ok(mut bench) => {
            bench.walls(&mut findings, landlock);
            bench.limits(&mut findings);
        }
    }
    findings
}

/// A launcher, and a folder for what trials need.
struct Bench {
    link: Link,
    folder: PathBuf,
    next: Token,
    backend: &'static str,
    missing: Vec<String>,
}

/// What has become of one trial.
struct Trial {
    walls: Vec<String>,
    pid: Option<u32>,
    end: Option<Event>,
}

impl Bench {
    fn new(config: &LauncherConfig) -> Result<Bench, String> {
        let folder = std::env::temp_dir().join(format!("clove-doctor-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut config = config.clone();
        // Its own cgroups: a kernel may be running on the same directory.
        config.data_dir = folder.join("data");
        let backend = cgroup::probe(&config.data_dir);
        let (name, missing) = (backend.name(), backend.missing());
        let (_, link) = crate::fork_launcher(config).map_err(|e| format!("it can't be started: {e}"))?;
        Ok(Bench { link, folder, next: 0, backend: name, missing })
    }

    /// Runs a shell line until `until` likes what has happened, or its end.
    fn run(
        &mut self,
        cell: CellPolicy,
        line: &str,
        mut until: impl FnMut(&mut Bench, &Trial, Token) -> bool,
    ) -> Trial {
        self.next += 1;
        let token = self.next;
        let mut trial = Trial { walls: Vec::new(), pid: None, end: None };
        let argv = ["/bin/sh", "-c", line].map(String::from).to_vec();
        let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return trial };
        let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
        if self.link.send(&Request::Spawn { token, cell, argv, hold: false }, &fds).is_err() {
            return trial;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut asked_to_end = false;
        while trial.end.is_none() && Instant::now() < deadline && !self.link.is_closed() {
            for (event, _fds) in self.events() {
                match event {
                    Event::CellReady { token: t, missing_walls, .. } if t == token => {
                        trial.walls = missing_walls
                    }
                    Event::Started { token: t, pid } if t == token => trial.pid = Some(pid),
                    Event::Exited { token: t, .. } | Event::SpawnFailed { token: t, .. } if t == token => {
                        trial.end = Some(event);
                    }
                    _ => {}
                }
            }
            if !asked_to_end && trial.pid.is_some() && trial.end.is_none() && until(self, &trial, token) {
                asked_to_end = self.link.send(&Request::Kill { token }, &[]).is_ok();
            }
        }
        trial
    }

    fn until_it_ends(&mut self, cell: CellPolicy, line: &str) -> Trial {
        self.run(cell, line, |_, _, _| false)
    }

    fn events(&mut self) -> Vec<(Event, Vec<OwnedFd>)> {
        let mut poll = [PollFd::new(&self.link, PollFlags::IN)];
        let _ = rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        self.link.recv().unwrap_or_default()
    }

    fn walls(&mut self, findings: &mut Vec<Finding>, landlock: Option<u32>) {
        let mut seen = Err("the trial cell didn't start".to_owned());
        let trial = self.run(policy(), "read x < /dev/zero; while :; do :; done", |_, trial, _| {
            seen = trial.pid.map_or(Err("no pid".into()), Seen::look);
            true
        });
        let seen = match (seen, &trial.end) {
            (Ok(seen), _) => seen,
            (Err(why), end) => {
                let how = match end {
                    Some(Event::SpawnFailed { stage, message, .. }) => format!("{stage}: {message}"),
                    _ => why,
                };
                findings.push(finding("cell", Kind::Protection, "isolated cell", Err(how), ROOT_REMEDY));
                return;
            }
        };
        for (id, name) in NAMESPACES {
            let own = seen.namespaces.iter().any(|n| n == id);
            let result = if own { Ok("differs from the host's".into()) } else { Err("is the host's".into()) };
            findings.push(finding(id, Kind::Protection, name, result, ROOT_REMEDY));
        }
        let is = |good: bool, yes: &str, no: &str| if good { Ok(yes.to_owned()) } else { Err(no.to_owned()) };
        findings.extend([
            finding(
                "root",
                Kind::Protection,
                "own root folder",
                is(seen.own_root, "pivot_root onto a tmpfs, read-only", "it sees the host's root"),
                ROOT_REMEDY,
            ),
            finding(
                "capabilities",
                Kind::Protection,
                "no capabilities",
                is(seen.no_capabilities, "all five sets are empty", "some are left"),
                ROOT_REMEDY,
            ),
            finding(
                "no_new_privs",
                Kind::Protection,
                "no_new_privs",
                is(seen.no_new_privs, "set", "not set"),
                "needs Linux 3.5 or later",
            ),
            finding(
                "seccomp",
                Kind::Protection,
                "system-call filter (seccomp)",
                is(seen.filtered, "one filter, default profile", "no filter"),
                "the host's kernel needs CONFIG_SECCOMP_FILTER",
            ),
            finding(
                "uids",
                Kind::Protection,
                "unprivileged host uid of its own",
                is(
                    seen.uid >= 0x1000_0000,
                    &format!("host uid {}", seen.uid),
                    "it has a uid of the host's users",
                ),
                "see /run/clove/uid-blocks",
            ),
            finding(
                "max_user_namespaces",
                Kind::Protection,
                "no further user namespaces",
                is(!trial.walls.iter().any(|w| w == "max_user_namespaces"), "limit 0 inside", "can't be set"),
                "the host's /proc/sys/user must be there",
            ),
            finding(
                "landlock",
                Kind::Protection,
                "Landlock",
                landlock.map(|abi| format!("ABI {abi}")).ok_or("this kernel has none".into()),
                "Linux 5.13 or later, with `landlock` in the lsm= boot parameter",
            ),
        ]);
        self.strict(findings);
        self.idmap(findings);
    }

    /// A program under the strict profile, with a call that is on its list and one that isn't (syncfs(2), which the
    /// default profile lets pass).
    fn strict(&mut self, findings: &mut Vec<Finding>) {
        let mut cell = policy();
        cell.profile = Profile::Strict;
        let trial =
            self.until_it_ends(cell, "sync /work || exit 9; sync -f /work 2>/dev/null && exit 3; exit 0");
        let result = match (&trial.end, trial.code()) {
            (_, Some(0)) => Ok("a call that isn't on its list was refused".into()),
            (Some(Event::SpawnFailed { message, .. }), _) => Err(message.clone()),
            (_, Some(3)) => Err("a call that isn't on its list went through".into()),
            _ => Err("the trial's program failed".into()),
        };
        let remedy = "Landlock, and a filter that holds; programs run under the default profile without";
        findings.push(finding("strict", Kind::Feature, "strict profile", result, remedy));
    }

    /// A private file of root's, read by the agent.
    fn idmap(&mut self, findings: &mut Vec<Finding>) {
        let file = self.folder.join("private");
        let ready = fs::write(&file, "x")
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)));
        let mut cell = policy();
        cell.mounts = vec![Mount {
            source: file.to_string_lossy().into_owned(),
            target: "/opt/private".into(),
            writable: false,
        }];
        let trial = self.until_it_ends(cell, "exec cat /opt/private");
        let good = ready.is_ok() && trial.code() == Some(0);
        let result = if good {
            Ok("a private file can be read as the agent".into())
        } else {
            Err(format!("{} can't be mapped", self.folder.display()))
        };
        let remedy =
            "Linux 5.12 or later, and ext4, xfs, btrfs or tmpfs (6.3) below the folders that you mount";
        findings.push(finding("idmap", Kind::Feature, "idmapped mounts", result, remedy));
    }

    fn limits(&mut self, findings: &mut Vec<Finding>) {
        let backend = self.backend;
        let by = |what: &str| format!("cgroup {backend}: {what}");
        let mut add = |id, name, result: Result<String, String>, remedy: &str| {
            findings.push(finding(id, Kind::Limit, name, result, remedy));
        };
        let lacks = |missing: &[String], c: &str| missing.iter().any(|m| m == c);

        let mut cell = policy();
        cell.limits.memory_bytes = 24 << 20;
        let trial = self.until_it_ends(cell, "x=0123456789abcdef; while :; do x=$x$x; done");
        let usage = trial.usage();
        let killed = trial.status() == Some(Status::Signal(libc::SIGKILL));
        let held = !lacks(&self.missing, "memory") && killed && usage.peak_memory_bytes <= 25 << 20;
        add(
            "memory",
            "memory, no swap",
            check(held, by("a hog of 24 MiB was stopped"), "it wasn't stopped"),
            CONTROLLERS,
        );
        let told =
            check(usage.oom_kills > 0, by("told apart from other kills"), "it looks like any other kill");
        add("oom", "out-of-memory is recognised", told, CONTROLLERS);

        let mut cell = policy();
        cell.limits.pids = 8;
        let line = "i=0; while [ $i -lt 20 ]; do sleep 9 & i=$((i+1)); done";
        let usage = self.until_it_ends(cell, line).usage();
        let held =
            check(usage.pids_refused > 0, by("the ninth process was refused"), "more were let through");
        add("pids", "processes", held, CONTROLLERS);

        let mut cell = policy();
        cell.limits.cpu_milli = 100;
        let trial = self.run(cell, "while :; do :; done", |_, _, _| {
            std::thread::sleep(Duration::from_millis(350));
            true
        });
        let held = check(trial.usage().throttled_periods > 0, by("a loop was held back at 0.1"), "it ran on");
        add("cpu", "CPU quota", held, CONTROLLERS);

        let mut cell = policy();
        cell.limits.disk_bytes = 1 << 20;
        let trial = self.until_it_ends(cell, "head -c 3000000 /dev/zero > /work/f");
        let held = check(
            trial.code() != Some(0) && trial.usage().disk_full,
            "size of its tmpfs".into(),
            "it wrote more",
        );
        add("disk", "disk (work, tmp, shm, out, checkpoint)", held, ROOT_REMEDY);

        let mut cell = policy();
        cell.limits.nofile = 33;
        let trial = self.until_it_ends(cell, "[ $(ulimit -Hn) = 33 ]");
        add(
            "nofile",
            "open files",
            check(trial.code() == Some(0), "RLIMIT_NOFILE".into(), "not set"),
            ROOT_REMEDY,
        );

        let mut stood_still = false;
        let began = std::cell::Cell::new(Instant::now());
        let trial = self.run(policy(), "while :; do :; done", |bench, trial, token| {
            let _ = bench.link.send(&Request::Freeze { token }, &[]);
            std::thread::sleep(Duration::from_millis(60));
            let before = cpu_ticks(trial.pid);
            std::thread::sleep(Duration::from_millis(80));
            stood_still = before.is_some() && before == cpu_ticks(trial.pid);
            began.set(Instant::now());
            true
        });
        let killed = trial.status() == Some(Status::Signal(libc::SIGKILL));
        let took = began.get().elapsed();
        let remedy = "mount a cgroup v2 tree (mount -t cgroup2 none /sys/fs/cgroup/unified)";
        let frozen = check(stood_still, by("a loop stood still"), "it ran on");
        findings.push(finding("freeze", Kind::Feature, "pause and resume", frozen, remedy));
        let gone = check(killed, format!("a frozen agent was gone in {} ms", took.as_millis()), "it stayed");
        findings.push(finding("kill", Kind::Feature, "kill of the whole tree", gone, remedy));
        findings.push(finding(
            "wall",
            Kind::Limit,
            "wall time",
            Ok("the kernel's timer, then a kill".into()),
            "",
        ));
        findings.push(finding("output", Kind::Limit, "output", Ok("the kernel keeps no more".into()), ""));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const NAMESPACES: [(&str, &str); 7] = [
    ("user", "user namespace"),
    ("mnt", "mount namespace"),
    ("pid", "PID namespace"),
    ("net", "network namespace (only lo)"),
    ("ipc", "IPC namespace"),
    ("uts", "host name of its own"),
    ("cgroup", "cgroup namespace"),
];
const ROOT_REMEDY: &str = "run the kernel as root; in a container, with --privileged";
const CONTROLLERS: &str = "mount the cgroup controllers memory, cpu and pids (v2: hand them on in every \
                           cgroup.subtree_control), or run outside of the container";

fn finding(
    id: &'static str,
    kind: Kind,
    name: &'static str,
    result: Result<String, String>,
    remedy: &str,
) -> Finding {
    let enforced = result.is_ok();
    let remedy = if enforced { String::new() } else { remedy.to_owned() };
    Finding { id, kind, name, enforced, how: result.unwrap_or_else(|why| why), remedy }
}

fn check(good: bool, how: String, why_not: &str) -> Result<String, String> {
    if good { Ok(how) } else { Err(why_not.to_owned()) }
}

impl Trial {
    fn status(&self) -> Option<Status> {
        match &self.end {
            Some(Event::Exited { status, .. }) => Some(*status),
            _ => None,
        }
    }

    fn code(&self) -> Option<i32> {
        match self.status() {
            Some(Status::Code(code)) => Some(code),
            _ => None,
        }
    }

    fn usage(&self) -> Usage {
        match &self.end {
            Some(Event::Exited { usage, .. }) => usage.clone(),
            _ => Usage::default(),
        }
    }
}

/// A running trial, looked at from outside.
struct Seen {
    namespaces: Vec<String>,
    own_root: bool,
    no_capabilities: bool,
    no_new_privs: bool,
    filtered: bool,
    uid: u32,
}

impl Seen {
    fn look(pid: u32) -> Result<Seen, String> {
        let at = |name: &str| format!("/proc/{pid}/{name}");
        let status = fs::read_to_string(at("status")).map_err(|e| format!("{}: {e}", at("status")))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
        };
        let differs = |ns: &str| {
            let (a, b) =
                (fs::read_link(at(&format!("ns/{ns}"))), fs::read_link(format!("/proc/self/ns/{ns}")));
            matches!((a, b), (Ok(a), Ok(b)) if a != b)
        };
        let root = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let own_root = root(Path::new(&at("root/."))).is_some_and(|r| Some(r) != root(Path::new("/")));
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        Ok(Seen {
            namespaces: NAMESPACES.iter().map(|(id, _)| (*id).to_owned()).filter(|id| differs(id)).collect(),
            own_root,
            no_capabilities: sets.iter().all(|s| field(s) == "0000000000000000"),
            no_new_privs: field("NoNewPrivs") == "1",
            filtered: field("Seccomp") == "2",
            uid: field("Uid").parse().unwrap_or(0),
        })
    }
}

/// User and system time of a process, in clock ticks.
fn cpu_ticks(pid: Option<u32>) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid?)).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).map(str::to_owned);
    Some((fields.next()?, fields.next()?))
}

fn policy() -> CellPolicy {
    CellPolicy {
        label: "doctor".into(),
        limits: Limits {
            memory_bytes: 64 << 20,
            memory_reserve_bytes: 64 << 20,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 64,
            disk_bytes: 8 << 20,
            nofile: 256,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        mounts: Vec::new(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/work".into(),
        profile: Profile::Default,
        tty: None,
        files: Vec::new(),
        operator_uid: 0,
        operator_gid: 0,
        // The trial shall run where a limit is missing, too: that is what it is to find out.
        allow_degraded: true,
    }
}
