//! Turning a plan into the prepared script that a stub can run.

use crate::plan::{Op, Plan, PlanError, Planned};
use clove_sys::landlock::{Rule, Ruleset};
use clove_sys::mounts::{NODEV, NOEXEC, NOSUID, RDONLY};
use clove_sys::script::{Line, Script, Step};
use std::ffi::CString;
use std::os::fd::RawFd;

/// A string with a NUL that got past the checks; named rather than unwrapped.
pub fn c_string(text: &str) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError {
        what: format!("{text:?}"),
        why: "it holds a NUL byte".into(),
        hint: String::new(),
    })
}

/// `trees` are the opened mounts, in the order of `plan.mounts`.
pub fn script(plan: &Plan, trees: &[RawFd]) -> Result<Script, PlanError> {
    let lines = plan.ops.iter().map(|p| line(p, trees)).collect::<Result<_, _>>()?;
    Ok(Script { lines })
}

/// Landlock rules as the process will put them on.
pub fn landlock(plan: &Plan) -> Result<Option<Ruleset>, PlanError> {
    let Some((abi, rules)) = &plan.landlock else { return Ok(None) };
    let rules = rules
        .iter()
        .map(|r| Ok(Rule { path: c_string(&r.path)?, writable: r.writable }))
        .collect::<Result<_, PlanError>>()?;
    Ok(Some(Ruleset { abi: *abi, rules }))
}

fn line(planned: &Planned, trees: &[RawFd]) -> Result<Line, PlanError> {
    const TMPFS: u64 = libc::MS_NOSUID | libc::MS_NODEV;
    const KERNEL_FS: u64 = libc::MS_NOSUID | libc::MS_NOEXEC;
    let step = match &planned.op {
        Op::MakePrivate => Step::MakePrivate,
        Op::OwnCgroups => Step::OwnCgroups,
        Op::BecomeIds { uid, gid } => Step::BecomeIds { uid: *uid, gid: *gid },
        Op::Tmpfs { target, options } => mount("tmpfs", target, TMPFS, options)?,
        Op::Proc { target, hidden } => {
            let data = if *hidden { "hidepid=invisible" } else { "" };
            mount("proc", target, KERNEL_FS | libc::MS_NODEV, data)?
        }
        // All but the host's own share one limit (kernel.pty.max less kernel.pty.reserve), so each has but a few.
        Op::DevPts { target } => {
            mount("devpts", target, KERNEL_FS, "newinstance,ptmxmode=0666,mode=620,max=32")?
        }
        Op::Enter { path } => Step::Enter { path: c_string(path)? },
        Op::Folder { path, mode } => Step::MakeFolder { path: c_string(path)?, mode: *mode },
        Op::File { path } => Step::MakeFile { path: c_string(path)? },
        Op::Link { to, path } => Step::MakeLink { to: c_string(to)?, path: c_string(path)? },
        Op::Write { path, content } => {
            Step::WriteFile { path: c_string(path)?, content: content.clone().into_bytes(), mode: 0o644 }
        }
        Op::Attach { mount, target } => match trees.get(*mount) {
            Some(tree) => Step::Attach { tree: *tree, target: c_string(target)? },
            None => {
                return Err(PlanError {
                    what: format!("mount {mount}"),
                    why: "it wasn't opened".into(),
                    hint: "this is a bug in CloveOS".into(),
                });
            }
        },
        Op::Bind { source, target } => Step::Bind { source: c_string(source)?, target: c_string(target)? },
        Op::ReadOnly { target } => {
            let noexec = if target == "/" { 0 } else { NOEXEC };
            Step::SetAttributes {
                target: c_string(target)?,
                set: RDONLY | NOSUID | NODEV | noexec,
                recursive: false,
            }
        }
        Op::Setting { path, value } => Step::Setting { path: c_string(path)?, value: c_string(value)? },
        Op::OpenScratch { path } => Step::OpenScratch { path: c_string(path)? },
        Op::Pivot => Step::Pivot,
        Op::Loopback => Step::RaiseLoopback,
        Op::Hostname { name } => Step::Hostname { name: c_string(name)? },
        Op::Listen { path } => Step::Listen { path: c_string(path)? },
        Op::Terminal { rows, columns } => Step::OpenTerminal { rows: *rows, columns: *columns },
    };
    Ok(Line { step, optional: planned.wall.is_some() })
}

fn mount(kind: &str, target: &str, flags: u64, data: &str) -> Result<Step, PlanError> {
    Ok(Step::Mount { kind: c_string(kind)?, target: c_string(target)?, flags, data: c_string(data)? })
}
