//! The names of the files in a journal directory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::io_failure::IoFailure;

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Layout {
        Layout { dir: dir.to_owned() }
    }

    pub(crate) fn segment(&self, first_seq: u64) -> PathBuf {
        self.dir.join(format!("{first_seq:016x}.seg"))
    }

    pub(crate) fn seal(&self, first_seq: u64) -> PathBuf {
        self.dir.join(format!("{first_seq:016x}.root"))
    }

    pub(crate) fn checkpoint(&self, seq: u64) -> PathBuf {
        self.dir.join(format!("{seq:016x}.ckpt"))
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.dir.join("boot")
    }

    pub(crate) fn heads(&self) -> PathBuf {
        self.dir.join("heads.jsonl")
    }

    /// First sequence numbers of the segments present, ascending.
    pub(crate) fn segments(&self) -> Result<Vec<u64>, IoFailure> {
        self.numbered("seg")
    }

    /// First sequence numbers of the seals present, ascending.
    pub(crate) fn seals(&self) -> Result<Vec<u64>, IoFailure> {
        self.numbered("root")
    }

    /// Sequence numbers of the checkpoints present, ascending.
    pub(crate) fn checkpoints(&self) -> Result<Vec<u64>, IoFailure> {
        self.numbered("ckpt")
    }

    /// Files that a crash left unfinished.
    pub(crate) fn unfinished(&self) -> Result<Vec<PathBuf>, IoFailure> {
        let mut paths = self.paths()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "tmp"));
        Ok(paths)
    }

    fn numbered(&self, extension: &str) -> Result<Vec<u64>, IoFailure> {
        let number = |path: &PathBuf| {
            let stem = path.file_name()?.to_str()?.strip_suffix(extension)?.strip_suffix('.')?;
            // Exactly what we write: 16 lower-case digits. `from_str_radix` alone would take "+1" or "1".
            let ours =
                stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if ours { u64::from_str_radix(stem, 16).ok() } else { None }
        };
        let mut numbers: Vec<u64> = self.paths()?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, IoFailure> {
        let failure = |error| IoFailure::new("list", &self.dir, error);
        fs::read_dir(&self.dir)
            .map_err(failure)?
            .map(|entry| entry.map(|entry| entry.path()).map_err(failure))
            .collect()
    }
}
