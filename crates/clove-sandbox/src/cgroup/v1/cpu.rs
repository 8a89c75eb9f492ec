//! v1 cpu: shares when the machine is full, and a quota.

use crate::cgroup::{CgroupError, files, quota};
use std::path::Path;

pub fn is_limited(group: &Path) -> bool {
    let text = std::fs::read_to_string(group.join("cpu.cfs_quota_us")).unwrap_or_default();
    text.trim().parse::<i64>().is_ok_and(|q| q > 0)
}

/// Weight 100 is 1024 shares.
pub fn set(group: &Path, weight: u32, cpu_milli: u32) -> Result<(), CgroupError> {
    let shares = (u64::from(weight) * 1024 / 100).clamp(2, 262_144);
    files::write(&group.join("cpu.shares"), &shares.to_string())?;
    match quota(cpu_milli) {
        Some((quota, period)) => {
            files::write(&group.join("cpu.cfs_period_us"), &period.to_string())?;
            files::write(&group.join("cpu.cfs_quota_us"), &quota.to_string())
        }
        None => files::write_if_there(&group.join("cpu.cfs_quota_us"), "-1"),
    }
}

pub fn throttled_periods(group: &Path) -> u64 {
    files::keyed(&group.join("cpu.stat"), "nr_throttled")
}
