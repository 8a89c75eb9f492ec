//! Which run, and which of its tasks, a person means.

use crate::cli::failure::Failure;
use crate::cli::session::Session;
use clove_abi::calls::{RunInfo, RunList, RunTasks, TaskInfo};
use clove_abi::run::RunKind;
use clove_abi::{RunId, TaskIndex};

/// `r3`, `3`, a sweep's name (the newest of that name), or `last`.
///
/// # Errors
/// There is none.
pub fn run(session: &mut Session, text: &str) -> Result<RunId, Failure> {
    if let Ok(id) = text.parse::<RunId>() {
        return Ok(id);
    }
    if let Ok(n) = text.parse::<u64>() {
        return Ok(RunId(n));
    }
    let runs: Vec<RunInfo> = session.call(&RunList {})?.runs;
    let found = if text == "last" {
        runs.iter().filter(|r| r.kind == RunKind::Sweep).map(|r| r.id).max()
    } else {
        runs.iter().filter(|r| r.name == text).map(|r| r.id).max()
    };
    found.ok_or_else(|| {
        let what = if text == "last" {
            "there is no sweep yet".to_owned()
        } else {
            format!("there is no sweep `{text}` (E0202)")
        };
        Failure::new(what).hint("`clove sweep ls` lists sweeps by id (r3) and name")
    })
}

/// `17`, `#17`, `r3/17`, or a task's name.
///
/// # Errors
/// There is none.
pub fn task(session: &mut Session, run: RunId, text: &str) -> Result<TaskIndex, Failure> {
    let bare = text.strip_prefix('#').unwrap_or(text);
    let bare = bare.strip_prefix(&format!("{run}/")).unwrap_or(bare);
    if let Ok(n) = bare.parse() {
        return Ok(n);
    }
    let mut found = None;
    pages(session, run, false, |t| {
        if t.name == text {
            found = Some(t.index);
        }
    })?;
    found.ok_or_else(|| {
        Failure::new(format!("{run} has no task `{text}` (E0204)"))
            .hint(format!("`clove sweep results {run}` lists its tasks by number and name"))
    })
}

/// Every task of a run, page by page.
///
/// # Errors
/// There is no such run, or the kernel is gone.
pub fn pages(
    session: &mut Session,
    run: RunId,
    full: bool,
    mut each: impl FnMut(TaskInfo),
) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let page = session.call(&RunTasks { run, from, max: Some(500), full })?;
        page.tasks.into_iter().for_each(&mut each);
        match page.next {
            Some(next) if next > from => from = next,
            _ => return Ok(()),
        }
    }
}

/// The name that somebody gave a task; none when the kernel made one from its number.
pub fn given_name(run: RunId, index: TaskIndex, name: &str) -> Option<&str> {
    let made = name.is_empty() || name == index.to_string() || name == format!("{run}-{index}");
    (!made).then_some(name)
}
