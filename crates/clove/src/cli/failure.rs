//! How a command fails: what went wrong, why, what to try, and the exit code.

use crate::cli::page::Page;
use clove_abi::{ErrorCode, SysError};
use clove_client::{ClientError, PathsError, StartError};
use clove_manifest::Diagnostic;
use clove_manifest::units::BadQuantity;
use std::fmt;

/// CloveOS refused or failed.
pub const REFUSED: i32 = 125;
/// The command line makes no sense.
pub const USAGE: i32 = 2;
/// The program can't be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// There is no such program.
pub const NOT_FOUND: i32 = 127;

/// The end of a command that couldn't do its work.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong, and where. May have several lines when it quotes a file.
    pub what: String,
    pub why: String,
    /// What to do next.
    pub hint: String,
    pub code: i32,
}

/// What commands return: an exit code, or why not.
pub type Outcome = Result<i32, Failure>;

impl Failure {
    /// CloveOS can't or won't.
    pub fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), why: String::new(), hint: String::new(), code: REFUSED }
    }

    /// The command line makes no sense.
    pub fn usage(what: impl Into<String>) -> Failure {
        Failure { code: USAGE, ..Failure::new(what) }
    }

    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Failure {
        self.why = why.into();
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn code(mut self, code: i32) -> Failure {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = Page::new();
        set_in(&mut page, "clove: error: ", &self.what);
        for (before, text) in [("  ", &self.why), ("  try: ", &self.hint)] {
            if !text.is_empty() {
                set_in(&mut page, before, text);
            }
        }
        f.write_str(page.text().trim_end())
    }
}

/// All lines but the first are set in: none of them can be taken for the beginning of another message.
fn set_in(page: &mut Page, before: &str, text: &str) {
    let (first, others) = text.split_once('\n').unwrap_or((text, ""));
    page.line(format_args!("{before}{first}"));
    for line in others.lines() {
        page.line(if line.starts_with("  ") { line.to_owned() } else { format!("  {line}") });
    }
}

/// What a code's page says to do next.
pub fn next_step(code: ErrorCode) -> Option<String> {
    let (_, next) = code.page().split_once(" Next: ")?;
    let text = next.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    Some(text.trim().trim_end_matches('.').to_owned())
}

impl From<SysError> for Failure {
    fn from(e: SysError) -> Failure {
        let hint = if e.hint.is_empty() { next_step(e.code).unwrap_or_default() } else { e.hint };
        let code = match e.code {
            ErrorCode::ProgramNotFound => NOT_FOUND,
            ErrorCode::NotExecutable => NOT_EXECUTABLE,
            _ => REFUSED,
        };
        Failure::new(format!("{} ({})", e.message, e.code)).hint(hint).code(code)
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        match e {
            ClientError::Refused(e) => e.into(),
            e @ ClientError::Lost { .. } => Failure::new(e.to_string())
                .why("the kernel ended, or was killed; what it had acknowledged is kept")
                .hint("run the command again: it starts the kernel anew; kernel.log in the data directory may say more"),
            e => Failure::new(e.to_string()),
        }
    }
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Failure {
        let hint = e.hint();
        Failure::new(e.to_string()).hint(hint)
    }
}

impl From<PathsError> for Failure {
    fn from(e: PathsError) -> Failure {
        Failure::new(e.what).why(e.why).hint(e.hint)
    }
}

impl From<Diagnostic> for Failure {
    fn from(e: Diagnostic) -> Failure {
        Failure::new(e.to_string())
    }
}

impl From<BadQuantity> for Failure {
    fn from(e: BadQuantity) -> Failure {
        Failure::usage(e.what).hint(e.hint)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        Failure::new(clove_client::paths::in_words(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_code_and_the_next_step() {
        let f = Failure::from(SysError::new(ErrorCode::NoAgent, "no agent `x\x1b[2J`"));
        assert_eq!(
            f.to_string(),
            "clove: error: no agent `x\\u{1b}[2J` (E0201)\n  try: `clove ps -a` lists agents, ended ones too"
        );
        assert_eq!(f.code, 125);
        let f = Failure::from(SysError::new(ErrorCode::ProgramNotFound, "foo: No such file or directory"));
        assert_eq!(f.code, 127);
        let f = Failure::from(SysError::new(ErrorCode::NotExecutable, "foo: Permission denied"));
        assert_eq!(f.code, 126);
    }
}
