//! Standard output and standard error: data goes to the one, everything else to the other. Nothing else in the command
//! line writes to them (`xtask/tests/terminal.rs` holds that), and what is written here is a [`Page`] or one line, so
//! nothing that somebody else has named or said reaches a terminal as it is. The two ways round it are `raw` ones.

use crate::cli::failure::Failure;
use crate::cli::page::Page;
use clove_abi::untrusted::Untrusted;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Exit code of a program that wrote to a closed pipe, as a shell shows it: 128 + SIGPIPE.
pub const BROKEN_PIPE: i32 = 141;

/// Prints a page. A closed pipe (`clove ps | head -1`) ends the command quietly.
pub fn show(page: &Page) {
    raw(page.text().as_bytes());
}

/// Prints one line of data.
pub fn line(text: impl Display) {
    let mut page = Page::new();
    page.line(text);
    show(&page);
}

/// Prints a path for a script, as its bytes are; on a terminal as a line.
pub fn path(path: &Path) {
    if io::stdout().is_terminal() {
        return line(path.display());
    }
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    bytes.push(b'\n');
    raw(&bytes);
}

/// Writes bytes as they are: what a program reads, and what a program that is attached to us writes.
pub fn raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(bytes).and_then(|()| out.flush()) {
        std::process::exit(unwritable(&e));
    }
}

/// Standard output can't be written: says so, unless its reader has simply left, and gives the exit code.
pub fn unwritable(e: &io::Error) -> i32 {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return BROKEN_PIPE;
    }
    say(&format!("error: can't write to standard output: {}", clove_client::paths::in_words(e)));
    crate::cli::failure::REFUSED
}

/// One of our two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

impl Stream {
    /// Writes bytes as they are.
    ///
    /// # Errors
    /// As write(2).
    pub fn write_raw(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Out => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Stream::Err => io::stderr().lock().write_all(bytes),
        }
    }

    /// A person looks at it.
    pub fn is_terminal(self) -> bool {
        match self {
            Stream::Out => io::stdout().is_terminal(),
            Stream::Err => io::stderr().is_terminal(),
        }
    }

    /// Colours make sense on it.
    pub fn is_colourful(self) -> bool {
        self.is_terminal() && !is_dumb() && !no_colour()
    }
}

/// Tells the person something in one line, on standard error. Nothing can be done when that is closed.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", told(text));
}

/// The line that [`say`] writes, for what moves a progress bar out of its way first.
pub fn told(text: &str) -> String {
    format!("clove: {}", Untrusted::new(text))
}

/// Says why a command failed.
pub fn complain(failure: &Failure) {
    let _ = writeln!(io::stderr().lock(), "{failure}");
}

/// Says what the command line's parser makes of it. The words in it are escaped already ([`crate::cli::main`]).
pub fn complain_of_usage(text: &str) {
    let _ = writeln!(io::stderr().lock(), "clove: {}", Untrusted::lines_kept(text.trim_end()));
}

/// Progress bars and colours make sense on standard error.
pub fn stderr_is_lively() -> bool {
    Stream::Err.is_colourful()
}

/// no-color.org: set and not empty. A moving progress bar is made of escape sequences too.
fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t == "dumb" || t.is_empty())
}
