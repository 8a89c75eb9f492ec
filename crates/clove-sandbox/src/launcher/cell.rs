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
    /// Its user namespace, in which its agents' are nested.
    pub user_namespace: Option<OwnedFd>,
    /// First host id of its range.
    pub first_id: u32,
    pub uids: TemplateUids,
    /// It has told that it is ready.
    pub ready: bool,
    /// It has told that it can't be, and the kernel knows.
    pub failed: bool,
    /// Fork requests that its socket didn't take yet.
    pub queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

#[derive(Debug)]
pub struct Warm {
    pub template: Token,
    /// Its id within the template's namespace.
    pub inner_id: u32,
    /// Syscall socket, standard output, standard error; until they have been handed over.
    pub fds: Vec<OwnedFd>,
    /// The helpers' socket, until they are done.
    pub helper: Option<OwnedFd>,
    /// The template has been asked for the embryo and hasn't answered.
    pub asked: bool,
    pub outcome: Option<OwnedFd>,
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
    pub scratch: Option<OwnedFd>,
    pub group: Option<Group>,
    pub oom: Option<OwnedFd>,
    pub out_of_memory: bool,
    pub missing_limits: Vec<String>,
    /// The program's or embryo's.
    pub status: Option<Status>,
    /// Of init, or of a template.
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

    /// Nothing of it runs any more, and nobody will hand over something of it.
    pub fn is_over(&self) -> bool {
        let quiet = match &self.kind {
            Kind::Warm(w) => w.embryo.is_none() && !w.asked && w.helper.is_none(),
            _ => true,
        };
        self.first.is_none() && quiet
    }

    pub fn is_agent(&self) -> bool {
        !matches!(self.kind, Kind::Template(_))
    }

    /// A child of the launcher with this pid is waited for by its pidfd.
    pub fn owns(&self, pid: i32) -> bool {
        let embryo = match &self.kind {
            Kind::Warm(w) => w.embryo.as_ref(),
            _ => None,
        };
        self.first.as_ref().is_some_and(|f| f.pid == pid) || embryo.is_some_and(|e| e.pid == pid)
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
