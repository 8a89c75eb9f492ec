//! v1 cpuacct: time used.

use crate::cgroup::files;
use std::path::Path;

/// User and system time in microseconds.
pub fn times(group: &Path) -> (u64, u64) {
    let us = |name: &str| files::number(&group.join(name)) / 1000;
    (us("cpuacct.usage_user"), us("cpuacct.usage_sys"))
}
