//! v1 pids: how many processes and threads there may be.

use crate::cgroup::{CgroupError, files};
use std::path::Path;

pub fn is_limited(group: &Path) -> bool {
    group.join("pids.max").exists() && files::number(&group.join("pids.max")) != u64::MAX
}

pub fn set(group: &Path, max: u32) -> Result<(), CgroupError> {
    files::write(&group.join("pids.max"), &max.to_string())
}

pub fn refused(group: &Path) -> u64 {
    files::keyed(&group.join("pids.events"), "max")
}

pub fn now(group: &Path) -> u64 {
    files::number(&group.join("pids.current"))
}
