//! Turning what went wrong into what the kernel is told.

use super::cell::Failure;
use crate::cgroup::CgroupError;
use crate::plan::PlanError;
use crate::sources::SourceError;
use clove_sys::report::Stage;
use rustix::io::Errno;

impl From<PlanError> for Failure {
    fn from(e: PlanError) -> Failure {
        Failure { stage: "policy".into(), errno: libc::EINVAL, message: e.to_string(), hint: e.hint }
    }
}

impl From<SourceError> for Failure {
    fn from(e: SourceError) -> Failure {
        Failure { stage: "mounts".into(), errno: e.errno, message: e.to_string(), hint: e.hint }
    }
}

impl From<CgroupError> for Failure {
    fn from(e: CgroupError) -> Failure {
        Failure {
            stage: "limits".into(),
            errno: e.source.raw_os_error().unwrap_or(0),
            message: e.to_string(),
            hint: "run `clove doctor` to see which limits this host enforces".into(),
        }
    }
}

pub fn failure(stage: &str, e: Errno, message: &str, hint: &str) -> Failure {
    let message = format!("{message}: {}", std::io::Error::from(e));
    Failure { stage: stage.into(), errno: e.raw_os_error(), message, hint: hint.into() }
}

pub fn from_io(stage: &str, e: &std::io::Error, message: &str, hint: &str) -> Failure {
    Failure {
        stage: stage.into(),
        errno: e.raw_os_error().unwrap_or(0),
        message: format!("{message}: {e}"),
        hint: hint.into(),
    }
}

pub fn namespace_hint(e: Errno) -> &'static str {
    match e {
        Errno::NOSPC => "a limit in /proc/sys/user (max_user_namespaces, max_net_namespaces, ...) is reached",
        Errno::AGAIN => "the limit of processes (pids.max, ulimit -u) is reached",
        Errno::PERM => "run as root; in a container it needs --privileged or CAP_SYS_ADMIN",
        _ => "run `clove doctor`",
    }
}

pub fn step_hint(errno: i32, limits: &clove_abi::Limits) -> &'static str {
    match errno {
        libc::ENOSPC if limits.disk_bytes < 1 << 20 => "give it more disk",
        libc::EPERM => "run `clove doctor` to see what this host doesn't allow",
        _ => "",
    }
}

/// A program that couldn't be started in a cell that stands.
pub fn program_failure(stage: Stage, errno: i32, found: bool, argv: &[String], cwd: &str) -> Failure {
    let name = argv.first().map_or("", String::as_str);
    let reason = std::io::Error::from_raw_os_error(errno);
    let (message, hint) = match (stage, errno) {
        (Stage::Exec, libc::ENOENT) if found => (
            format!(
                "{name}: its interpreter (the first line's `#!`, or the dynamic loader) doesn't exist inside"
            ),
            "mount the interpreter's folder with --mount SRC:SRC".to_owned(),
        ),
        (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => (
            format!("{name}: no such program inside the sandbox"),
            "if it exists on the host, mount its folder with --mount SRC:SRC".to_owned(),
        ),
        (Stage::Exec, libc::EACCES) => {
            (format!("{name}: not executable"), "check the file's mode (chmod +x)".to_owned())
        }
        (Stage::Exec, libc::ENOEXEC) => (
            format!("{name}: the system can't execute this format"),
            "a script needs a first line such as #!/bin/sh".to_owned(),
        ),
        (Stage::Folder, _) => (
            format!("working folder {cwd}: {reason}"),
            "it must exist inside; mount it, or use /work".to_owned(),
        ),
        _ => (format!("{}: {reason}", stage.word()), "run `clove doctor`".to_owned()),
    };
    Failure { stage: stage.word().into(), errno, message, hint }
}

pub fn wrong_descriptors(wanted: usize, came: usize) -> Failure {
    Failure {
        stage: "request".into(),
        errno: libc::EINVAL,
        message: format!("{wanted} descriptors are needed, {came} came"),
        hint: "this is a bug in CloveOS".into(),
    }
}
