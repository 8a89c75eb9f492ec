//! Reads an agent's end: which cause, in which words, and what to try next.

use crate::input::ExitStatus;
use crate::state::{Agent, AgentKind, Ending};
use clove_abi::certificate::{Cause, Certificate, KilledBy, Usage};
use clove_abi::run::Profile;

/// What programs say when a system call was refused (ENOSYS, EPERM and the errors of the `strict` profile's arguments).
const REFUSALS: &[&str] = &[
    "Function not implemented",
    "Operation not permitted",
    "Address family not supported",
    "Protocol not supported",
    "Socket type not supported",
    "Protocol not available",
    "ENOSYS",
    "EPERM",
    "EAFNOSUPPORT",
];

const SIGKILL: i32 = 9;
const SIGSYS: i32 = 31;

/// Everything that is known at the end, besides the agent itself.
pub struct Evidence<'a> {
    pub status: ExitStatus,
    pub usage: &'a Usage,
    pub output_tail: &'a str,
    pub output_dropped: u64,
    pub wall_ms: u64,
}

/// Bytes for people: `512 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut unit, mut scale) = (0, 1u64);
    while unit + 1 < UNITS.len() && n / scale >= 1024 {
        unit += 1;
        scale *= 1024;
    }
    if n.is_multiple_of(scale) || n / scale >= 100 {
        format!("{} {}", n / scale, UNITS[unit])
    } else {
        format!("{}.{} {}", n / scale, n % scale * 10 / scale, UNITS[unit])
    }
}

/// A span of time for people: `1.5 s`, `2 min 10 s`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        120_000..7_200_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// Name of a signal (signal(7), the numbers of x86-64 and arm64).
pub fn signal_name(n: i32) -> String {
    const NAMES: [&str; 32] = [
        "0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    usize::try_from(n)
        .ok()
        .and_then(|i| NAMES.get(i))
        .map_or_else(|| format!("signal {n}"), |s| (*s).to_owned())
}

fn killer(by: &KilledBy) -> String {
    let mut s = format!("an {}", by.kind);
    if by.kind == "kernel" {
        s = "the kernel".into();
    }
    if by.kind == "outside" {
        return "somebody outside CloveOS".into();
    }
    let mut parts = Vec::new();
    if let Some(c) = &by.command {
        parts.push(c.clone());
    }
    if let Some(p) = by.pid {
        parts.push(format!("pid {p}"));
    }
    if let Some(u) = by.uid {
        parts.push(format!("uid {u}"));
    }
    if !parts.is_empty() {
        s.push_str(&format!(" ({})", parts.join(", ")));
    }
    s
}

/// The certificate of an agent whose tree is gone.
pub fn certify(agent: &Agent, e: &Evidence<'_>) -> Certificate {
    let l = &agent.limits;
    let (exit_code, signal) = match e.status {
        ExitStatus::Code(c) => (Some(c), None),
        ExitStatus::Signal(s) => (None, Some(s)),
    };
    let mut killed_by = None;
    let failed = exit_code != Some(0);
    let ran_ms = e.wall_ms.saturating_sub(agent.started_wall_ms);
    let (cause, message, suggestion) = if e.usage.oom_kills > 0 && failed {
        let tmpfs = if e.usage.tmpfs_bytes > l.memory_bytes / 4 {
            format!(
                "; {} of it lay in /work, /tmp and /dev/shm, which count as memory",
                bytes(e.usage.tmpfs_bytes)
            )
        } else {
            String::new()
        };
        (
            Cause::Oom,
            format!("it needed more memory than its limit of {}{tmpfs}", bytes(l.memory_bytes)),
            format!(
                "give it more (--memory {}m), or on_oom = \"double\" in a sweep",
                (l.memory_bytes >> 20).max(1) * 2
            ),
        )
    } else {
        match &agent.ending {
            Some(Ending::Killed(by)) if signal == Some(SIGKILL) => {
                killed_by = Some(by.clone());
                (Cause::Killed, format!("killed by {}", killer(by)), String::new())
            }
            Some(Ending::Timeout) => (
                Cause::Timeout,
                format!("it ran longer than its timeout of {}", span(l.wall_ms)),
                format!(
                    "give it more time (--timeout {}s), or see its last output",
                    (l.wall_ms / 1000).max(1) * 2
                ),
            ),
            Some(Ending::Cancelled) => (Cause::Cancelled, "cancelled with its run".into(), String::new()),
            Some(Ending::Detached) => (
                Cause::Cancelled,
                "the command that it was attached to ended".into(),
                "start it with -d to let it outlive its command".into(),
            ),
            Some(Ending::Shutdown) => (Cause::Cancelled, "the kernel was stopped".into(), String::new()),
            Some(Ending::Retired | Ending::Lingering) => {
                (Cause::Exit, "its work was done".into(), String::new())
            }
            _ => match e.status {
                ExitStatus::Code(0) => (Cause::Exit, "it ended with exit code 0".into(), String::new()),
                ExitStatus::Code(c) if e.usage.pids_refused > 0 => (
                    Cause::Pids,
                    format!(
                        "it failed with exit code {c} after {} beyond its limit of {} processes",
                        forks(e.usage.pids_refused),
                        l.pids
                    ),
                    format!("give it more (--pids-limit {})", l.pids.saturating_mul(2)),
                ),
                ExitStatus::Code(c) if e.usage.disk_full => (
                    Cause::Disk,
                    format!("it failed with exit code {c} with its folders full ({})", bytes(l.disk_bytes)),
                    format!("give it more (--disk {}m), or write less", (l.disk_bytes >> 20).max(1) * 2),
                ),
                ExitStatus::Code(c) => {
                    let hint = hint_from(e.output_tail, l.nofile, agent.profile);
                    (Cause::Exit, format!("it ended with exit code {c}"), hint)
                }
                ExitStatus::Signal(SIGKILL) => {
                    killed_by =
                        Some(KilledBy { kind: "outside".into(), uid: None, pid: None, command: None });
                    (
                        Cause::Killed,
                        "SIGKILL from itself or from outside CloveOS (its memory limit wasn't reached)"
                            .into(),
                        "see the host's log (dmesg) for an OOM kill of the whole machine".into(),
                    )
                }
                ExitStatus::Signal(SIGSYS) => (
                    Cause::Policy,
                    "SIGSYS: a system call that its seccomp filter ends it for, or a signal of its own"
                        .into(),
                    String::new(),
                ),
                ExitStatus::Signal(s) if agent.signalled.as_ref().is_some_and(|(sent, _)| *sent == s) => {
                    let by = agent.signalled.as_ref().map(|(_, by)| by.clone());
                    let who = by.as_ref().map(killer).unwrap_or_default();
                    killed_by = by;
                    (Cause::Killed, format!("ended by {} from {who}", signal_name(s)), String::new())
                }
                ExitStatus::Signal(s @ (1 | 2 | 3 | 13 | 14 | 15)) => {
                    (Cause::Signal, format!("it was ended by {}", signal_name(s)), String::new())
                }
                ExitStatus::Signal(s) => {
                    (Cause::Signal, format!("it crashed with {}", signal_name(s)), crash_hint(s, agent.kind))
                }
            },
        }
    };
    let message = if ran_ms > 0 { format!("{message}, after {}", span(ran_ms)) } else { message };
    Certificate {
        agent: agent.id,
        name: agent.name.clone(),
        run: agent.run,
        task: agent.task,
        attempt: agent.attempt,
        cause,
        exit_code,
        signal,
        killed_by,
        message,
        suggestion,
        usage: e.usage.clone(),
        limits: l.clone(),
        started_ms: agent.started_wall_ms,
        ended_ms: e.wall_ms,
        tail: e.output_tail.to_owned(),
        output_dropped_bytes: e.output_dropped,
        missing_walls: agent.missing_walls.clone(),
        missing_limits: agent.missing_limits.clone(),
    }
}

fn forks(n: u64) -> String {
    if n == 1 { "1 fork".into() } else { format!("{n} forks") }
}

fn crash_hint(signal: i32, kind: AgentKind) -> String {
    match signal {
        11 | 7 if kind != AgentKind::Cold => {
            "a fault in native code: its Python stack is in its last output".into()
        }
        11 | 7 => "a fault in native code; for Python, `-e PYTHONFAULTHANDLER=1` shows where".into(),
        6 => "its own abort(): the reason is usually in its last output".into(),
        4 => "an illegal instruction: a library built for another processor?".into(),
        _ => String::new(),
    }
}

fn hint_from(tail: &str, nofile: u32, profile: Profile) -> String {
    if tail.contains("Too many open files") {
        return format!(
            "it reached its limit of {nofile} open files (--nofile {})",
            nofile.saturating_mul(2)
        );
    }
    if tail.contains("Network is unreachable") || tail.contains("Temporary failure in name resolution") {
        return "an agent has no network".into();
    }
    if profile == Profile::Strict && REFUSALS.iter().any(|words| tail.contains(words)) {
        return "the strict profile refuses system calls that aren't on its list: if it needs one, leave out \
                `--profile strict`"
            .into();
    }
    String::new()
}

/// The certificate of an agent that never ran, or whose end nobody saw.
pub fn certify_unseen(
    agent: &Agent,
    cause: Cause,
    message: String,
    suggestion: String,
    code: Option<i32>,
    wall_ms: u64,
) -> Certificate {
    Certificate {
        agent: agent.id,
        name: agent.name.clone(),
        run: agent.run,
        task: agent.task,
        attempt: agent.attempt,
        cause,
        exit_code: code,
        signal: None,
        killed_by: None,
        message,
        suggestion,
        usage: Usage::default(),
        limits: agent.limits.clone(),
        started_ms: agent.started_wall_ms,
        ended_ms: wall_ms,
        tail: String::new(),
        output_dropped_bytes: 0,
        missing_walls: agent.missing_walls.clone(),
        missing_limits: agent.missing_limits.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_sizes_and_spans() {
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(1536 << 20), "1.5 GiB");
        assert_eq!(bytes(100), "100 B");
        assert_eq!(span(1500), "1.5 s");
        assert_eq!(span(130_000), "2 min 10 s");
        assert_eq!(signal_name(11), "SIGSEGV");
        assert_eq!(signal_name(64), "signal 64");
    }

    #[test]
    fn a_refused_call_is_guessed_under_strict_only() {
        let tail = "OSError: [Errno 38] Function not implemented\n";
        assert!(hint_from(tail, 64, Profile::Strict).contains("--profile strict"));
        assert_eq!(hint_from(tail, 64, Profile::Default), "");
        assert_eq!(hint_from("ValueError: 3\n", 64, Profile::Strict), "");
        let tail = "OSError: [Errno 24] Too many open files\n";
        assert!(hint_from(tail, 64, Profile::Strict).contains("--nofile 128"));
    }
}
