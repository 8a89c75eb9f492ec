//! The caller's terminal: raw while an agent has one of its own, and put back afterwards.

use crate::cli::failure::Failure;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::sync::Mutex;

/// The settings to put back; here and not in the guard, so that a thread that ends the process can put them back too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw as long as it lives.
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input's terminal raw: every key, Ctrl-C too, goes to the agent's terminal.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> Result<RawTerminal, Failure> {
        let failed = |e: rustix::io::Errno| Failure::new("the terminal can't be made raw").why(e.to_string());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        if let Ok(mut kept) = BEFORE.lock() {
            *kept = Some(before);
        }
        Ok(RawTerminal(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        put_back();
    }
}

/// Puts the terminal back, if it is raw.
pub fn put_back() {
    if let Ok(mut kept) = BEFORE.lock()
        && let Some(before) = kept.take()
    {
        // Nothing better can be done than to try.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(io::stdin())
}

/// Rows and columns of the caller's terminal, whichever of its streams is one.
pub fn size() -> Option<(u16, u16)> {
    let of = |r: rustix::io::Result<rustix::termios::Winsize>| {
        r.ok().filter(|w| w.ws_row > 0).map(|w| (w.ws_row, w.ws_col))
    };
    of(tcgetwinsize(io::stdout()))
        .or_else(|| of(tcgetwinsize(io::stdin())))
        .or_else(|| of(tcgetwinsize(io::stderr())))
}
