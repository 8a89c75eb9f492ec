//! The progress bar: the one part of the command line that moves a terminal's cursor.

use crate::cli::stdio;
use clove_abi::untrusted::Untrusted;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A bar on standard error, which has to be a terminal.
#[derive(Clone)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Shows an empty one.
    pub fn new() -> Bar {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:28}  {wide_msg} {elapsed:>5}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar(bar)
    }

    /// How far it is, and what stands beside it.
    pub fn set(&self, done: u64, total: u64, text: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(Untrusted::new(text).to_string());
    }

    /// As [`stdio::say`], above the bar.
    pub fn say(&self, text: &str) {
        self.0.println(stdio::told(text));
    }

    /// Takes it away.
    pub fn close(&self) {
        self.0.finish_and_clear();
    }
}
