//! The files that are made, never written by hand.

use crate::{errors_page, python_numbers, syscalls_page, workspace};
use std::fmt;

/// The command that mends every drift.
pub const FIX: &str = "cargo run -p xtask -- gen";

/// One file, as it has to be.
pub struct Generated {
    /// Relative to the workspace.
    pub path: &'static str,
    pub content: String,
}

/// All of them.
pub fn all() -> Vec<Generated> {
    vec![
        Generated { path: "docs/syscalls.md", content: syscalls_page::render() },
        Generated { path: "docs/errors.md", content: errors_page::render() },
        Generated { path: "python/cloveos/_calls.py", content: python_numbers::render() },
    ]
}

/// A file that isn't as it has to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Drift {
    path: &'static str,
    /// From 1; 0 when there is no file.
    line: usize,
    is: String,
    wanted: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{} doesn't exist: run `{FIX}`", self.path);
        }
        let Drift { path, line, is, wanted } = self;
        write!(f, "{path}:{line} is out of date: run `{FIX}`\n  is:     {is}\n  wanted: {wanted}")
    }
}

/// The first differing line of `is`, if one differs.
fn compare(path: &'static str, is: &str, wanted: &str) -> Option<Drift> {
    if is == wanted {
        return None;
    }
    let same = is.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count();
    let line_of = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    Some(Drift { path, line: same + 1, is: line_of(is), wanted: line_of(wanted) })
}

/// What differs from what the table says.
///
/// # Errors
/// A file that exists and can't be read.
pub fn drifts() -> Result<Vec<Drift>, String> {
    let mut found = Vec::new();
    for g in all() {
        match std::fs::read_to_string(workspace().join(g.path)) {
            Ok(is) => found.extend(compare(g.path, &is, &g.content)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                found.push(Drift { path: g.path, line: 0, is: String::new(), wanted: String::new() });
            }
            Err(e) => return Err(format!("{} can't be read: {e}", g.path)),
        }
    }
    Ok(found)
}

/// Writes what differs and names it.
///
/// # Errors
/// A file that can't be read or written.
pub fn write_all() -> Result<Vec<&'static str>, String> {
    let stale: Vec<&str> = drifts()?.iter().map(|d| d.path).collect();
    let mut written = Vec::new();
    for g in all().into_iter().filter(|g| stale.contains(&g.path)) {
        std::fs::write(workspace().join(g.path), g.content)
            .map_err(|e| format!("{} can't be written: {e}", g.path))?;
        written.push(g.path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_up_to_date() {
        let drifts = drifts().expect("the files can be read");
        let text: Vec<String> = drifts.iter().map(Drift::to_string).collect();
        assert!(text.is_empty(), "{}", text.join("\n"));
    }

    #[test]
    fn a_drift_names_its_line_and_the_command_that_mends_it() {
        let drift = compare("docs/x.md", "a\nb\n", "a\nc\n").expect("they differ").to_string();
        assert_eq!(drift.lines().next(), Some("docs/x.md:2 is out of date: run `cargo run -p xtask -- gen`"));
        assert!(
            compare("docs/x.md", "a\n", "a\nb\n").expect("one is shorter").to_string().contains("(the end)")
        );
        assert_eq!(compare("docs/x.md", "a\n", "a\n"), None);
    }
}
