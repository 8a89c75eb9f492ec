//! Reading and writing the small files of control groups.

use super::CgroupError;
use std::fs;
use std::path::Path;

pub fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError {
        action: "write",
        path: format!("{} = {value}", path.display()),
        source,
    })
}

/// Makes a group in our folder, and that again when it is gone: a launcher of the same directory that is just leaving
/// removes it behind itself. True when the folder had to be made.
pub fn make_in(folder: &Path, group: &Path) -> Result<bool, CgroupError> {
    match make(group) {
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {
            match make(folder) {
                Err(e) if e.source.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            make(group).map(|()| true)
        }
        made => made.map(|()| false),
    }
}

/// Makes a throw-away group in our folder. Once it is there, nobody else can remove the folder; until then a launcher of
/// the same directory that is just leaving may do so any number of times.
pub fn make_trial(folder: &Path) -> Option<std::path::PathBuf> {
    const TRIES: u32 = 100;
    let trial = folder.join(format!("trial-{}", std::process::id()));
    for _ in 0..TRIES {
        match make_in(folder, &trial) {
            Ok(_) => return Some(trial),
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(_) => return None,
        }
    }
    None
}

/// A throw-away group of a launcher that is trying out this host right now: not a leftover, so not to be cleared away.
pub fn is_trial_of_the_living(name: &str) -> bool {
    name.strip_prefix("trial-")
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

/// Absent files and folders are fine.
pub fn write_if_there(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

pub fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir(path).map_err(|source| CgroupError {
        action: "make",
        path: path.display().to_string(),
        source,
    })
}

pub fn open(path: &Path, write: bool) -> Result<std::os::fd::OwnedFd, CgroupError> {
    let file = fs::File::options().read(!write).write(write).open(path);
    file.map(Into::into).map_err(|source| CgroupError {
        action: "open",
        path: path.display().to_string(),
        source,
    })
}

/// A single number; 0 when it can't be read, the largest for `max`.
pub fn number(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        t => t.parse().unwrap_or(0),
    }
}

/// The number after `key` in a file of `key number` lines; 0 when there is none.
pub fn keyed(path: &Path, key: &str) -> u64 {
    keyed_in(&fs::read_to_string(path).unwrap_or_default(), key)
}

pub fn keyed_in(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, v)| v.trim().parse().ok())
        .unwrap_or(0)
}

pub fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}

/// True when it is gone.
pub fn remove(path: &Path) -> bool {
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Names of the groups directly below.
pub fn below(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
