//! The environment of an agent: built from nothing, plus what `-e` names.

use crate::cli::failure::Failure;
use clove_manifest::sweep_file::check_env_name;
use std::collections::BTreeMap;

/// Where programs are looked for inside, after the interpreter's own folder.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the environment is made from.
#[derive(Clone, Debug, Default)]
pub struct Wishes<'w> {
    /// Put in front of the PATH.
    pub path_folders: &'w [String],
    /// What an interpreter needs to find its modules.
    pub interpreter: &'w [(String, String)],
    /// It has a terminal.
    pub tty: bool,
    /// `-e NAME=VALUE`, or `-e NAME` for the caller's value.
    pub flags: &'w [String],
}

/// The variables, except the kernel's own `CLOVE_*`.
///
/// # Errors
/// A `-e` that can't be one.
pub fn build(
    wishes: &Wishes<'_>,
    caller: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    let mut path: Vec<&str> = wishes.path_folders.iter().map(String::as_str).collect();
    path.push(DEFAULT_PATH);
    env.insert("PATH".to_owned(), path.join(":"));
    env.insert("HOME".to_owned(), "/work".to_owned());
    // The one user that /etc/passwd names inside.
    env.insert("USER".to_owned(), "clove".to_owned());
    env.insert(
        "LANG".to_owned(),
        caller("LANG").filter(|l| !l.is_empty()).unwrap_or_else(|| "C.UTF-8".to_owned()),
    );
    if wishes.tty {
        env.insert("TERM".to_owned(), caller("TERM").unwrap_or_else(|| "xterm".to_owned()));
    }
    env.extend(wishes.interpreter.iter().cloned());
    for flag in wishes.flags {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag.as_str(), caller(flag)),
        };
        check_env_name(name).map_err(|what| Failure::usage(what).hint("write -e NAME=VALUE, or -e NAME"))?;
        // As in Docker: a name that the caller doesn't have isn't set.
        if let Some(value) = value {
            env.insert(name.to_owned(), value);
        }
    }
    Ok(env)
}

/// A variable of this process, when it is text.
pub fn of_caller(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_caller_leaks_in() {
        let caller = |name: &str| match name {
            "LANG" => Some("de_DE.UTF-8".to_owned()),
            "SECRET" => Some("s3cret".to_owned()),
            _ => None,
        };
        let env = build(&Wishes::default(), caller).expect("plain");
        assert_eq!(env.keys().collect::<Vec<_>>(), ["HOME", "LANG", "PATH", "USER"]);
        let flags =
            ["A=1".to_owned(), "SECRET".to_owned(), "ABSENT".to_owned(), "B=x=y".to_owned(), "C=".to_owned()];
        let folders = ["/opt/py/bin".to_owned()];
        let wishes = Wishes { flags: &flags, path_folders: &folders, tty: true, ..Wishes::default() };
        let env = build(&wishes, caller).expect("flags");
        assert_eq!(env["SECRET"], "s3cret");
        assert_eq!((env["A"].as_str(), env["B"].as_str(), env["C"].as_str()), ("1", "x=y", ""));
        assert!(!env.contains_key("ABSENT"));
        assert!(env["PATH"].starts_with("/opt/py/bin:/usr/local"));
        assert_eq!(env["TERM"], "xterm");
        for wrong in ["=x", "", "CLOVE_RUN=1"] {
            let flags = [wrong.to_owned()];
            assert!(build(&Wishes { flags: &flags, ..Wishes::default() }, caller).is_err(), "{wrong}");
        }
    }
}
