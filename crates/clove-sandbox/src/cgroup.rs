//! Limits that the host enforces from outside, by control groups.

pub mod files;
mod hierarchies;
mod hybrid;
mod v1;
mod v2;

use clove_abi::Limits;
use clove_abi::certificate::Usage;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use hierarchies::Hierarchies;

/// One agent's group in every hierarchy, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub String);

/// What a group holds right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub memory_bytes: u64,
    pub pids: u64,
}

/// Open files of one group. The right to enter lies in having them, whoever writes.
#[derive(Debug)]
pub struct Doors {
    /// `tasks` of each v1 hierarchy: entered by writing "0".
    pub tasks: Vec<OwnedFd>,
    /// The v2 group's folder, to be born in (CLONE_INTO_CGROUP), and its `cgroup.procs`, to enter later.
    pub v2: Option<(OwnedFd, OwnedFd)>,
}

/// A file of a control group that couldn't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct CgroupError {
    pub action: &'static str,
    pub path: String,
    #[source]
    pub source: io::Error,
}

/// Control groups of one kind. Nothing here blocks.
pub trait Backend {
    /// `v1` or `v2`.
    fn name(&self) -> &'static str;
    /// Limits that can't be enforced here: `memory`, `cpu`, `pids`.
    fn missing(&self) -> Vec<String>;
    /// Makes the group with its limits set. On an error nothing of it is left.
    fn create(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError>;
    /// The ways in, for processes that enter it themselves.
    fn doors(&self, group: &Group) -> Result<Doors, CgroupError>;
    fn set_limits(&self, group: &Group, limits: &Limits) -> Result<(), CgroupError>;
    /// Becomes readable when the group is out of memory. `None` where the kernel itself then kills the whole group.
    fn watch_oom(&self, group: &Group) -> Option<OwnedFd>;
    fn freeze(&self, group: &Group, frozen: bool) -> Result<(), CgroupError>;
    /// SIGKILL for everything in it. False when that can't be done at once for the whole group.
    fn kill(&self, group: &Group) -> bool;
    fn usage(&self, group: &Group) -> Usage;
    fn now(&self, group: &Group) -> Now;
    /// Host pids of everything in it.
    fn processes(&self, group: &Group) -> Vec<i32>;
    /// True when nothing of it is left; false when it must be tried again a little later.
    fn remove(&self, group: &Group) -> bool;
    /// Removes the folder that holds the groups, when it is empty. Nothing can be made in it afterwards.
    fn remove_folder(&self);
    /// Names of all groups there are.
    fn groups(&self) -> Vec<Group>;
    /// The group's line in /proc/PID/cgroup for each hierarchy: (controllers, path).
    fn paths(&self, group: &Group) -> Vec<(String, String)>;
}

/// The back end for this host, found by trying. The groups lie in a folder that is named after the data directory.
pub fn probe(data_dir: &Path) -> Box<dyn Backend> {
    let hierarchies = Hierarchies::find();
    let folder = folder_name(data_dir);
    match v2::V2::try_new(&hierarchies, &folder) {
        Some(v2) => Box::new(v2),
        None => Box::new(hybrid::Hybrid::try_new(&hierarchies, &folder)),
    }
}

/// `clove-` and eight hex digits of the path (FNV-1a: a name, not a secret).
fn folder_name(data_dir: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in data_dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("clove-{:08x}", (hash >> 32) as u32 ^ hash as u32)
}

/// Quota and period in microseconds. The kernel takes no quota below 1 ms, and no period above 1 s.
fn quota(cpu_milli: u32) -> Option<(u64, u64)> {
    let milli = u64::from(cpu_milli);
    match milli {
        0 => None,
        1..=9 => Some((milli * 1000, 1_000_000)),
        _ => Some((milli * 100, 100_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_stay_in_what_the_kernel_takes() {
        assert_eq!(quota(0), None);
        for milli in [1u32, 9, 10, 500, 1500, 64_000] {
            let (q, p) = quota(milli).expect("a quota");
            assert!(q >= 1000 && p <= 1_000_000, "{milli}");
            assert_eq!(q * 1000 / p, u64::from(milli));
        }
    }

    #[test]
    fn each_data_directory_has_a_folder_of_its_own() {
        let a = folder_name(Path::new("/a"));
        assert_ne!(a, folder_name(Path::new("/b")));
        assert_eq!(a.len(), 14);
    }
}
