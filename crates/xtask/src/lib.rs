//! What follows from the syscall table outside of Rust, and the rules that the workspace keeps.

mod errors_page;
pub mod generated;
mod python_numbers;
mod row_errors;
pub mod rust_words;
mod schema_text;
mod syscalls_page;

use std::path::PathBuf;

/// The folder that holds the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
