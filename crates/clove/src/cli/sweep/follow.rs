//! Watches a run to its end: a bar on a terminal, plain lines elsewhere.

use super::{loading, results, summary, which};
use crate::cli::bar::Bar;
use crate::cli::failure::{Failure, Outcome, REFUSED};
use crate::cli::session::Session;
use crate::cli::table::shortened;
use crate::cli::{ending, json, stdio};
use clap::Args;
use clove_abi::calls::{RunCancel, RunInfo, RunShow, RunShowReply, RunWatch, TaskInfo};
use clove_abi::run::{RunState, TaskState};
use clove_abi::{RunId, TaskIndex};
use clove_client::Client;
use clove_manifest::units::Elapsed;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Between two Ctrl-C that cancel.
const TWICE: Duration = Duration::from_secs(5);
/// Changes that come faster are taken together.
const PAUSE: Duration = Duration::from_millis(80);
/// Before the first task has ended, it is looked this often at what is being loaded.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The same thing being loaded is told again after this long.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// More failures than this are counted, not listed.
const FAILURES_LISTED: usize = 60;
/// A results table of at most so many tasks follows the summary.
const TABLE_UP_TO: u32 = 60;

/// Watches a sweep that is running
#[derive(Args, Debug)]
pub struct AttachArgs {
    /// r3, a name, or last
    #[arg(value_name = "ID")]
    run: String,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `clove sweep attach`.
pub fn attach(args: &AttachArgs) -> Outcome {
    let mut session = Session::open("clove sweep attach")?;
    let run = which::run(&mut session, &args.run)?;
    to_the_end(session, run, args.json)
}

/// Shows a run until it has ended, then its summary. Closing the terminal only ends the showing.
///
/// # Errors
/// The kernel is gone.
pub fn to_the_end(mut session: Session, run: RunId, as_json: bool) -> Outcome {
    let screen = Screen::new();
    cancel_on_second_interrupt(session.again()?, run, screen.clone())?;
    let info = match watch(&mut session, run, screen.clone()) {
        Ok(info) => info,
        Err(e) => {
            screen.close();
            return Err(e);
        }
    };
    screen.close();
    let show = session.call(&RunShow { run })?;
    if as_json {
        json::print(&summary::as_json(&show));
    } else {
        stdio::show(&summary::text(&show));
        if info.total <= TABLE_UP_TO && info.done > 0 {
            stdio::line("");
            stdio::show(&results::table(&mut session, run)?);
        }
    }
    Ok(exit_code(&show))
}

/// 0 when every task is done, 1 when some aren't, 130 cancelled, 125 when it couldn't be run.
pub fn exit_code(show: &RunShowReply) -> i32 {
    match show.info.state {
        RunState::Cancelled => 130,
        RunState::Failed | RunState::Interrupted => REFUSED,
        _ if show.info.done == show.info.total => 0,
        _ => 1,
    }
}

fn watch(session: &mut Session, run: RunId, screen: Screen) -> Result<RunInfo, Failure> {
    let mut since = 0;
    let mut story = Story::default();
    let mut wait_ms = None;
    loop {
        let reply = session.call(&RunWatch { run, since, wait_ms }).map_err(|e| {
            let lost = e.is_lost();
            let f = Failure::from(e);
            if lost {
                f.hint(format!(
                    "`clove sweep resume {run}` goes on where it was; what was shown as done is kept"
                ))
            } else {
                f
            }
        })?;
        let first = since == 0;
        let quiet = since == reply.version && reply.tasks.is_empty();
        since = reply.version;
        let begun = ended(&reply.info) > 0;
        wait_ms = (!begun).then_some(LOOK_EVERY.as_millis() as u64);
        if quiet && !begun && reply.info.state == RunState::Active {
            story.tell_loading(session, run, &screen);
            continue;
        }
        for t in &reply.tasks {
            story.tell(t, run, &screen);
        }
        let over = reply.info.state != RunState::Active;
        // The first answers of a long run only catch up.
        if !(first && reply.tasks.len() >= 1000) || over {
            screen.show(&reply.info, story.remaining(&reply.info));
        }
        if over {
            if reply.info.state == RunState::Interrupted {
                screen.say(&format!("{run} was interrupted; `clove sweep resume {run}` goes on with it"));
            }
            return Ok(reply.info);
        }
        if reply.tasks.len() < 1000 {
            thread::sleep(PAUSE);
        }
    }
}

/// What has been told of the tasks so far.
#[derive(Default)]
struct Story {
    /// Certificates of each task that were told.
    told: HashMap<TaskIndex, usize>,
    listed: usize,
    /// When, and with how many ended tasks, the watching began.
    began: Option<(Instant, u32)>,
    /// What was being loaded when that was told last.
    loading: Option<(Instant, String)>,
}

impl Story {
    /// No task has ended, and nothing happens: it may be that nothing runs yet.
    fn tell_loading(&mut self, session: &mut Session, run: RunId, screen: &Screen) {
        let Ok(show) = session.call(&RunShow { run }) else { return };
        let Some(l) = loading::of(session, &show) else { return };
        let known = |(at, doing): &(Instant, String)| *doing == l.doing && at.elapsed() < TELL_EVERY;
        if !self.loading.as_ref().is_some_and(known) {
            screen.say(&format!("{run}: loading, before the first task: {}", l.text));
            self.loading = Some((Instant::now(), l.doing));
        }
    }

    fn tell(&mut self, t: &TaskInfo, run: RunId, screen: &Screen) {
        let known = self.told.entry(t.index).or_insert(0);
        let mut lines = Vec::new();
        for (i, c) in t.certificates.iter().enumerate().skip(*known).filter(|(_, c)| c.cause.is_death()) {
            let attempt = if c.attempt > 0 { c.attempt } else { i as u32 + 1 };
            let last = i + 1 == t.certificates.len();
            let then = match t.state {
                TaskState::Quarantined if last => "given up",
                TaskState::Failed if last => "not tried again",
                TaskState::Cancelled => continue,
                _ => "tried again",
            };
            lines.push(format!(
                "{} died (attempt {attempt}, {then}): {}",
                label(run, t),
                ending::last_line(c)
            ));
        }
        *known = t.certificates.len();
        if t.state == TaskState::Failed && lines.is_empty() {
            let why = match (&t.exception, t.certificates.last()) {
                (Some(e), _) => format!("{}: {}", shortened(&e.class, 100), shortened(&e.message, 500)),
                (None, Some(c)) => ending::last_line(c),
                (None, None) => "see `clove sweep inspect`".into(),
            };
            lines.push(format!("{} failed: {why}", label(run, t)));
        }
        for line in lines {
            self.listed += 1;
            if self.listed <= FAILURES_LISTED {
                screen.say(&line);
            } else if self.listed == FAILURES_LISTED + 1 {
                screen.say(&format!(
                    "further failures aren't listed here; `clove sweep show {run}` counts them"
                ));
            }
        }
    }

    /// Seconds left, by the pace since the watching began; unknown before three tasks have ended.
    fn remaining(&mut self, info: &RunInfo) -> Option<u64> {
        let ended = ended(info);
        let (at, before) = *self.began.get_or_insert((Instant::now(), ended));
        let since = ended.saturating_sub(before);
        if since < 3 || info.state != RunState::Active {
            return None;
        }
        let left = f64::from(info.total.saturating_sub(ended));
        Some((at.elapsed().as_secs_f64() / f64::from(since) * left) as u64)
    }
}

fn ended(i: &RunInfo) -> u32 {
    i.done + i.failed + i.quarantined + i.cancelled
}

fn label(run: RunId, t: &TaskInfo) -> String {
    match which::given_name(run, t.index, &t.name) {
        None => format!("#{}", t.index),
        Some(name) => format!("#{} {name}", t.index),
    }
}

/// Counts in words: `812 of 2000 done, 2 running, 1 failed`.
pub fn counts(i: &RunInfo) -> String {
    let mut parts = vec![format!("{} of {} done", i.done, i.total)];
    for (n, word) in [
        (i.running, "running"),
        (i.failed, "failed"),
        (i.quarantined, "given up"),
        (i.cancelled, "cancelled"),
    ] {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    parts.join(", ")
}

/// Where the progress goes: a bar, or lines.
#[derive(Clone)]
struct Screen {
    bar: Option<Bar>,
    last: std::sync::Arc<std::sync::Mutex<(Option<Instant>, String)>>,
}

impl Screen {
    fn new() -> Screen {
        Screen { bar: stdio::stderr_is_lively().then(Bar::new), last: std::sync::Arc::default() }
    }

    fn show(&self, info: &RunInfo, remaining: Option<u64>) {
        let mut text = counts(info);
        if let Some(s) = remaining {
            text.push_str(&format!(
                ", about {} left",
                Elapsed(s.max(1) * 1000).to_string().replace(".0 s", " s")
            ));
        }
        if let Some(bar) = &self.bar {
            return bar.set(u64::from(ended(info)), u64::from(info.total), &text);
        }
        let Ok(mut last) = self.last.lock() else { return };
        let due = last.0.is_none_or(|at| at.elapsed() >= LINE_EVERY) || info.state != RunState::Active;
        if due && last.1 != text {
            stdio::say(&format!("{}: {text}", info.id));
            *last = (Some(Instant::now()), text);
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.say(text),
            None => stdio::say(text),
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.close();
        }
    }
}

fn cancel_on_second_interrupt(mut client: Client, run: RunId, screen: Screen) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT])?;
    thread::spawn(move || {
        let mut last: Option<Instant> = None;
        for _ in signals.forever() {
            if last.is_some_and(|at| at.elapsed() < TWICE) {
                screen.say("cancelling; what is done is kept");
                if client.call(&RunCancel { run, task: None }).is_err() {
                    screen.close();
                    std::process::exit(130);
                }
            } else {
                screen.say(&format!(
                    "press Ctrl-C again within {} s to cancel the sweep; close the terminal to leave it running \
                     (`clove sweep attach {run}` comes back)",
                    TWICE.as_secs()
                ));
            }
            last = Some(Instant::now());
        }
    });
    Ok(())
}
