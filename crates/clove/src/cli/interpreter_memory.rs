//! Remembers what interpreters said about themselves: asking one costs some 20 ms, looking whether it changed 0.1 ms.

use crate::cli::failure::Failure;
use crate::cli::python::Python;
use clove_client::Paths;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// More interpreters than this, and the memory starts anew.
const MOST: usize = 64;

/// An answer, and the state of its files when it was given.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    python: Python,
    state: Vec<String>,
}

/// What an interpreter says about itself, from memory if nothing of it has changed since.
///
/// # Errors
/// As [`Python::ask`].
pub fn ask(program: &Path) -> Result<Python, Failure> {
    let file = Paths::from_env().ok().map(|p| p.data_dir.join("interpreters.json"));
    ask_with(program, file)
}

fn ask_with(program: &Path, file: Option<PathBuf>) -> Result<Python, Failure> {
    let Some(file) = file else { return Python::ask(program) };
    let key = program.display().to_string();
    // Anything wrong with the file only means asking again.
    let mut known: BTreeMap<String, Answer> =
        std::fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    if let Some(a) = known.get(&key)
        && a.python.state() == a.state
        && a.python.is_supported()
    {
        return Ok(a.python.clone());
    }
    let python = Python::ask(program)?;
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(key, Answer { state: python.state(), python: python.clone() });
    let _ = keep(&file, &known);
    Ok(python)
}

/// Whole or not at all: two commands may keep theirs at once.
fn keep(file: &Path, known: &BTreeMap<String, Answer>) -> std::io::Result<()> {
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    let kept = std::fs::File::create(&beside)
        .and_then(|mut out| out.write_all(&serde_json::to_vec(known)?))
        .and_then(|()| std::fs::rename(&beside, file));
    if kept.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_unchanged_interpreter_is_asked_once() {
        let t = tempfile::tempdir().expect("tempdir");
        let real = Python::ask(Path::new("python3")).expect("python3");
        let log = t.path().join("log");
        let fake = t.path().join("python3");
        let script = format!("#!/bin/sh\necho x >> {}\nexec {} \"$@\"\n", log.display(), real.executable);
        std::fs::write(&fake, script).expect("write");
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let file = t.path().join("memory.json");
        let first = ask_with(&fake, Some(file.clone())).expect("asked");
        let second = ask_with(&fake, Some(file.clone())).expect("remembered");
        assert_eq!(first.executable, second.executable);
        assert_eq!(std::fs::read_to_string(&log).expect("log"), "x\n");
        std::fs::write(&file, "not json").expect("write");
        ask_with(&fake, Some(file)).expect("asked again");
        assert_eq!(std::fs::read_to_string(&log).expect("log"), "x\nx\n");
    }
}
