//! Templates and their pools of embryos: what is loaded once, and what stands ready.

use super::cells::{self, Purpose};
use super::shell::Shell;
use clove_abi::calls::{TemplateInfo, TemplateListReply};
use clove_abi::ids::{AgentId, RunId};
use clove_abi::run::{RunKind, RunState, TemplateSpec};
use clove_kernel::core::json;
use clove_kernel::effect::ReplyTo;
use clove_kernel::input::ExitStatus;
use clove_kernel::{Event, scheduler};
use clove_manifest::units::Elapsed;
use clove_sandbox::protocol::{Request, Token};
use rustix::pipe::{PipeFlags, pipe_with};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::AsFd;

/// A template that isn't ready after this long hangs, unless its spec allows it more.
const BUILD_DEADLINE_MS: u64 = 10 * 60_000;
/// A ready template without a run is kept this long for the next one.
const KEPT_MS: u64 = 60_000;
/// So often in a row a template that was ready, and has ended before it gave anybody an embryo, is built anew.
const MOST_REBUILDS: u32 = 3;
/// Embryos that may stand ready in one pool.
const MAX_READY: usize = 64;

/// Where a template stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Building { deadline_ms: u64 },
    Ready,
    Failed(String),
}

/// Embryos with one isolation plan.
#[derive(Default)]
pub struct Pool {
    ready: VecDeque<Token>,
    making: usize,
    waiting: VecDeque<AgentId>,
}

/// One template.
pub struct Template {
    key: String,
    spec: TemplateSpec,
    stage: Stage,
    began_ms: u64,
    /// What it has begun last, in its own words.
    doing: String,
    /// Why it fails, while its last words are fetched.
    failing: Option<String>,
    pid: u32,
    rss_bytes: u64,
    runs: BTreeSet<RunId>,
    pools: BTreeMap<String, Pool>,
    waiting: VecDeque<AgentId>,
    forked: u64,
    /// How many before it ended after they were ready, since one last gave somebody an embryo.
    lost_before: u32,
    /// Since when no run uses it.
    unused_since_ms: Option<u64>,
}

/// What makes two runs share a template: everything that its process or its agents' shared part depends on.
fn template_key(policy: &clove_sandbox::protocol::CellPolicy, spec: &TemplateSpec) -> String {
    let mut p = policy.clone();
    p.label.clear();
    let mut h = Sha256::new();
    h.update(serde_json::to_vec(&p).unwrap_or_default());
    h.update(serde_json::to_vec(spec).unwrap_or_default());
    h.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

impl Shell {
    /// A warm agent needs an embryo.
    pub fn start_warm(&mut self, id: AgentId, run: RunId, spec: &TemplateSpec) {
        let sdk = match &self.sdk {
            Ok(s) => s.clone(),
            Err(e) => {
                let message = e.to_string();
                return self.raise(Event::TemplateFailed { run, message });
            }
        };
        let Some(r) = self.core.state.runs.get(&run) else { return };
        let policy = cells::template_policy(&self.core.state, r, spec, &sdk, self.owner);
        let key = template_key(&policy, spec);
        let existing = self.templates.iter().find(|(_, t)| t.key == key).map(|(token, _)| *token);
        let token = match existing {
            Some(t) => t,
            None => match self.build_template(policy, spec, key) {
                Ok(t) => t,
                Err(message) => return self.raise(Event::TemplateFailed { run, message }),
            },
        };
        let Some(t) = self.templates.get_mut(&token) else { return };
        t.runs.insert(run);
        t.unused_since_ms = None;
        match &t.stage {
            Stage::Failed(message) => {
                let message = message.clone();
                self.raise(Event::TemplateFailed { run, message });
            }
            Stage::Building { .. } => t.waiting.push_back(id),
            Stage::Ready => self.give_embryo(token, id),
        }
    }

    fn build_template(
        &mut self,
        policy: clove_sandbox::protocol::CellPolicy,
        spec: &TemplateSpec,
        key: String,
    ) -> Result<Token, String> {
        if self.sdk.as_ref().is_ok_and(|s| !s.is_current()) {
            return Err(
                "CloveOS was rebuilt or upgraded while this kernel ran, and its library no longer fits the \
                        kernel: end it with `clove stop`, then run the command again"
                    .to_owned(),
            );
        }
        let pipes = pipe_with(PipeFlags::CLOEXEC).and_then(|a| pipe_with(PipeFlags::CLOEXEC).map(|b| (a, b)));
        let ((out_r, out_w), (err_r, err_w)) = pipes.map_err(|e| format!("no descriptors are left: {e}"))?;
        let token = self.new_cell(Purpose::Template, None);
        // Generation 0 is never an agent's: the template's own output is kept under this name.
        self.logs.add(&template_log(token), out_r, Some(err_r), 1 << 20, None);
        let argv = vec![spec.python.clone(), "-m".to_owned(), "cloveos._template".to_owned()];
        let request = Request::Template { token, cell: policy, argv };
        self.ask_launcher(&request, &[out_w.as_fd(), err_w.as_fd()]);
        let began_ms = self.mono_ms();
        let deadline_ms = began_ms.saturating_add(spec.load_ms.unwrap_or(BUILD_DEADLINE_MS));
        self.templates.insert(
            token,
            Template {
                key,
                spec: spec.clone(),
                stage: Stage::Building { deadline_ms },
                began_ms,
                doing: String::new(),
                failing: None,
                pid: 0,
                rss_bytes: 0,
                runs: BTreeSet::new(),
                pools: BTreeMap::new(),
                waiting: VecDeque::new(),
                forked: 0,
                lost_before: 0,
                unused_since_ms: None,
            },
        );
        Ok(token)
    }

    /// The launcher says that everything is imported.
    pub fn on_template_ready(&mut self, token: Token, pid: u32, rss_bytes: u64, notes: &[String]) {
        for n in notes {
            say!("template {token}: {n}");
        }
        let Some(t) = self.templates.get_mut(&token) else { return };
        t.stage = Stage::Ready;
        t.pid = pid;
        t.rss_bytes = rss_bytes;
        for id in std::mem::take(&mut t.waiting) {
            self.give_embryo(token, id);
        }
    }

    /// It has begun the next thing.
    pub fn on_template_doing(&mut self, token: Token, what: String) {
        if let Some(t) = self.templates.get_mut(&token) {
            t.doing = what;
        }
    }

    /// It can't be built, and no traceback says where: what it printed last may (a crash leaves its stack there).
    pub fn fail_template_with_its_words(&mut self, token: Token, message: String) {
        if let Some(t) = self.templates.get_mut(&token) {
            t.failing.get_or_insert(message);
            self.logs.finish(&template_log(token));
        }
    }

    /// The last words of somebody; of a template that fails, perhaps.
    pub fn on_template_words(&mut self, log: &str, words: &str) {
        let Some((&token, t)) = self.templates.iter_mut().find(|(token, _)| template_log(**token) == log)
        else {
            return;
        };
        if let Some(message) = t.failing.take() {
            let message = with_words(&message, words);
            self.on_template_failed(token, &message);
        }
    }

    /// It can't be built: every run that needs it fails, with the reason.
    pub fn on_template_failed(&mut self, token: Token, message: &str) {
        let Some(t) = self.templates.get_mut(&token) else { return };
        if matches!(t.stage, Stage::Failed(_)) {
            return;
        }
        t.stage = Stage::Failed(message.to_owned());
        let runs: Vec<RunId> = t.runs.iter().copied().collect();
        for run in runs {
            self.raise(Event::TemplateFailed { run, message: message.to_owned() });
        }
        self.ask_launcher(&Request::Kill { token }, &[]);
        // The next run may have mended what was wrong.
        self.templates.remove(&token);
    }

    /// The template's process is gone.
    pub fn template_exited(&mut self, token: Token, status: ExitStatus) {
        let Some(t) = self.templates.get(&token) else {
            self.logs.finish(&template_log(token));
            self.logs.forget(&template_log(token));
            return;
        };
        let wanted =
            t.runs.iter().any(|r| self.core.state.runs.get(r).is_some_and(|r| r.state == RunState::Active));
        let building = matches!(t.stage, Stage::Building { .. });
        if !wanted && !building {
            self.templates.remove(&token);
            return;
        }
        // All are ended when the kernel leaves.
        if t.failing.is_some() || self.stopping.is_some() {
            return;
        }
        let how = match status {
            ExitStatus::Code(c) => format!("exited with code {c}"),
            ExitStatus::Signal(s) => format!("was ended by {}", clove_kernel::judge::signal_name(s)),
        };
        let when = if building { "while it was loading" } else { "after it was ready" };
        if !building && t.lost_before < MOST_REBUILDS {
            say!("a template process {how} {when}; it is built anew for the next agent");
            self.rebuild_template(token);
        } else {
            self.on_template_failed(token, &format!("the template process {how} {when}"));
        }
        self.logs.finish(&template_log(token));
    }

    /// What it had loaded can be loaded again: whoever waits for it waits for the next one.
    fn rebuild_template(&mut self, token: Token) {
        let Some(mut t) = self.templates.remove(&token) else { return };
        let mut waiting = std::mem::take(&mut t.waiting);
        for pool in t.pools.values_mut() {
            waiting.append(&mut pool.waiting);
            for embryo in pool.ready.drain(..) {
                if let Some(c) = self.cells.get_mut(&embryo) {
                    c.killed = true;
                }
                self.ask_launcher(&Request::Kill { token: embryo }, &[]);
            }
        }
        for id in waiting {
            self.start_agent(id);
        }
        if let Some(next) = self.templates.values_mut().find(|n| n.key == t.key) {
            next.lost_before = t.lost_before + 1;
        }
    }

    /// A ready embryo for the agent, or the agent for the next one that is.
    fn give_embryo(&mut self, template: Token, id: AgentId) {
        let Some(a) = self.core.state.agent(id) else { return };
        if a.ending.is_some() || a.state == clove_abi::calls::AgentState::Ended {
            return;
        }
        let Some(run) = a.run.and_then(|r| self.core.state.runs.get(&r)) else { return };
        let Ok(sdk) = self.sdk.clone() else { return };
        let policy = cells::embryo_policy(run, &a.limits, &sdk, self.owner);
        let key = pool_key(&policy);
        let run_id = run.id;
        let Some(t) = self.templates.get_mut(&template) else { return };
        let pool = t.pools.entry(key.clone()).or_default();
        let taken = pool.ready.pop_front();
        if taken.is_none() {
            pool.waiting.push_back(id);
        }
        if let Some(token) = taken {
            t.lost_before = 0;
            self.activate(token, id);
        }
        self.fill_pool(template, &key, &policy, run_id);
    }

    /// Keeps as many embryos ready, or on their way, as the run can take soon.
    fn fill_pool(
        &mut self,
        template: Token,
        key: &str,
        policy: &clove_sandbox::protocol::CellPolicy,
        run: RunId,
    ) {
        let Some(r) = self.core.state.runs.get(&run) else { return };
        let jobs = r.jobs(self.core.state.cpus) as usize;
        let soon = match r.ready.first() {
            // Only when the next task fits this pool: one with limits of its own gets a fork of its own.
            Some(&(_, next)) if scheduler::task_limits(&self.core.state, r, next) == policy.limits => {
                r.ready.len()
            }
            Some(_) => 0,
            // An open session may be given a call at any moment.
            None if r.spec.kind == RunKind::Executor && !r.closed => jobs,
            None => 0,
        };
        let ahead = if r.spec.reuse > 1 { 0 } else { soon.min(jobs).min(MAX_READY) };
        let Some(pool) = self.templates.get_mut(&template).and_then(|t| t.pools.get_mut(key)) else { return };
        let wanted = pool.waiting.len() + ahead;
        let have = pool.ready.len() + pool.making;
        let make = wanted.saturating_sub(have);
        pool.making += make;
        for _ in 0..make {
            if let Err(why) = self.make_embryo(template, key, policy) {
                self.embryo_failed(
                    template,
                    key,
                    "descriptors",
                    &why,
                    "raise the host's limit of open files (ulimit -n)",
                );
            }
        }
    }

    fn make_embryo(
        &mut self,
        template: Token,
        key: &str,
        policy: &clove_sandbox::protocol::CellPolicy,
    ) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| format!("no descriptors are left: {e}");
        let (out_r, out_w) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| text(&e))?;
        let (err_r, err_w) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| text(&e))?;
        let token = self.new_cell(Purpose::Embryo { template, pool: key.to_owned() }, None);
        let theirs = match self.embryo_socket(token) {
            Ok(s) => s,
            Err(e) => {
                self.cells.remove(&token);
                return Err(text(&e));
            }
        };
        if let Some(c) = self.cells.get_mut(&token) {
            c.output = Some((out_r, Some(err_r)));
        }
        let request = Request::Embryo { token, template, cell: policy.clone() };
        self.ask_launcher(&request, &[theirs.as_fd(), out_w.as_fd(), err_w.as_fd()]);
        if let Some(t) = self.templates.get_mut(&template) {
            t.forked += 1;
        }
        Ok(())
    }

    /// The launcher has verified it.
    pub fn embryo_ready(&mut self, token: Token, template: Token, key: &str) {
        let Some(t) = self.templates.get_mut(&template) else {
            return self.ask_launcher(&Request::Kill { token }, &[]);
        };
        t.lost_before = 0;
        let Some(pool) = t.pools.get_mut(key) else {
            return self.ask_launcher(&Request::Kill { token }, &[]);
        };
        pool.making = pool.making.saturating_sub(1);
        while let Some(id) = pool.waiting.pop_front() {
            let wanted = self
                .core
                .state
                .agent(id)
                .is_some_and(|a| a.ending.is_none() && a.state != clove_abi::calls::AgentState::Ended);
            if wanted {
                return self.activate(token, id);
            }
        }
        pool.ready.push_back(token);
    }

    /// It couldn't be made: whoever waits longest learns why.
    pub fn embryo_failed(&mut self, template: Token, key: &str, stage: &str, message: &str, hint: &str) {
        let Some(pool) = self.templates.get_mut(&template).and_then(|t| t.pools.get_mut(key)) else { return };
        pool.making = pool.making.saturating_sub(1);
        if let Some(agent) = pool.waiting.pop_front() {
            self.raise(Event::SpawnFailed {
                agent,
                stage: stage.to_owned(),
                message: message.to_owned(),
                hint: hint.to_owned(),
                code: None,
            });
        }
    }

    /// An embryo ended before it was given to anybody.
    pub fn embryo_lost(&mut self, token: Token, template: Token, key: &str, asked_for: bool) {
        let Some(pool) = self.templates.get_mut(&template).and_then(|t| t.pools.get_mut(key)) else { return };
        let was_ready = pool.ready.len();
        pool.ready.retain(|t| *t != token);
        if pool.ready.len() == was_ready && !asked_for {
            self.embryo_failed(
                template,
                key,
                "embryo",
                "it ended before it was given a task",
                "clove doctor",
            );
        }
    }

    /// An agent that waits for an embryo isn't wanted any more.
    pub fn forget_waiting(&mut self, id: AgentId) {
        for t in self.templates.values_mut() {
            t.waiting.retain(|a| *a != id);
            for p in t.pools.values_mut() {
                p.waiting.retain(|a| *a != id);
            }
        }
    }

    /// The run is over: its embryos go, its template stays for a while.
    pub fn release_templates(&mut self, run: RunId) {
        let now = self.mono_ms();
        let mut kill = Vec::new();
        for (token, t) in &mut self.templates {
            if t.runs.remove(&run) && t.runs.is_empty() {
                t.unused_since_ms = Some(now);
                // Nobody waits for what it is still loading; it may never end.
                if matches!(t.stage, Stage::Building { .. }) {
                    kill.push(*token);
                }
                for p in t.pools.values_mut() {
                    kill.extend(p.ready.drain(..));
                }
            }
        }
        for token in kill {
            self.templates.remove(&token);
            if let Some(c) = self.cells.get_mut(&token) {
                c.killed = true;
            }
            self.ask_launcher(&Request::Kill { token }, &[]);
        }
    }

    /// When the next template is overdue or has been unused for long enough.
    pub fn template_deadline(&self) -> Option<u64> {
        self.templates
            .values()
            .filter_map(|t| match (&t.stage, t.unused_since_ms) {
                (Stage::Building { deadline_ms }, _) if t.failing.is_none() => Some(*deadline_ms),
                (Stage::Building { .. }, _) => None,
                (_, Some(since)) => Some(since + KEPT_MS),
                _ => None,
            })
            .min()
    }

    /// Ends templates that hang or that nobody has used for a while.
    pub fn check_templates(&mut self, now: u64) {
        if self.template_deadline().is_none_or(|d| d > now) {
            return;
        }
        let due: Vec<(Token, bool)> = self
            .templates
            .iter()
            .filter_map(|(token, t)| match (&t.stage, t.unused_since_ms) {
                (Stage::Building { deadline_ms }, _) if *deadline_ms <= now => {
                    t.failing.is_none().then_some((*token, true))
                }
                (_, Some(since)) if since + KEPT_MS <= now => Some((*token, false)),
                _ => None,
            })
            .collect();
        for (token, hangs) in due {
            if hangs {
                let Some(t) = self.templates.get(&token) else { continue };
                let what = if t.doing.is_empty() { "its start".to_owned() } else { t.doing.clone() };
                let after = Elapsed(t.spec.load_ms.unwrap_or(BUILD_DEADLINE_MS));
                let message = format!(
                    "loading hasn't ended after {after}; it hangs in, or takes that long for: {what} \
                     ([template] timeout = \"1h\" gives it longer)"
                );
                self.fail_template_with_its_words(token, message);
            } else {
                self.templates.remove(&token);
                self.ask_launcher(&Request::Kill { token }, &[]);
            }
        }
    }

    /// `template.list`.
    pub fn list_templates(&mut self, to: ReplyTo) {
        let templates = self
            .templates
            .values()
            .map(|t| TemplateInfo {
                id: t.key.clone(),
                python: t.spec.python.clone(),
                preload: t.spec.preload.clone(),
                script: t.spec.script.clone(),
                state: match &t.stage {
                    Stage::Building { .. } => "building".to_owned(),
                    Stage::Ready => "ready".to_owned(),
                    Stage::Failed(_) => "failed".to_owned(),
                },
                pid: (t.pid != 0).then_some(t.pid),
                rss_bytes: t.rss_bytes,
                embryos: t.pools.values().map(|p| p.ready.len() as u32).sum(),
                forked: t.forked,
                doing: t.doing.clone(),
                building_ms: match &t.stage {
                    Stage::Building { .. } => self.mono_ms().saturating_sub(t.began_ms).max(1),
                    _ => 0,
                },
            })
            .collect();
        self.reply(to, &json(&TemplateListReply { templates }));
    }
}

/// A message and what was printed last, less the lines that are our own.
fn with_words(message: &str, words: &str) -> String {
    let own = |line: &str| line.contains("/opt/clove/python/");
    let lines: Vec<&str> = words.lines().filter(|l| !l.trim().is_empty() && !own(l)).collect();
    if lines.is_empty() {
        return message.to_owned();
    }
    format!("{message}; its last output:\n{}", lines.join("\n"))
}

/// Under which name the log keeper knows a template's output.
fn template_log(token: Token) -> String {
    format!("a{token}.0")
}

fn pool_key(policy: &clove_sandbox::protocol::CellPolicy) -> String {
    let bytes = serde_json::to_vec(policy).unwrap_or_default();
    Sha256::digest(&bytes).iter().take(16).map(|b| format!("{b:02x}")).collect()
}
