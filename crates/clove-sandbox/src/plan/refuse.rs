//! What no policy may contain, whatever it is for.

use super::PlanError;
use crate::protocol::CellPolicy;

fn refuse(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> PlanError {
    PlanError { what: what.into(), why: why.into(), hint: hint.into() }
}

/// Checks everything that needs no look at the host.
pub fn check(policy: &CellPolicy) -> Result<(), PlanError> {
    let label = &policy.label;
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if label.is_empty() || label.len() > 63 || !label.bytes().all(good) {
        let why = "a label is 1 to 63 of a-z, 0-9 and -";
        return Err(refuse(format!("label {label:?}"), why, "choose another name"));
    }
    for (key, value) in &policy.env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(refuse(
                format!("env {key:?}"),
                "a name is not empty and holds no `=` and no NUL",
                "rename it",
            ));
        }
        if value.contains('\0') {
            let hint = "pass binary data in a file";
            return Err(refuse(format!("env {key}"), "its value holds a NUL byte", hint));
        }
    }
    check_path(&policy.cwd)
        .map_err(|why| refuse(format!("cwd {}", policy.cwd), why, "use for instance /work"))?;
    for (path, content) in &policy.files {
        let what = || format!("file {path}");
        check_path(path).map_err(|why| refuse(what(), why, "use a path such as /work/config.json"))?;
        let inside = ["/work/", "/tmp/", "/run/clove/"].iter().any(|p| path.starts_with(p));
        if !inside || path == super::SOCKET_PATH {
            return Err(refuse(
                what(),
                "files are written below /work, /tmp and /run/clove only",
                "use /work",
            ));
        }
        if content.len() > 1 << 20 {
            return Err(refuse(what(), "it is larger than 1 MiB", "mount a folder that holds it"));
        }
    }
    Ok(())
}

/// Absolute, normal (no `.`, `..`, `//`), no NUL, not `/` itself.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else { return Err("it isn't an absolute path") };
    if path.contains('\0') {
        return Err("it holds a NUL byte");
    }
    if path.len() > 4000 {
        return Err("it is too long");
    }
    for part in rest.split('/') {
        match part {
            "" => return Err("it is `/`, or has an empty part (`//`, or a `/` at the end)"),
            "." | ".." => return Err("it has `.` or `..` in it"),
            _ => {}
        }
    }
    Ok(())
}

/// Checks arguments of a program.
pub fn check_argv(argv: &[String]) -> Result<(), PlanError> {
    let Some(first) = argv.first() else {
        return Err(refuse("command", "it is empty", "name a program"));
    };
    if first.is_empty() {
        return Err(refuse("command", "the program's name is empty", "name a program"));
    }
    match argv.iter().position(|a| a.contains('\0')) {
        Some(n) => Err(refuse(format!("argument {n}"), "it holds a NUL byte", "pass binary data in a file")),
        None => Ok(()),
    }
}
