//! What the kernel says about itself: one line each, in kernel.log or on the terminal of `clove serve`. Names of files,
//! errors of templates and the like are in it, so it is escaped; nothing else of the daemon writes to standard error.

use clove_abi::untrusted::Untrusted;
use std::fmt::Arguments;

/// Says something, in the form of `format!`.
macro_rules! say {
    ($($text:tt)*) => { $crate::daemon::kernel_log::line(format_args!($($text)*)) };
}

/// Writes one line; nobody can be told when that fails.
pub fn line(text: Arguments<'_>) {
    use std::io::Write as _;
    // In one write: on a full disk, a line is there or it isn't.
    let line = format!("clove: {}\n", Untrusted::new(&text.to_string()));
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
