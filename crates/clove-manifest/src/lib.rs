//! Sweep files: from TOML, or from a script and flags, to a checked list of tasks.
//!
//! Parsing is pure. [`source`] and [`text_file`] alone read files.

pub mod configurations;
pub mod diagnostic;
pub mod flags;
pub mod plain_words;
pub mod random;
pub mod section;
pub mod source;
pub mod suggestion;
pub mod sweep;
pub mod sweep_file;
pub mod task_name;
pub mod text_file;
pub mod units;
pub mod value;

pub use diagnostic::Diagnostic;
pub use sweep::{Entry, Located, Sweep};

/// Most tasks of one sweep.
pub const MAX_TASKS: usize = 1_000_000;
