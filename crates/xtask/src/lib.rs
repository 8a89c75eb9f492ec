//! What follows from the syscall table outside of Rust, and the rules that the workspace keeps.

mod errors_page;
pub mod generated;
mod python_numbers;
mod row_errors;
pub mod rust_words;
mod schema_text;
mod syscalls_page;

use std::path::{Path, PathBuf};

/// The folder that holds the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All Rust files below a folder of this workspace.
///
/// # Panics
/// When a folder can't be read, or there are so few files that it can't be the right one.
pub fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources weren't found");
    found
}
