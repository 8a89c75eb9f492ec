//! Agents from the shell's side: starting, handing over work, input, ends.

use super::cells::{self, Cell, Purpose, Stdin, StdinPiece};
use super::checkpoints;
use super::connection::{Bytes, Party, Who};
use super::harvest;
use super::logs::LogEvent;
use super::refusal::without_numbers;
use super::shell::Shell;
use clove_abi::calls::*;
use clove_abi::error::{ErrorCode, SysError};
use clove_abi::ids::{AgentId, ConnId, RunId, TaskIndex};
use clove_abi::run::{Program, RunKind, TaskState};
use clove_abi::table::Call;
use clove_kernel::core::json;
use clove_kernel::effect::ReplyTo;
use clove_kernel::input::ExitStatus;
use clove_kernel::{Event, Peer, Tail, retry};
use clove_sandbox::protocol::{self, Request, Status, Token};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Longest result file of a cold task: what a warm one's may be, too.
const MAX_RESULT: u64 = 8 << 20;
/// Bytes on their way to one program's standard input.
const MAX_STDIN: usize = 8 << 20;

/// What a driver brought back from an ended agent's folders.
struct Harvest {
    result: Option<Value>,
    result_error: Option<String>,
}

impl Shell {
    /// A new token and its cell.
    pub fn new_cell(&mut self, purpose: Purpose, agent: Option<AgentId>) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.cells.insert(token, Cell::new(purpose, agent));
        token
    }

    /// Sends the launcher a request; a launcher that can't be reached is noticed by the loop.
    pub fn ask_launcher(&mut self, request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) {
        if let Err(e) = self.link.send(request, fds) {
            say!("{e}");
        }
    }

    /// The core wants this agent to run.
    pub fn start_agent(&mut self, id: AgentId) {
        let Some(a) = self.core.state.agent(id) else { return };
        let warm = a.run.and_then(|r| self.core.state.runs.get(&r)).and_then(|r| match &r.spec.program {
            Program::Warm(t) => Some((r.id, t.clone())),
            Program::Cold { .. } => None,
        });
        match warm {
            Some((run, spec)) => self.start_warm(id, run, &spec),
            None => self.start_cold(id),
        }
    }

    fn start_cold(&mut self, id: AgentId) {
        let Some(a) = self.core.state.agent(id) else { return };
        let policy = cells::cold_policy(&self.core.state, a, self.owner);
        let (argv, tty, wants_stdin, limit) =
            (a.argv.clone(), a.tty.is_some(), a.stdin, a.limits.output_bytes);
        let checkpoint = self.checkpoint_folder(id).filter(|p| p.is_dir());
        let token = self.new_cell(Purpose::Cold, Some(id));
        self.by_agent.insert(id, token);
        let hold = checkpoint.is_some();
        let request = Request::Spawn { token, cell: policy, argv, hold };
        if tty {
            if let Some(c) = self.cells.get_mut(&token) {
                c.held = hold;
            }
            return self.ask_launcher(&request, &[]);
        }
        let pipes = (|| -> std::io::Result<_> {
            let (out_r, out_w) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err_r, err_w) = pipe_with(PipeFlags::CLOEXEC)?;
            let (in_r, in_w) = if wants_stdin {
                let (r, w) = pipe_with(PipeFlags::CLOEXEC)?;
                rustix::io::ioctl_fionbio(&w, true)?;
                (r, Some(w))
            } else {
                let null = rustix::fs::open(
                    "/dev/null",
                    rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )?;
                (null, None)
            };
            Ok((out_r, out_w, err_r, err_w, in_r, in_w))
        })();
        match pipes {
            Ok((out_r, out_w, err_r, err_w, in_r, in_w)) => {
                self.ask_launcher(&request, &[in_r.as_fd(), out_w.as_fd(), err_w.as_fd()]);
                let owner = self.log_owner(id);
                self.logs.add(&id.to_string(), out_r, Some(err_r), limit, owner);
                if let Some(c) = self.cells.get_mut(&token) {
                    c.held = hold;
                    c.stdin =
                        in_w.map(|fd| Stdin { fd, queue: VecDeque::new(), closing: false, is_tty: false });
                }
            }
            Err(e) => {
                self.cells.remove(&token);
                self.by_agent.remove(&id);
                self.raise(Event::SpawnFailed {
                    agent: id,
                    stage: "pipes".into(),
                    message: format!("the kernel has no descriptors left: {e}"),
                    hint: "raise the host's limit of open files (ulimit -n)".into(),
                    code: None,
                });
            }
        }
    }

    /// The task's durable checkpoint folder, for an agent of a sweep.
    fn checkpoint_folder(&self, id: AgentId) -> Option<PathBuf> {
        let a = self.core.state.agent(id)?;
        Some(self.run_folder(a.run?).join("checkpoint").join(a.task?.to_string()))
    }

    /// Word from the launcher.
    pub fn on_launcher_event(&mut self, event: protocol::Event, fds: Vec<OwnedFd>) {
        match event {
            protocol::Event::CellReady { token, init_pid: _, uid, missing_walls, missing_limits } => {
                self.on_cell_ready(token, uid, missing_walls, missing_limits, fds);
            }
            protocol::Event::Started { token, pid } => self.on_started(token, pid),
            protocol::Event::SpawnFailed { token, stage, errno, message, hint } => {
                self.on_spawn_failed(token, &stage, errno, &message, &hint);
            }
            protocol::Event::TemplateReady { token, pid, rss_bytes, notes } => {
                self.on_template_ready(token, pid, rss_bytes, &notes);
            }
            protocol::Event::TemplateFailed { token, message, traceback } => {
                if traceback.is_empty() {
                    self.fail_template_with_its_words(token, message);
                } else {
                    self.on_template_failed(token, &format!("{message}\n{}", traceback.trim_end()));
                }
            }
            protocol::Event::TemplateDoing { token, what } => self.on_template_doing(token, what),
            protocol::Event::Exited { token, status, usage } => self.on_exited(token, status, usage),
            protocol::Event::Usage { .. } | protocol::Event::Hello { .. } => {}
        }
    }

    fn on_cell_ready(
        &mut self,
        token: Token,
        uid: u32,
        missing_walls: Vec<String>,
        missing_limits: Vec<String>,
        fds: Vec<OwnedFd>,
    ) {
        let mut fds = fds.into_iter();
        let (listener, scratch, tty) = (fds.next(), fds.next(), fds.next());
        // Whoever waits there may have sent things already: who closes it may wait for them.
        let listener = listener.map(|fd| self.drivers.closers().connection(Party::Cell(token), fd));
        if let Some(door) = &listener {
            self.watch_agent_door(token, door.as_fd());
        }
        let Some(cell) = self.cells.get_mut(&token) else { return };
        cell.uid = uid;
        cell.missing_walls = missing_walls;
        cell.missing_limits = missing_limits;
        cell.listener = listener;
        cell.scratch = scratch;
        let agent = cell.agent;
        if let Some(master) = tty {
            let for_log = master.try_clone();
            let for_input = master.try_clone();
            if let Ok(fd) = for_input {
                let _ = rustix::io::ioctl_fionbio(&fd, true);
                cell.stdin = Some(Stdin { fd, queue: VecDeque::new(), closing: false, is_tty: true });
            }
            cell.tty = Some(master);
            if let (Ok(fd), Some(id)) = (for_log, agent)
                && let Some(a) = self.core.state.agent(id)
            {
                let owner = self.log_owner(id);
                self.logs.add(&id.to_string(), fd, None, a.limits.output_bytes, owner);
            }
        }
        let Some(cell) = self.cells.get(&token) else { return };
        if cell.purpose == Purpose::Cold
            && let Some(id) = agent
        {
            if cell.held {
                self.restore_checkpoint(token, id, move |shell| {
                    shell.ask_launcher(&Request::Start { token }, &[])
                });
            }
            self.keep_checkpoints(token, id);
        }
    }

    /// Puts the durable checkpoint into the agent's folder, then goes on.
    fn restore_checkpoint(
        &mut self,
        token: Token,
        id: AgentId,
        then: impl FnOnce(&mut Shell) + Send + 'static,
    ) {
        let folder = self.checkpoint_folder(id).filter(|p| p.is_dir());
        let cell = self.cells.get(&token);
        let scratch = cell.and_then(|c| c.scratch.as_ref()).and_then(|s| s.try_clone().ok());
        let uid = cell.map_or(0, |c| c.uid);
        let bounds = self.bounds(id);
        let run = self.core.state.agent(id).and_then(|a| a.run);
        let (Some(folder), Some(scratch), Some(run)) = (folder, scratch, run) else { return then(self) };
        self.drivers.run_for(
            run,
            move || {
                harvest::settle(&folder).map_err(|e| e.to_string())?;
                harvest::copy_in(&folder, scratch.as_fd(), "checkpoint", uid, &bounds)
                    .map_err(|e| e.to_string())
            },
            move |shell, done| {
                if let Err(e) = done {
                    say!("{id}: its checkpoint couldn't be put back: {e}");
                }
                then(shell);
            },
        );
    }

    /// Copies finished checkpoints to disk while the agent lives.
    fn keep_checkpoints(&mut self, token: Token, id: AgentId) {
        let Some(dest) = self.checkpoint_folder(id) else { return };
        let bounds = self.bounds(id);
        let scratch =
            self.cells.get(&token).and_then(|c| c.scratch.as_ref()).and_then(|s| s.try_clone().ok());
        if let Some(scratch) = scratch {
            self.checkpoints.watch(token, scratch, dest, bounds);
        }
    }

    fn bounds(&self, id: AgentId) -> harvest::Bounds {
        let bytes = self.core.state.agent(id).map_or(1 << 30, |a| a.limits.disk_bytes);
        harvest::Bounds { bytes, files: 100_000, depth: 32 }
    }

    fn on_started(&mut self, token: Token, pid: u32) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        cell.started = true;
        cell.pid = pid;
        match (&cell.purpose, cell.agent) {
            (Purpose::Cold, Some(agent)) => {
                let event = Event::Ready {
                    agent,
                    pid,
                    missing_walls: cell.missing_walls.clone(),
                    missing_limits: cell.missing_limits.clone(),
                };
                self.raise(event);
            }
            (Purpose::Embryo { template, pool }, None) => {
                let (template, pool) = (*template, pool.clone());
                self.embryo_ready(token, template, &pool);
            }
            _ => {}
        }
    }

    fn on_spawn_failed(&mut self, token: Token, stage: &str, errno: i32, message: &str, hint: &str) {
        let Some(cell) = self.cells.remove(&token) else { return };
        let code = (stage == "exec").then(|| clove_sandbox::exec_failure_code(errno));
        match (&cell.purpose, cell.agent) {
            (Purpose::Template, _) => {
                self.on_template_failed(token, &format!("{stage}: {message}"));
            }
            (Purpose::Embryo { template, pool }, None) => {
                let (template, pool) = (*template, pool.clone());
                self.embryo_failed(template, &pool, stage, message, hint);
            }
            (_, Some(agent)) => {
                self.by_agent.remove(&agent);
                self.logs.finish(&agent.to_string());
                self.raise(Event::SpawnFailed {
                    agent,
                    stage: stage.to_owned(),
                    message: message.to_owned(),
                    hint: hint.to_owned(),
                    code,
                });
            }
            (Purpose::Cold, None) => {}
        }
        self.drivers.discard(cell);
    }

    /// SIGKILL to the whole tree, or to what is still being made.
    pub fn kill_agent(&mut self, id: AgentId) {
        if let Some(&token) = self.by_agent.get(&id) {
            if let Some(c) = self.cells.get_mut(&token) {
                c.killed = true;
            }
            return self.ask_launcher(&Request::Kill { token }, &[]);
        }
        // It still waits for its template or an embryo: nothing of it exists.
        self.forget_waiting(id);
        self.raise(Event::SpawnFailed {
            agent: id,
            stage: "cancelled".into(),
            message: "it was ended before it was started".into(),
            hint: String::new(),
            code: None,
        });
    }

    /// A signal to the program.
    pub fn signal_agent(&mut self, id: AgentId, signal: i32) {
        if let Some(&token) = self.by_agent.get(&id) {
            self.ask_launcher(&Request::Signal { token, signal }, &[]);
        }
    }

    /// Kills every cell, templates too.
    pub fn end_all_cells(&mut self) {
        let tokens: Vec<Token> = self.cells.keys().copied().collect();
        for token in tokens {
            self.ask_launcher(&Request::Kill { token }, &[]);
        }
    }

    // --- handing over work

    /// `task.next`. True when it was taken care of here.
    pub fn on_task_next(&mut self, token: Token, conn: ConnId, to: ReplyTo) -> bool {
        let Some(cell) = self.cells.get_mut(&token) else { return false };
        if !matches!(cell.purpose, Purpose::Embryo { .. }) || cell.conn != Some(conn) {
            return false;
        }
        if cell.next_call.is_some() {
            self.fail(to, &SysError::new(ErrorCode::WrongState, "another task.next is waiting already"));
            return true;
        }
        cell.next_call = Some(to);
        if cell.agent.is_some() {
            self.hand_over(token);
        }
        true
    }

    /// Gives a ready embryo to an agent.
    pub fn activate(&mut self, token: Token, id: AgentId) {
        let limit = self.core.state.agent(id).map_or(1 << 20, |a| a.limits.output_bytes);
        let Some(cell) = self.cells.get_mut(&token) else { return };
        cell.agent = Some(id);
        self.by_agent.insert(id, token);
        if let Some((out, err)) = cell.output.take() {
            self.logs.add(&id.to_string(), out, err, limit, None);
        }
        let Some(cell) = self.cells.get(&token) else { return };
        let event = Event::Ready {
            agent: id,
            pid: cell.pid,
            missing_walls: cell.missing_walls.clone(),
            missing_limits: cell.missing_limits.clone(),
        };
        self.raise(event);
        self.prepare_and_hand_over(token, id);
    }

    /// A waiting worker has its next task.
    pub fn assign_worker(&mut self, id: AgentId) {
        if let Some(&token) = self.by_agent.get(&id) {
            self.prepare_and_hand_over(token, id);
        }
    }

    fn prepare_and_hand_over(&mut self, token: Token, id: AgentId) {
        if self.checkpoint_folder(id).is_some_and(|p| p.is_dir()) {
            if let Some(c) = self.cells.get_mut(&token) {
                c.held = true;
            }
            self.restore_checkpoint(token, id, move |shell| {
                if let Some(c) = shell.cells.get_mut(&token) {
                    c.held = false;
                }
                shell.hand_over(token);
            });
        } else {
            self.hand_over(token);
        }
        self.keep_checkpoints(token, id);
    }

    /// Answers the agent's `task.next`, once it has asked and nothing holds it.
    fn hand_over(&mut self, token: Token) {
        let Some(cell) = self.cells.get_mut(&token) else { return };
        if cell.held || cell.killed {
            return;
        }
        let (Some(to), Some(id)) = (cell.next_call, cell.agent) else { return };
        let state = &self.core.state;
        let Some(a) = state.agent(id) else { return };
        if a.idle {
            return;
        }
        let (Some(run), Some(index)) = (a.run.and_then(|r| state.runs.get(&r)), a.task) else { return };
        let Some(task) = run.tasks.get(&index) else { return };
        let seed = retry::task_seed(run.spec.seed, index);
        let mut env: std::collections::BTreeMap<String, String> = run.spec.env.clone();
        env.extend(cells::task_env(run, a, seed));
        env.insert("CLOVE_CWD".to_owned(), run.spec.cwd.clone().unwrap_or_else(|| "/work".to_owned()));
        let threads = cells::warm_threads(state, run, a.limits.cpu_milli, &mut env);
        let body = TaskNextReply {
            run: run.id,
            task: index,
            attempt: a.attempt,
            name: run.task_name(index),
            config: task.spec.config.clone(),
            seed,
            threads,
            env,
            mode: cells::task_mode(run).to_owned(),
            payload_blob: task.spec.payload_blob.clone(),
            reuse: a.tasks_given < run.spec.reuse,
        };
        let tail = self.opaque.get(task.payload.key).map(|b| Bytes::Shared(b.clone()));
        if task.payload.key != 0 {
            self.payload_keys.entry((run.id, index)).or_default().push(task.payload.key);
        }
        cell.next_call = None;
        let body = json(&body);
        self.reply_with(to, &body, tail);
    }

    /// `task.done`: its kept output first, then the core.
    pub fn on_task_done(&mut self, token: Token, to: ReplyTo, peer: Peer, call: Call, tail: Vec<u8>) {
        let Call::TaskDone(done) = &call else { return };
        let (run, task, attempt) = (done.run, done.task, done.attempt);
        let bytes = tail.len() as u64;
        // The numbers are the agent's own words: nothing is touched for a task that isn't its. The core says so.
        let its = self.cells.get(&token).and_then(|c| c.agent).and_then(|id| self.core.state.agent(id));
        if !its.is_some_and(|a| !a.idle && (a.run, a.task, a.attempt) == (Some(run), Some(task), attempt)) {
            let tail = Tail { bytes, key: 0 };
            let (conn, correlation) = (to.conn, to.correlation);
            return self.raise(Event::Call { conn, correlation, peer, call, tail });
        }
        let kind = self.core.state.runs.get(&run).map(|r| r.spec.kind);
        let wrong = match self.cells.get(&token) {
            Some(c) if c.handing_in => Some("its result is being taken in already"),
            _ if kind != Some(RunKind::Executor) && bytes > 0 => {
                Some("a sweep's results are JSON: nothing takes a tail")
            }
            _ => None,
        };
        if let Some(text) = wrong {
            return self.fail(to, &SysError::new(ErrorCode::WrongState, text));
        }
        let key = self.opaque.keep(tail);
        if key != 0 {
            self.payload_keys.entry((run, task)).or_default().push(key);
        }
        let event =
            Event::Call { conn: to.conn, correlation: to.correlation, peer, call, tail: Tail { bytes, key } };
        let scratch = self.cells.get(&token).and_then(|c| c.scratch.as_ref());
        let has_output = scratch.is_some_and(|s| !harvest::is_empty(s.as_fd(), "out"));
        if !has_output {
            self.checkpoints.unwatch(token);
            self.raise(event);
            return self.spend_checkpoint(run, task);
        }
        let agent = self.cells.get(&token).and_then(|c| c.agent);
        let bounds = agent.map(|a| self.bounds(a)).unwrap_or(harvest::Bounds {
            bytes: 1 << 30,
            files: 100_000,
            depth: 32,
        });
        let scratch = scratch.and_then(|s| s.try_clone().ok());
        let dest = self.out_folder(run, task, attempt);
        if let Some(cell) = self.cells.get_mut(&token) {
            cell.handing_in = true;
        }
        self.drivers.run_for(
            run,
            move || {
                if let Some(s) = scratch {
                    harvest::copy_out(s.as_fd(), "out", &dest, &bounds).map_err(|e| e.to_string())?;
                }
                Ok::<(), String>(())
            },
            move |shell, done| {
                if let Some(cell) = shell.cells.get_mut(&token) {
                    cell.handing_in = false;
                }
                match done {
                    Ok(()) => {
                        shell.checkpoints.unwatch(token);
                        shell.raise(event);
                        shell.spend_checkpoint(run, task);
                    }
                    // A sweep's task has failed then, and its record says why: with a result beside it, nobody would
                    // look for the files.
                    Err(e) if kind != Some(RunKind::Executor) => {
                        shell.checkpoints.unwatch(token);
                        shell.raise(without_result(event, not_kept(&e)));
                    }
                    Err(e) => {
                        let error = SysError::new(ErrorCode::BlobStore, not_kept(&e));
                        shell.fail(to, &error);
                    }
                }
            },
        );
    }

    /// Its result has been raised: the checkpoint has served its purpose once that is on the disk. Taken away before, a
    /// crash could leave neither.
    fn spend_checkpoint(&mut self, run: RunId, task: TaskIndex) {
        let folder = self.run_folder(run).join("checkpoint").join(task.to_string());
        self.syncer.once_durable(move |shell| {
            let task = shell.core.state.runs.get(&run).and_then(|r| r.tasks.get(&task));
            if task.is_some_and(|t| t.state == TaskState::Done) && folder.is_dir() {
                shell.drivers.run_for(run, move || harvest::discard(&folder), |_, ()| ());
            }
        });
    }

    fn out_folder(&self, run: RunId, task: TaskIndex, attempt: u32) -> PathBuf {
        self.run_folder(run).join("out").join(task.to_string()).join(attempt.to_string())
    }

    // --- ends

    fn on_exited(&mut self, token: Token, status: Status, mut usage: clove_abi::certificate::Usage) {
        // What it said last may still be in its socket: a result handed in just before the end counts.
        if let Some(conn) = self.cells.get(&token).and_then(|c| c.conn) {
            self.read_out(conn);
        }
        let Some(cell) = self.cells.remove(&token) else { return };
        self.checkpoints.unwatch(token);
        let status = match status {
            Status::Code(c) => ExitStatus::Code(c),
            Status::Signal(s) => ExitStatus::Signal(s),
        };
        match (&cell.purpose, cell.agent) {
            (Purpose::Template, _) => {
                self.template_exited(token, status);
                self.drivers.discard(cell);
            }
            (Purpose::Embryo { template, pool }, None) => {
                let (template, pool) = (*template, pool.clone());
                self.embryo_lost(token, template, &pool, cell.killed);
                self.drivers.discard(cell);
            }
            (_, Some(id)) => {
                self.by_agent.remove(&id);
                if let Some(s) = &cell.scratch {
                    usage.disk_full = usage.disk_full || is_full(s);
                }
                self.harvest_ended(id, status, usage, cell);
            }
            (Purpose::Cold, None) => self.drivers.discard(cell),
        }
    }

    /// Takes what an ended agent left behind, then its log's end, then tells the core.
    fn harvest_ended(
        &mut self,
        id: AgentId,
        status: ExitStatus,
        usage: clove_abi::certificate::Usage,
        cell: Cell,
    ) {
        let a = self.core.state.agent(id);
        let place = a.and_then(|a| Some((a.run?, a.task?, a.attempt)));
        let idle = a.is_none_or(|a| a.idle);
        let cold = cell.purpose == Purpose::Cold;
        // What can't be noted isn't kept either; and the folder may be gone.
        let lost = idle || self.broken.is_some();
        let (Some((run, task, attempt)), Some(scratch), false) = (place, cell.scratch.as_ref(), lost) else {
            self.drivers.discard(cell);
            return self.finish_log(id, status, usage, Harvest { result: None, result_error: None });
        };
        let bounds = self.bounds(id);
        let out = self.out_folder(run, task, attempt);
        let checkpoint = self.run_folder(run).join("checkpoint").join(task.to_string());
        let Ok(scratch) = scratch.try_clone() else {
            return self.finish_log(id, status, usage, Harvest { result: None, result_error: None });
        };
        self.drivers.run_for(
            run,
            move || {
                let s = scratch.as_fd();
                let kept = if harvest::is_empty(s, "out") {
                    Ok(())
                } else {
                    harvest::copy_out(s, "out", &out, &bounds).map(drop).map_err(|e| not_kept(&e.to_string()))
                };
                if let Err(why) = &kept {
                    say!("{id}: {why}");
                }
                // Killed in the middle of writing, it may have left half a checkpoint: then the last whole one stays.
                let killed = !matches!(status, ExitStatus::Code(_));
                if let Err(e) = checkpoints::last_copy(s, &checkpoint, &bounds, killed)
                    && e.kind != harvest::HarvestErrorKind::NotFound
                {
                    say!("{id}: its last checkpoint couldn't be kept: {e}");
                }
                let mut h = Harvest { result: None, result_error: None };
                if cold && status == ExitStatus::Code(0) {
                    match harvest::read_small(s, "work/result.json", MAX_RESULT) {
                        Ok(bytes) => match clove_abi::float::parse_lenient(&bytes) {
                            Ok(v) => h.result = Some(v),
                            Err(e) => h.result_error = Some(format!("$CLOVE_RESULT isn't JSON: {e}")),
                        },
                        Err(e) if e.kind == harvest::HarvestErrorKind::NotFound => {}
                        Err(e) if e.kind == harvest::HarvestErrorKind::TooLarge => {
                            h.result_error = Some(format!(
                                "$CLOVE_RESULT is larger than {} MiB; write the rest into files in $CLOVE_OUT",
                                MAX_RESULT >> 20
                            ));
                        }
                        Err(e) => h.result_error = Some(e.to_string()),
                    }
                }
                // A result without its files would be half of what the task made, and nobody would notice.
                if let (true, Err(why)) = (cold && status == ExitStatus::Code(0), kept) {
                    h = Harvest { result: None, result_error: Some(why) };
                }
                drop(scratch);
                drop(cell);
                h
            },
            move |shell, h| shell.finish_log(id, status, usage, h),
        );
    }

    fn finish_log(
        &mut self,
        id: AgentId,
        status: ExitStatus,
        usage: clove_abi::certificate::Usage,
        h: Harvest,
    ) {
        self.ending.insert(
            id.to_string(),
            Event::Exited {
                agent: id,
                status,
                usage,
                output_tail: String::new(),
                output_dropped: 0,
                result: h.result,
                result_error: h.result_error,
            },
        );
        self.logs.finish(&id.to_string());
    }

    /// Word from the log keeper.
    pub fn on_log(&mut self, e: LogEvent) {
        match e {
            LogEvent::Read { ticket, bytes, next, eof, dropped } => {
                if let Some(to) = self.tickets.remove(&ticket) {
                    self.reply_with(to, &json(&ProcLogsReply { next, eof, dropped }), [Bytes::Own(bytes)]);
                }
            }
            LogEvent::ReadFailed { ticket, message } => {
                if let Some(to) = self.tickets.remove(&ticket) {
                    self.fail(
                        to,
                        &SysError::new(ErrorCode::WrongState, format!("its output can't be read: {message}")),
                    );
                }
            }
            LogEvent::Finished { agent, tail, dropped } => {
                self.on_template_words(&agent, &tail);
                if let Some(Event::Exited { agent, status, usage, result, result_error, .. }) =
                    self.ending.remove(&agent)
                {
                    let a = self.core.state.agent(agent).filter(|a| !a.idle);
                    let working = a.and_then(|a| Some((a.run?, a.task?)));
                    self.raise(Event::Exited {
                        agent,
                        status,
                        usage,
                        output_tail: tail,
                        output_dropped: dropped,
                        result,
                        result_error,
                    });
                    if let Some((run, task)) = working {
                        self.spend_checkpoint(run, task);
                    }
                }
            }
        }
    }

    // --- standard input and terminals

    /// `proc.stdin`: answered when the program's pipe has taken it.
    pub fn write_stdin(&mut self, to: ReplyTo, id: AgentId, bytes: Vec<u8>, eof: bool) {
        let token = self.by_agent.get(&id).copied();
        let stdin = token.and_then(|t| self.cells.get_mut(&t)).and_then(|c| c.stdin.as_mut());
        let (Some(token), Some(stdin)) = (token, stdin) else {
            return self.fail(to, &SysError::new(ErrorCode::WrongState, "its standard input is closed"));
        };
        let queued: usize = stdin.queue.iter().map(|p| p.bytes.len() - p.sent).sum();
        if queued + bytes.len() > MAX_STDIN {
            return self.fail(to, &SysError::new(ErrorCode::Full, "its standard input is full"));
        }
        stdin.queue.push_back(StdinPiece { bytes, sent: 0, to });
        stdin.closing |= eof;
        self.feed_stdin(token);
    }

    /// Writes as much as the pipe takes.
    pub fn feed_stdin(&mut self, token: Token) {
        let mut answers = Vec::new();
        let mut blocked = false;
        let mut done = false;
        if let Some(cell) = self.cells.get_mut(&token)
            && let Some(stdin) = cell.stdin.as_mut()
        {
            while let Some(piece) = stdin.queue.front_mut() {
                if piece.sent == piece.bytes.len() {
                    answers.push((piece.to, None));
                    stdin.queue.pop_front();
                    continue;
                }
                match rustix::io::write(&stdin.fd, &piece.bytes[piece.sent..]) {
                    Ok(n) => piece.sent += n,
                    Err(Errno::AGAIN) => {
                        blocked = true;
                        break;
                    }
                    Err(Errno::INTR) => {}
                    Err(e) => {
                        answers.push((piece.to, Some(e)));
                        stdin.queue.pop_front();
                    }
                }
            }
            done = stdin.closing && stdin.queue.is_empty();
            if done && stdin.is_tty {
                // End of input on a terminal is ^D (termios(3), VEOF).
                let _ = rustix::io::write(&stdin.fd, &[4]);
            }
        }
        if blocked
            && let Some(cell) = self.cells.get_mut(&token)
            && let Some(stdin) = cell.stdin.take()
        {
            self.watch_stdin(token, &stdin.fd);
            if let Some(cell) = self.cells.get_mut(&token) {
                cell.stdin = Some(stdin);
            }
        }
        if done && let Some(cell) = self.cells.get_mut(&token) {
            cell.stdin = None;
        }
        for (to, error) in answers {
            match error {
                None => self.reply(to, &json(&ProcStdinReply {})),
                Some(e) => {
                    let text = format!("its standard input took nothing more: {e}");
                    self.fail(to, &SysError::new(ErrorCode::WrongState, text));
                }
            }
        }
    }

    /// `proc.resize`.
    pub fn resize(&mut self, to: ReplyTo, id: AgentId, rows: u16, columns: u16) {
        let token = self.by_agent.get(&id).copied();
        let Some(tty) = token.and_then(|t| self.cells.get(&t)).and_then(|c| c.tty.as_ref()) else {
            return self.fail(to, &SysError::new(ErrorCode::WrongState, "it has no terminal"));
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        match rustix::termios::tcsetwinsize(tty, size) {
            Ok(()) => self.reply(to, &json(&ProcResizeReply {})),
            Err(e) => self.fail(to, &SysError::new(ErrorCode::WrongState, format!("its terminal: {e}"))),
        }
    }

    /// A socket pair for an embryo: ours is watched, the agent's end is returned.
    pub fn embryo_socket(&mut self, token: Token) -> std::io::Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let conn = self
            .add_connection(ours, Who::Cell(token))
            .ok_or_else(|| std::io::Error::other("the socket can't be watched"))?;
        if let Some(c) = self.cells.get_mut(&token) {
            c.conn = Some(conn);
            c.connections += 1;
        }
        Ok(theirs)
    }
}

/// Less than a page, or no inode, is left in the scratch folder.
fn not_kept(why: &str) -> String {
    format!("what it wrote to $CLOVE_OUT can't be kept: {}", without_numbers(why))
}

/// `task.done` as it is when the task has failed.
fn without_result(mut event: Event, why: String) -> Event {
    if let Event::Call { call: Call::TaskDone(done), .. } = &mut event {
        done.result = None;
        // What the task itself raised goes first.
        done.exception.get_or_insert(ExceptionText {
            class: "cloveos.NotKept".into(),
            message: why,
            traceback: String::new(),
        });
    }
    event
}

fn is_full(scratch: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(scratch).is_ok_and(|s| s.f_bfree == 0 || (s.f_files > 0 && s.f_ffree == 0))
}
