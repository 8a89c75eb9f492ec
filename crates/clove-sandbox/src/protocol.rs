//! What the kernel and its launcher say to each other over their socketpair.
//!
//! A message is a u32 little-endian length, a u32 count of descriptors and a JSON body; the descriptors ride on the
//! first byte (SCM_RIGHTS, unix(7)). Both ends trust each other: they are one program.

use clove_abi::certificate::Usage;
use clove_abi::limits::Limits;
use clove_abi::run::Mount;
use serde::{Deserialize, Serialize};

/// Names one spawn for its whole life; chosen by the kernel, never reused.
pub type Token = u64;

pub use clove_abi::run::Profile;

/// Everything that makes one cell (namespaces, root, limits) differ from another. Pure data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellPolicy {
    /// Host name inside, and part of the cgroup's name; `[a-z0-9-]`, at most 63 bytes.
    pub label: String,
    pub limits: Limits,
    /// The user's folders, the interpreter's prefix and the SDK. System folders are there anyway.
    pub mounts: Vec<Mount>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working folder inside; must exist there.
    pub cwd: String,
    #[serde(default)]
    pub profile: Profile,
    /// Give it a pseudo-terminal of its own (rows, columns) instead of pipes; the master is handed out.
    #[serde(default)]
    pub tty: Option<(u16, u16)>,
    /// Small files written (mode 0644, owned by the agent) before the program starts: path inside, content. Under
    /// /work, /tmp or /run/clove only.
    #[serde(default)]
    pub files: Vec<(String, String)>,
    /// Host uid that owns the user's files: mounts are idmapped from it to the agent's uid.
    pub operator_uid: u32,
    pub operator_gid: u32,
    /// Start although limits can't be enforced; they are named in `Spawned::missing_limits`.
    #[serde(default)]
    pub allow_degraded: bool,
}

/// From the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// A cold agent: cell, then the program as its second process. Descriptors: stdin, stdout, stderr (none with `tty`).
    /// With `hold` the program waits for `Start` after `CellReady`, so that the kernel can put files into the scratch folder.
    Spawn {
        token: Token,
        cell: CellPolicy,
        argv: Vec<String>,
        hold: bool,
    },
    /// A template: confined as a template is, runs `argv` (a Python template host) with its control socket as descriptor 3.
    /// Descriptors: stdout and stderr of the template. `cell.limits` bound the template itself.
    Template {
        token: Token,
        cell: CellPolicy,
        argv: Vec<String>,
    },
    /// A cell, and in it an embryo forked from the template. Descriptors: the agent's end of its syscall socket (its
    /// descriptor 3), stdout, stderr. stdin is /dev/null.
    Embryo {
        token: Token,
        template: Token,
        cell: CellPolicy,
    },
    Start {
        token: Token,
    },
    /// SIGKILL to the whole tree.
    Kill {
        token: Token,
    },
    /// A signal to the program (not to its children).
    Signal {
        token: Token,
        signal: i32,
    },
    SetLimits {
        token: Token,
        limits: Limits,
    },
    Freeze {
        token: Token,
    },
    Thaw {
        token: Token,
    },
    /// Current use, answered by `Usage`.
    Measure {
        token: Token,
    },
    /// Kill everything and leave. Also what the end of the socket means.
    Shutdown,
}

/// From the launcher.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first word: the launcher is set up, or why it can't be (then it has left).
    Hello {
        backend: String,
        refused: Option<String>,
    },
    /// The walls stand. Descriptors: the listening socket bound at /run/clove/kernel.sock inside, the scratch folder
    /// (O_PATH|O_DIRECTORY: its sub-folders are `work`, `tmp`, `shm`, `out`, `checkpoint`), and the pty master with `tty`.
    /// `uid` is the agent's host uid: what the kernel creates in the scratch folder is created as that uid.
    CellReady {
        token: Token,
        init_pid: u32,
        uid: u32,
        missing_walls: Vec<String>,
        missing_limits: Vec<String>,
    },
    /// The program runs (cold), or the embryo is verified from outside and waits (warm). `pid` is its host pid.
    Started {
        token: Token,
        pid: u32,
    },
    /// Nothing is left of it. `stage` is where it failed, in the words of the plan.
    SpawnFailed {
        token: Token,
        stage: String,
        errno: i32,
        message: String,
        hint: String,
    },
    /// The template has begun something, in its own words.
    TemplateDoing {
        token: Token,
        what: String,
    },
    /// The template has imported and set up everything.
    TemplateReady {
        token: Token,
        pid: u32,
        rss_bytes: u64,
        notes: Vec<String>,
    },
    /// The template can't be built: an exception's traceback, or what it holds that can't be forked.
    TemplateFailed {
        token: Token,
        message: String,
        traceback: String,
    },
    /// The whole tree is gone. For warm agents and templates too.
    Exited {
        token: Token,
        status: Status,
        usage: Usage,
    },
    Usage {
        token: Token,
        usage: Usage,
        memory_bytes: u64,
        pids: u64,
    },
}

/// How the program ended (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Code(i32),
    Signal(i32),
}
