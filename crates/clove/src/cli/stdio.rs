//! Standard output and standard error: data goes to the one, everything else to the other.

use std::io::{self, IsTerminal, Write};

/// Exit code of a program that wrote to a closed pipe, as a shell shows it: 128 + SIGPIPE.
pub const BROKEN_PIPE: i32 = 141;

/// Writes data. A closed pipe (`clove ps | head -1`) ends the command quietly.
pub fn data(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(bytes).and_then(|()| out.flush()) {
        if e.kind() != io::ErrorKind::BrokenPipe {
            say(&format!("error: can't write to standard output: {}", clove_client::paths::in_words(&e)));
            std::process::exit(crate::cli::failure::REFUSED);
        }
        std::process::exit(BROKEN_PIPE);
    }
}

/// Writes a line of data.
pub fn line(text: &str) {
    data(format!("{text}\n").as_bytes());
}

/// Tells the person something, on standard error. Nothing can be done when that is closed.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "clove: {text}");
}

/// Something that isn't data, as it is.
pub fn aside(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Progress bars and colours make sense on standard error.
pub fn stderr_is_lively() -> bool {
    io::stderr().is_terminal() && !is_dumb() && !no_colour()
}

/// Colours make sense on standard output.
pub fn stdout_is_colourful() -> bool {
    io::stdout().is_terminal() && !is_dumb() && !no_colour()
}

/// no-color.org: set and not empty. A moving progress bar is made of escape sequences too.
fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t == "dumb" || t.is_empty())
}
