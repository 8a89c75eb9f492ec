//! Why a kernel can't start, in one sentence, and what to do about it.

use clove_client::start::{LOCKED, TRY};
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// The kernel can't serve.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub reason: String,
    /// What to do next.
    pub hint: String,
    /// Another kernel has the data directory: the one who asked for this one finds that.
    pub locked: bool,
}

impl Refusal {
    /// With what to do next.
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), hint: hint.into(), locked: false }
    }

    /// A failure on the way up, with what the system's answer means for a data directory.
    pub fn of(e: &anyhow::Error, data_dir: &Path) -> Refusal {
        let answer = e.chain().find_map(|cause| {
            let io = cause
                .downcast_ref::<io::Error>()
                .and_then(|e| e.raw_os_error().map(Errno::from_raw_os_error));
            io.or_else(|| cause.downcast_ref::<Errno>().copied())
        });
        Refusal::new(sentence(e), answer.and_then(|a| advice(a, data_dir)).unwrap_or_default())
    }

    /// For the one who waits at the ready pipe.
    pub fn told(&self) -> String {
        let begin = if self.locked { LOCKED } else { "" };
        let hint = if self.hint.is_empty() { String::new() } else { format!("{TRY}{}", self.hint) };
        format!("{begin}{}{hint}", self.reason)
    }
}

/// An error and its causes, each said once: many an error's text has its cause's in it already.
fn sentence(e: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in e.chain() {
        let text = without_numbers(&cause.to_string());
        if out.is_empty() {
            out = text;
        } else if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
    }
    out
}

/// Rust puts ` (os error 28)` behind the system's words.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        out.push_str(before);
        rest = after.split_once(')').map_or("", |(_, r)| r);
    }
    out + rest
}

/// What to do when the system gave this answer about a file of the data directory.
fn advice(answer: Errno, data_dir: &Path) -> Option<String> {
    let dir = data_dir.display();
    Some(match answer {
        Errno::NOSPC => format!("make room on the disk of {dir} (df -h {dir}): a start needs some 20 MiB"),
        Errno::DQUOT => format!("make room: the disk quota for {dir} is used up (quota -s)"),
        Errno::ROFS => {
            format!("mount the file system of {dir} writable, or set CLOVE_HOME to a folder elsewhere")
        }
        Errno::PERM => {
            format!("look whether its files are immutable (lsattr -d {dir}; chattr -i takes that away)")
        }
        Errno::ACCESS => format!("see that {dir} and all in it belong to you and can be written to"),
        Errno::IO => {
            format!("the disk of {dir} reports errors (dmesg): set CLOVE_HOME to a folder on another one")
        }
        Errno::MFILE | Errno::NFILE => "raise the number of files that may be open (ulimit -n)".to_owned(),
        Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP => {
            format!(
                "the file system of {dir} can't do what is needed: set CLOVE_HOME to a folder on a local disk"
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reserve space for x.seg: {source}")]
    struct Inner {
        source: io::Error,
    }

    #[test]
    fn each_cause_is_said_once_and_the_answer_has_its_advice() {
        let inner = Inner { source: Errno::NOSPC.into() };
        let e = Err::<(), _>(inner).context("the journal can't be opened").expect_err("error");
        let r = Refusal::of(&e, Path::new("/d"));
        assert_eq!(
            r.reason,
            "the journal can't be opened: cannot reserve space for x.seg: No space left on device"
        );
        assert_eq!(r.hint, "make room on the disk of /d (df -h /d): a start needs some 20 MiB");
        assert_eq!(r.told(), format!("{}\ntry: {}", r.reason, r.hint));
    }

    #[test]
    fn answers_without_advice_have_none() {
        let e = Err::<(), _>(Errno::XDEV).context("x").expect_err("error");
        assert_eq!(Refusal::of(&e, Path::new("/d")), Refusal::new("x: Invalid cross-device link", ""));
        let r = Refusal { locked: true, ..Refusal::new("another kernel", "clove stop") };
        assert_eq!(r.told(), "locked: another kernel\ntry: clove stop");
    }
}
