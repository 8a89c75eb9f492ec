//! What the launcher holds for one spawn.

use crate::cgroup::Group;
use crate::plan::Plan;
use crate::protocol::{CellPolicy, Status, Token};
use crate::uids::TemplateUids;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// A process that the launcher is the parent of.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// How far a cell has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The stub is building.
    Building,
    /// The walls stand; waits for `Start`.
    Ready,
    /// Told to start, or waiting for its embryo.
    Starting,
    Running,
}

/// Why a spawn has failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub stage: String,
    pub errno: i32,
    pub message: String,
    pub hint: String,
}

/// What is particular to one kind of cell.
#[derive(Debug)]
pub enum Kind {
    Cold { argv: Vec<String>, hold: bool },
    Template(Box<Template>),
    Warm(Box<Warm>),
}

#[derive(Debug)]
pub struct Template {
    pub argv: Vec<String>,
    pub control: Option<OwnedFd>,
    /// Its program, which isn't the first process of its cell.
    pub process: Option<Process>,
    /// Its end of the control socket, standard output, standard error; until the program has them.
    pub fds: Option<[OwnedFd; 3]>,
    /// Its user and PID namespace, in which its agents' are nested.
    pub home: Option<(OwnedFd, OwnedFd)>,
    /// When it has answered last, or was asked when it had nothing to answer.
    pub heard: std::time::Instant,
    /// First host id of its range.
    pub first_id: u32,
    pub uids: TemplateUids,
    /// It has told that it is ready.
    pub ready: bool,
    /// It has told that it can't be, and the kernel knows.
    pub failed: bool,
    /// What it has begun last, in its own words, and how often it has said such a thing.
    pub doing: String,
    pub told: u32,
    /// Fork requests that its socket didn't take yet.
    pub queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// A template that has ended. Its init holds the namespaces that its agents live in, and its ids are theirs.
#[derive(Debug)]
pub struct Retired {
    pub token: Token,
    pub first_id: u32,
    pub init: Option<Process>,
    /// The last of its agents has ended, so its init has been told to.
    pub is_ending: bool,
}

#[derive(Debug)]
pub struct Warm {
    pub template: Token,
    /// Its id within the template's namespace.
    pub inner_id: u32,
    /// Syscall socket, standard output, standard error; until they have been handed over.
    pub fds: Vec<OwnedFd>,
    /// The template has been asked for the embryo and hasn't answered.
    pub asked: bool,
    /// The embryo's report, and the way to let it go.
    pub outcome: Option<OwnedFd>,
    /// What its standard output, standard error, syscall socket and report are, as /proc tells it.
    pub given: Vec<String>,
    pub walls_stand: bool,
    pub embryo: Option<Process>,
}

pub struct Cell {
    pub token: Token,
    pub policy: CellPolicy,
    pub plan: Plan,
    pub kind: Kind,
    pub state: State,
    /// Host uid and gid of the agent.
    pub uid: u32,
    pub first: Option<Process>,
    /// PID 2 of a cold cell, which isn't the launcher's child: for signals.
    pub program: Option<OwnedFd>,
    pub setup: Option<OwnedFd>,
    /// The socket of helpers that make a process for it, until they are done.
    pub helper: Option<OwnedFd>,
    pub scratch: Option<OwnedFd>,
    pub group: Option<Group>,
    pub oom: Option<OwnedFd>,
    pub out_of_memory: bool,
    pub missing_limits: Vec<String>,
    /// The program's.
    pub status: Option<Status>,
    /// Of init.
    pub first_status: Option<Status>,
    pub failure: Option<Failure>,
    pub killed: bool,
}

impl Cell {
    pub fn new(token: Token, policy: CellPolicy, plan: Plan, kind: Kind, uid: u32) -> Cell {
        Cell {
            token,
            policy,
            plan,
            kind,
            state: State::Building,
            uid,
            first: None,
            program: None,
            setup: None,
            helper: None,
            scratch: None,
            group: None,
            oom: None,
            out_of_memory: false,
            missing_limits: Vec::new(),
            status: None,
            first_status: None,
            failure: None,
            killed: false,
        }
    }

    pub fn argv(&self) -> &[String] {
        match &self.kind {
            Kind::Cold { argv, .. } => argv,
            Kind::Template(t) => &t.argv,
            Kind::Warm(_) => &[],
        }
    }

    /// Nothing of it runs any more, and nobody will hand over something of it. (The init of a template that has ended
    /// stays for its agents' sake.)
    pub fn is_over(&self) -> bool {
        if self.helper.is_some() {
            return false;
        }
        match &self.kind {
            Kind::Cold { .. } => self.first.is_none(),
            Kind::Template(t) => t.process.is_none() && (self.status.is_some() || self.first.is_none()),
            Kind::Warm(w) => self.first.is_none() && w.embryo.is_none() && !w.asked,
        }
    }

    /// The process beside init that is the launcher's own child.
    pub fn beside_init(&self) -> Option<&Process> {
        match &self.kind {
            Kind::Cold { .. } => None,
            Kind::Template(t) => t.process.as_ref(),
            Kind::Warm(w) => w.embryo.as_ref(),
        }
    }

    pub fn is_agent(&self) -> bool {
        !matches!(self.kind, Kind::Template(_))
    }

    /// A child of the launcher with this pid is waited for by its pidfd.
    pub fn owns(&self, pid: i32) -> bool {
        [self.first.as_ref(), self.beside_init()].into_iter().flatten().any(|p| p.pid == pid)
    }

    pub fn warm(&mut self) -> Option<&mut Warm> {
        match &mut self.kind {
            Kind::Warm(w) => Some(w),
            _ => None,
        }
    }

    pub fn template(&mut self) -> Option<&mut Template> {
        match &mut self.kind {
            Kind::Template(t) => Some(t),
            _ => None,
        }
    }
}
