//! The launcher: one single-threaded loop that makes cells, watches them, and tells the kernel.

mod cell;
mod cold;
mod end;
mod failures;
mod ground;
mod poller;
mod requests;
mod setup;
mod template;
mod verify;
mod warm;

use crate::cgroup::{self, Group};
use crate::host::HostFacts;
use crate::idmap::Idmaps;
use crate::link::LauncherLink;
use crate::protocol::{Event, Profile, Token};
use crate::seccomp;
use crate::stage::Stage;
use crate::uids::Uids;
use cell::{Cell, Retired};
use clove_sys::clone::{self, SingleThreaded};
use clove_sys::seccomp::Instruction;
use poller::{Poller, Source};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The namespaces of an agent's cell that clone3 makes. The cgroup namespace is unshared by the stub itself, once it is
/// in the cgroups that shall be its root.
const NAMESPACES: u64 =
    clone::NEWUSER | clone::NEWNS | clone::NEWPID | clone::NEWNET | clone::NEWIPC | clone::NEWUTS;

/// What the launcher must know of its kernel.
#[derive(Clone, Debug)]
pub struct LauncherConfig {
    /// The kernel's data directory; names the cgroups.
    pub data_dir: PathBuf,
    /// Folders that no agent may see, nor anything that contains them. The data directory is always one of them.
    pub protected: Vec<PathBuf>,
}

/// The launcher couldn't be set up.
#[derive(Debug, thiserror::Error)]
#[error("the launcher can't {what}: {source}")]
pub struct LauncherError {
    pub what: &'static str,
    #[source]
    pub source: io::Error,
}

/// A template that is silent for so long has stopped, and so has an embryo that doesn't report. A fork takes milliseconds;
/// on a host that is out of breath, seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Forks the launcher off; call it before the process has any thread. Gives the launcher's pid and the kernel's end of
/// the socket. The launcher leaves when that end is closed.
pub fn fork_launcher(config: LauncherConfig) -> io::Result<(i32, crate::Link)> {
    fork_launcher_with(config, PATIENCE)
}

/// `fork_launcher` with another patience for templates and embryos; for tests.
#[doc(hidden)]
pub fn fork_launcher_with(config: LauncherConfig, patience: Duration) -> io::Result<(i32, crate::Link)> {
    let (ours, theirs) = crate::link::pair()?;
    let mut theirs = Some(theirs);
    let pid = clove_sys::launcher_fork::fork_launcher(|| match theirs.take() {
        Some(socket) => {
            clove_sys::launcher_fork::close_all_but(std::os::fd::AsRawFd::as_raw_fd(&socket));
            run(socket, &config, patience)
        }
        None => 1,
    })?;
    Ok((pid, crate::Link::new(ours)?))
}

/// The launcher's whole life; the result is its exit code.
fn run(socket: OwnedFd, config: &LauncherConfig, patience: Duration) -> i32 {
    // For the last word, should the set-up fail.
    let spare = socket.try_clone();
    match Launcher::set_up(socket, config, patience) {
        Ok(mut launcher) => {
            let backend = launcher.cgroups.name().to_owned();
            launcher.tell(&Event::Hello { backend, refused: None }, &[]);
            launcher.serve()
        }
        Err(e) => {
            if let Ok(mut link) = spare.and_then(LauncherLink::new) {
                let refused = Some(e.to_string());
                // A kernel that is gone needs no reason.
                let _ = link.send(&Event::Hello { backend: String::new(), refused }, &[]);
            }
            1
        }
    }
}

/// The agents' filters, compiled once.
struct Filters {
    default: Vec<Instruction>,
    strict: Vec<Instruction>,
}

impl Filters {
    fn of(&self, profile: Profile) -> Vec<Instruction> {
        match profile {
            Profile::Default => self.default.clone(),
            Profile::Strict => self.strict.clone(),
        }
    }
}

pub(crate) struct Launcher {
    link: LauncherLink,
    poller: Poller,
    proof: SingleThreaded,
    host: HostFacts,
    stage: Stage,
    idmaps: Idmaps,
    uids: Uids,
    cells: BTreeMap<Token, Cell>,
    cgroups: Box<dyn cgroup::Backend>,
    /// What agents of each profile get.
    filters: Filters,
    /// Groups whose processes have ended, but which couldn't be removed yet.
    removals: Vec<Group>,
    /// Cells whose end has been begun.
    ending: BTreeSet<Token>,
    /// When groups and strays are looked after next, though nothing happens.
    sweep_wait: Option<Duration>,
    /// Children without a pidfd of ours that may have to be reaped.
    strays: u32,
    /// What templates that have ended leave for the time of their last agent.
    retired: Vec<Retired>,
    /// Templates that have lost their control socket, and when they are ended.
    late: Vec<(Instant, Token)>,
    /// Embryos that were asked for, and when they have to be there.
    expected: VecDeque<(Instant, Token)>,
    patience: Duration,
    /// /dev/null, for a stdin that nobody gives.
    null: OwnedFd,
    leaving: bool,
}

/// Tells the operator, in the kernel's log. On a full disk that fails, and `eprintln!` would panic: everything that the
/// launcher holds would die of it.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(format!("clove launcher: {text}\n").as_bytes());
}

impl Launcher {
    fn set_up(
        socket: OwnedFd,
        config: &LauncherConfig,
        patience: Duration,
    ) -> Result<Launcher, LauncherError> {
        let failed = |what: &'static str| move |source: io::Error| LauncherError { what, source };
        let errno = |what: &'static str| move |e: rustix::io::Errno| LauncherError { what, source: e.into() };
        let proof = SingleThreaded::prove()
            .ok_or_else(|| failed("run with several threads")(io::ErrorKind::Unsupported.into()))?;
        clove_sys::launcher_fork::settle().map_err(errno("settle in"))?;
        let null = clove_sys::launcher_fork::occupy_low_descriptors().map_err(errno("open /dev/null"))?;
        clove_sys::mounts::private_mounts().map_err(errno("have its own mount namespace (it needs root)"))?;
        let stage = Stage::build().map_err(failed("build /dev and /etc for agents"))?;
        let uids = Uids::claim().map_err(failed("claim a range of uids"))?;
        let link = LauncherLink::new(socket).map_err(failed("use its socket"))?;
        let mut poller = Poller::new().map_err(failed("make an epoll descriptor"))?;
        poller.add(&link, Source::Kernel).map_err(failed("watch its socket"))?;
        let mut protected = config.protected.clone();
        protected.push(config.data_dir.clone());
        let mut launcher = Launcher {
            link,
            poller,
            proof,
            host: HostFacts::gather(&protected),
            stage,
            idmaps: Idmaps::default(),
            uids,
            cells: BTreeMap::new(),
            cgroups: cgroup::probe(&config.data_dir),
            filters: Filters {
                default: seccomp::agent_filter(Profile::Default),
                strict: seccomp::agent_filter(Profile::Strict),
            },
            removals: Vec::new(),
            ending: BTreeSet::new(),
            sweep_wait: None,
            strays: 0,
            retired: Vec::new(),
            late: Vec::new(),
            expected: VecDeque::new(),
            patience,
            null,
            leaving: false,
        };
        launcher.clear_stale_groups();
        Ok(launcher)
    }

    fn serve(&mut self) -> i32 {
        loop {
            let (late, expected) = (self.end_late_templates(), self.end_overdue_embryos());
            let at_most = [late, expected, self.sweep_wait].into_iter().flatten().min();
            let sources = match self.poller.wait(self.link.wants_write(), &self.link, at_most) {
                Ok(sources) => sources,
                Err(e) => {
                    say(&format!("epoll_wait failed: {e}"));
                    self.kill_everything();
                    return 1;
                }
            };
            for source in sources {
                self.handle(source);
            }
            self.sweep();
            if self.link.flush().is_err() {
                self.leaving = true;
            }
            if self.leaving {
                self.kill_everything();
                return 0;
            }
        }
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Kernel => self.handle_kernel(),
            Source::Setup(token) => self.handle_setup(token),
            Source::First(token) => self.handle_first_ended(token),
            Source::Beside(token) => self.handle_beside_ended(token),
            Source::Helper(token) => self.handle_helper(token),
            Source::Control(token) => self.handle_control(token),
            Source::Outcome(token) => self.handle_outcome(token),
            Source::Oom(token) => self.handle_oom(token),
        }
    }

    /// What a launcher of this directory that was killed has left behind.
    fn clear_stale_groups(&mut self) {
        self.removals = self.cgroups.groups();
        self.retry_removals();
    }

    fn handle_kernel(&mut self) {
        match self.link.recv() {
            Ok(messages) => {
                for (request, fds) in messages {
                    self.request(request, fds);
                }
            }
            Err(e) => {
                say(&e.to_string());
                self.leaving = true;
            }
        }
        // What was sent before the end of the socket has been seen, but its end means leaving.
        if self.link.is_closed() {
            self.leaving = true;
        }
    }

    fn tell(&mut self, event: &Event, fds: &[BorrowedFd<'_>]) {
        if self.link.send(event, fds).is_err() {
            self.leaving = true;
        }
    }
}
