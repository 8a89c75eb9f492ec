//! Policy to plan: a pure function whose result can be printed, tested and compared.

mod mounts;
mod refuse;
#[cfg(test)]
pub(crate) mod tests;

pub use refuse::check_argv;

use crate::host::{HostFacts, SystemPath};
use crate::protocol::{CellPolicy, Profile};
use serde::Serialize;
use std::fmt;

/// The agent's uid and gid inside.
pub const AGENT_ID: u32 = 1000;
/// Where the agent finds the kernel.
pub const SOCKET_PATH: &str = "/run/clove/kernel.sock";
/// Folders of the bounded scratch tmpfs: name in it, place inside, mode.
pub const SCRATCH: [(&str, &str, u32); 5] = [
    ("work", "/work", 0o755),
    ("tmp", "/tmp", 0o1777),
    ("shm", "/dev/shm", 0o1777),
    ("out", "/out", 0o755),
    ("checkpoint", "/checkpoint", 0o755),
];

/// Which kind of cell is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// For one agent.
    Agent,
    /// For a template, which keeps CAP_SYS_ADMIN in its user namespace, to fork agents into cells.
    Template,
}

/// Where a detached mount tree comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A host path, all links followed.
    Host { path: String, is_folder: bool },
    /// The launcher's own /dev or /etc.
    Stage(String),
}

/// A mount tree that the launcher opens and the cell attaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedMount {
    pub source: Source,
    pub target: String,
    pub writable: bool,
    /// Seen through a map from the operator's ids to the agent's.
    pub idmap: bool,
}

/// One step inside the cell. Paths before `Pivot` are relative to the new root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    MakePrivate,
    OwnCgroups,
    BecomeIds {
        uid: u32,
        gid: u32,
    },
    Tmpfs {
        target: String,
        options: String,
    },
    Enter {
        path: String,
    },
    Folder {
        path: String,
        mode: u32,
    },
    File {
        path: String,
    },
    Link {
        to: String,
        path: String,
    },
    Write {
        path: String,
        content: String,
    },
    /// Index into `Plan::mounts`.
    Attach {
        mount: usize,
        target: String,
    },
    Bind {
        source: String,
        target: String,
    },
    Proc {
        target: String,
        /// A process sees only those that it could look into (`hidepid=invisible`).
        hidden: bool,
    },
    DevPts {
        target: String,
    },
    ReadOnly {
        target: String,
    },
    Setting {
        path: String,
        value: String,
    },
    OpenScratch {
        path: String,
    },
    Pivot,
    Loopback,
    Hostname {
        name: String,
    },
    Listen {
        path: String,
    },
    Terminal {
        rows: u16,
        columns: u16,
    },
}

/// One op, and the wall that is missing (but no more than that) when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub op: Op,
    /// None: the cell can't be made without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<String>,
}

/// A Landlock rule: a path inside, and whether it may be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowed {
    pub path: String,
    pub writable: bool,
}

/// All that is done for one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub kind: CellKind,
    pub mounts: Vec<PlannedMount>,
    pub ops: Vec<Planned>,
    /// Landlock ABI and rules; `None` where the host has no Landlock.
    pub landlock: Option<(u32, Vec<Allowed>)>,
    /// Which system calls there are.
    pub profile: Profile,
    pub nofile: u64,
    pub cwd: String,
    /// Walls that this host can't give, known before anything is tried.
    pub missing_walls: Vec<String>,
}

/// A policy that is refused: which part, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct PlanError {
    /// `mount /x`, `env FOO`, ...
    pub what: String,
    pub why: String,
    pub hint: String,
}

/// Makes the plan for a cell. Pure, apart from looking at paths through `host.paths`.
pub fn plan(kind: CellKind, policy: &CellPolicy, host: &HostFacts) -> Result<Plan, PlanError> {
    refuse::check(policy)?;
    if policy.profile == Profile::Strict && host.landlock_abi.is_none() {
        return Err(PlanError {
            what: "profile strict".into(),
            why: "it needs Landlock, which this host's Linux hasn't got".into(),
            hint: "use the default profile, or a Linux of 5.13 or later with `landlock` in its lsm= boot parameter".into(),
        });
    }
    let user = mounts::user_mounts(policy, host)?;
    let mut b = Builder { ops: Vec::new(), mounts: Vec::new() };
    b.need(Op::MakePrivate);
    b.need(Op::OwnCgroups);
    // As the agent from here on: what is made in the new root belongs to it.
    b.need(Op::BecomeIds { uid: AGENT_ID, gid: AGENT_ID });
    b.need(Op::Tmpfs { target: "/tmp".into(), options: "mode=755,size=4m,nr_inodes=4k".into() });
    b.need(Op::Enter { path: "/tmp".into() });
    b.root_folders(host);
    b.attach("dev", Source::Stage("dev".into()), false, false);
    b.attach("etc", Source::Stage("etc".into()), false, false);
    b.scratch(policy);
    b.own_proc(kind);
    b.need(Op::DevPts { target: "dev/pts".into() });
    b.small_files(policy);
    b.need(Op::Pivot);
    for m in user {
        b.user_mount(m);
    }
    b.need(Op::Loopback);
    b.need(Op::Hostname { name: policy.label.clone() });
    if kind == CellKind::Agent {
        b.need(Op::Listen { path: SOCKET_PATH.into() });
    }
    if let Some((rows, columns)) = policy.tty {
        b.need(Op::Terminal { rows, columns });
    }
    b.need(Op::ReadOnly { target: "/".into() });
    let mut missing_walls = Vec::new();
    if host.landlock_abi.is_none() {
        missing_walls.push("landlock".into());
    }
    Ok(Plan {
        kind,
        landlock: host.landlock_abi.map(|abi| (abi, landlock_rules(&b.mounts))),
        ops: b.ops,
        mounts: b.mounts,
        profile: policy.profile,
        nofile: u64::from(policy.limits.nofile).min(host.nofile_max),
        cwd: policy.cwd.clone(),
        missing_walls,
    })
}

/// Read and execute everywhere (the root holds nothing else), write where writing is meant.
fn landlock_rules(mounts: &[PlannedMount]) -> Vec<Allowed> {
    let mut rules = vec![Allowed { path: "/".into(), writable: false }];
    let fixed = ["/work", "/tmp", "/out", "/checkpoint", "/dev", "/proc"];
    let users = mounts.iter().filter(|m| m.writable && matches!(m.source, Source::Host { .. }));
    for path in fixed.into_iter().chain(users.map(|m| m.target.as_str())) {
        rules.push(Allowed { path: path.into(), writable: true });
    }
    rules
}

struct Builder {
    ops: Vec<Planned>,
    mounts: Vec<PlannedMount>,
}

impl Builder {
    fn need(&mut self, op: Op) {
        self.ops.push(Planned { op, wall: None });
    }

    fn try_for(&mut self, wall: &str, op: Op) {
        self.ops.push(Planned { op, wall: Some(wall.into()) });
    }

    fn folder(&mut self, path: &str, mode: u32) {
        self.need(Op::Folder { path: path.into(), mode });
    }

    fn attach(&mut self, target: &str, source: Source, writable: bool, idmap: bool) {
        let shown = format!("/{}", target.trim_start_matches('/'));
        self.mounts.push(PlannedMount { source, target: shown, writable, idmap });
        self.need(Op::Attach { mount: self.mounts.len() - 1, target: target.into() });
    }

    fn root_folders(&mut self, host: &HostFacts) {
        for name in ["proc", "dev", "etc", "run", "run/clove", "var", "work", "tmp", "out", "checkpoint"] {
            self.folder(name, 0o755);
        }
        self.need(Op::Link { to: "/tmp".into(), path: "var/tmp".into() });
        self.need(Op::Link { to: "/run".into(), path: "var/run".into() });
        for s in &host.system {
            match s {
                SystemPath::Link(path, to) => {
                    self.need(Op::Link { to: to.clone(), path: path.trim_start_matches('/').into() });
                }
                SystemPath::Folder(path) => {
                    let name = path.trim_start_matches('/');
                    self.folder(name, 0o755);
                    self.attach(name, Source::Host { path: path.clone(), is_folder: true }, false, false);
                }
            }
        }
    }

    /// One tmpfs for everything the agent may write, so that one number bounds it.
    fn scratch(&mut self, policy: &CellPolicy) {
        let bytes = policy.limits.disk_bytes;
        let inodes = (bytes / 4096).clamp(1024, 1 << 20);
        self.need(Op::Tmpfs {
            target: "work".into(),
            options: format!("mode=755,size={bytes},nr_inodes={inodes}"),
        });
        for (name, _, mode) in SCRATCH {
            self.folder(&format!("work/{name}"), mode);
        }
        // Before it is covered by its own sub-folder.
        self.need(Op::OpenScratch { path: "work".into() });
        for (name, place, _) in SCRATCH.into_iter().rev() {
            self.need(Op::Bind {
                source: format!("work/{name}"),
                target: place.trim_start_matches('/').into(),
            });
        }
    }

    fn own_proc(&mut self, kind: CellKind) {
        // In a template's namespace are its agents too.
        self.need(Op::Proc { target: "proc".into(), hidden: kind == CellKind::Template });
        // Its own limit, in its own namespace: nobody inside can make a further user namespace. A template's agents have
        // theirs below its own.
        if kind == CellKind::Agent {
            self.try_for(
                "max_user_namespaces",
                Op::Setting { path: "proc/sys/user/max_user_namespaces".into(), value: "0".into() },
            );
        }
        self.need(Op::Bind { source: "proc/sys".into(), target: "proc/sys".into() });
        self.need(Op::ReadOnly { target: "proc/sys".into() });
        for name in ["kcore", "keys", "timer_list", "sysrq-trigger", "kmsg"] {
            self.try_for("", Op::Bind { source: "dev/null".into(), target: format!("proc/{name}") });
        }
    }

    fn small_files(&mut self, policy: &CellPolicy) {
        let hosts = format!("127.0.0.1 localhost {0}\n::1 localhost {0}\n", policy.label);
        self.need(Op::Write { path: "run/clove/hosts".into(), content: hosts });
        self.need(Op::Write { path: "run/clove/hostname".into(), content: format!("{}\n", policy.label) });
        for (path, content) in &policy.files {
            self.parents(path.trim_start_matches('/'));
            self.need(Op::Write { path: path.trim_start_matches('/').into(), content: content.clone() });
        }
    }

    /// The folders above `path`, which may be there already.
    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            if let Some(parent) = path.get(..at) {
                let op = Op::Folder { path: parent.into(), mode: 0o755 };
                if !self.ops.iter().any(|p| p.op == op) {
                    self.need(op);
                }
            }
        }
    }

    fn user_mount(&mut self, m: mounts::UserMount) {
        if let Some(to) = m.link {
            self.parents(&m.target);
            self.need(Op::Link { to, path: m.target });
            return;
        }
        if !m.inside_another {
            self.parents(&m.target);
            match m.is_folder {
                true => self.folder(&m.target, 0o755),
                false => self.need(Op::File { path: m.target.clone() }),
            }
        }
        let source = Source::Host { path: m.source, is_folder: m.is_folder };
        self.attach(&m.target, source, m.writable, true);
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::MakePrivate => write!(f, "make all mounts private"),
            Op::OwnCgroups => write!(f, "unshare the cgroup namespace"),
            Op::BecomeIds { uid, gid } => write!(f, "become uid {uid} gid {gid}"),
            Op::Tmpfs { target, options } => write!(f, "mount tmpfs on {target} ({options})"),
            Op::Enter { path } => write!(f, "enter {path}"),
            Op::Folder { path, mode } => write!(f, "make folder {path} ({mode:o})"),
            Op::File { path } => write!(f, "make file {path}"),
            Op::Link { to, path } => write!(f, "link {path} -> {to}"),
            Op::Write { path, content } => write!(f, "write {path} ({} bytes)", content.len()),
            Op::Attach { mount, target } => write!(f, "attach mount {mount} at {target}"),
            Op::Bind { source, target } => write!(f, "bind {source} to {target}"),
            Op::Proc { target, hidden: false } => write!(f, "mount proc on {target}"),
            Op::Proc { target, hidden: true } => write!(f, "mount proc on {target} (hidepid=invisible)"),
            Op::DevPts { target } => write!(f, "mount devpts on {target}"),
            Op::ReadOnly { target } => write!(f, "make {target} read-only"),
            Op::Setting { path, value } => write!(f, "set {path} = {value}"),
            Op::OpenScratch { path } => write!(f, "open the scratch folder {path}"),
            Op::Pivot => write!(f, "pivot_root"),
            Op::Loopback => write!(f, "raise lo"),
            Op::Hostname { name } => write!(f, "set host name {name}"),
            Op::Listen { path } => write!(f, "listen at {path}"),
            Op::Terminal { rows, columns } => write!(f, "open a terminal ({rows}x{columns})"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, m) in self.mounts.iter().enumerate() {
            let source = match &m.source {
                Source::Host { path, .. } => path.clone(),
                Source::Stage(name) => format!("<stage>/{name}"),
            };
            let mode = if m.writable { "rw" } else { "ro" };
            let idmap = if m.idmap { ",idmap" } else { "" };
            writeln!(f, "mount {i}: {source} -> {} ({mode}{idmap})", m.target)?;
        }
        for p in &self.ops {
            match &p.wall {
                None => writeln!(f, "{}", p.op)?,
                Some(_) => writeln!(f, "{} (optional)", p.op)?,
            }
        }
        if let Some((abi, rules)) = &self.landlock {
            writeln!(f, "landlock (ABI {abi})")?;
            for r in rules {
                writeln!(f, "  {} {}", if r.writable { "rw" } else { "ro" }, r.path)?;
            }
        }
        writeln!(f, "open files at most {}, no core files", self.nofile)?;
        let profile = self.profile.word();
        writeln!(f, "drop all capabilities, no_new_privs, seccomp ({profile}), enter {}", self.cwd)
    }
}
