//! What this machine can give away, and what an agent gets when nothing is asked for.

use clove_abi::limits::Limits;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// Memory and CPUs for agents.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub memory_bytes: u64,
    pub cpus: u32,
}

/// The least of the host's available memory, the enclosing cgroups' limits and Slurm's allotment, less a reserve of
/// a twentieth (at least 256 MiB) for the kernel, its templates and the host; the least of affinity mask, CPU quota
/// and Slurm's count.
pub fn measure() -> Capacity {
    let mut memory = available_memory().unwrap_or(1024 * MIB);
    for limit in enclosing_memory_limits() {
        memory = memory.min(limit);
    }
    if let Some(mb) = slurm("SLURM_MEM_PER_NODE") {
        memory = memory.min(mb * MIB);
    }
    let reserve = (memory / 20).max(256 * MIB).min(memory / 2);
    let mut cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    if let Some(n) = slurm("SLURM_CPUS_PER_TASK").or_else(|| slurm("SLURM_CPUS_ON_NODE")) {
        cpus = cpus.min(n.clamp(1, 100_000) as u32);
    }
    Capacity { memory_bytes: memory - reserve, cpus: cpus.max(1) }
}

/// Defaults: memory is shared out by the scheduler, the rest is here.
pub fn defaults(c: &Capacity) -> Limits {
    let share = c.memory_bytes / u64::from(c.cpus);
    Limits {
        memory_bytes: share,
        memory_reserve_bytes: share,
        cpu_milli: 0,
        cpu_weight: 100,
        pids: 512,
        disk_bytes: (2048 * MIB).min(share),
        nofile: 4096,
        wall_ms: 0,
        output_bytes: 16 * MIB,
    }
}

fn slurm(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok().filter(|n| *n > 0)
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Limits of the cgroups that this process is in, all the way up, v1 and v2.
fn enclosing_memory_limits() -> Vec<u64> {
    let Ok(own) = std::fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (roots, file): (&[&str], &str) = if controllers.is_empty() {
            (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for root in roots {
            let mut at = PathBuf::from(format!("{root}{path}"));
            while at.starts_with(root) {
                limits.extend(read_limit(&at.join(file)));
                if !at.pop() {
                    break;
                }
            }
        }
    }
    limits
}

fn read_limit(path: &Path) -> Option<u64> {
    let n: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    // v1 writes "no limit" as the largest page-aligned number.
    (n > 0 && n < 1 << 60).then_some(n)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_leaves_a_reserve() {
        let c = super::measure();
        assert!(c.cpus >= 1 && c.memory_bytes > 64 << 20);
        let d = super::defaults(&c);
        assert!(d.memory_bytes * u64::from(c.cpus) <= c.memory_bytes);
        assert!(d.disk_bytes <= d.memory_bytes);
    }
}
