//! What an agent may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits as somebody asked for them: what is absent gets the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Hard memory limit in bytes, page cache of its own files and tmpfs included; no swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What admission counts, in bytes; equal to `memory_bytes` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reserve_bytes: Option<u64>,
    /// CPU quota in thousandths of a CPU (500 is half a CPU).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Relative CPU share when the machine is full, 1 to 10000, 100 by default (cgroup v2 `cpu.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes in the work folder, /tmp, /dev/shm, the output and checkpoint folders together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Open files of one process (RLIMIT_NOFILE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
    /// Wall time in milliseconds from its start; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Bytes of standard output and standard error that are kept; the rest is counted and dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

/// Limits as they are enforced: nothing is left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub memory_bytes: u64,
    pub memory_reserve_bytes: u64,
    /// Thousandths of a CPU; 0 means no quota.
    pub cpu_milli: u32,
    pub cpu_weight: u32,
    pub pids: u32,
    pub disk_bytes: u64,
    pub nofile: u32,
    /// Milliseconds; 0 means none.
    pub wall_ms: u64,
    pub output_bytes: u64,
}

impl LimitsSpec {
    /// Fills what is absent from `defaults`. The reserve follows an explicit memory limit.
    pub fn resolve(&self, defaults: &Limits) -> Limits {
        let memory_bytes = self.memory_bytes.unwrap_or(defaults.memory_bytes);
        Limits {
            memory_bytes,
            memory_reserve_bytes: self.memory_reserve_bytes.unwrap_or(if self.memory_bytes.is_some() {
                memory_bytes
            } else {
                defaults.memory_reserve_bytes
            }),
            cpu_milli: self.cpu_milli.unwrap_or(defaults.cpu_milli),
            cpu_weight: self.cpu_weight.unwrap_or(defaults.cpu_weight),
            pids: self.pids.unwrap_or(defaults.pids),
            disk_bytes: self.disk_bytes.unwrap_or_else(|| defaults.disk_bytes.min(memory_bytes)),
            nofile: self.nofile.unwrap_or(defaults.nofile),
            wall_ms: self.wall_ms.unwrap_or(defaults.wall_ms),
            output_bytes: self.output_bytes.unwrap_or(defaults.output_bytes),
        }
    }

    /// What `over` says, else what `self` says.
    pub fn overlaid(&self, over: &LimitsSpec) -> LimitsSpec {
        LimitsSpec {
            memory_bytes: over.memory_bytes.or(self.memory_bytes),
            memory_reserve_bytes: over.memory_reserve_bytes.or(self.memory_reserve_bytes),
            cpu_milli: over.cpu_milli.or(self.cpu_milli),
            cpu_weight: over.cpu_weight.or(self.cpu_weight),
            pids: over.pids.or(self.pids),
            disk_bytes: over.disk_bytes.or(self.disk_bytes),
            nofile: over.nofile.or(self.nofile),
            wall_ms: over.wall_ms.or(self.wall_ms),
            output_bytes: over.output_bytes.or(self.output_bytes),
        }
    }

    /// Refuses values that can't work, naming the field, the value and the bound.
    pub fn check(&self) -> Result<(), String> {
        const MIB: u64 = 1 << 20;
        if let Some(m) = self.memory_bytes
            && m < 4 * MIB
        {
            return Err(format!(
                "memory = {m} bytes is too small: the least is 4 MiB (write for example 512m)"
            ));
        }
        if let Some(c) = self.cpu_milli
            && !(1..=1_000_000).contains(&c)
        {
            return Err(format!("cpus = {} is out of range: 0.001 to 1000", f64::from(c) / 1000.0));
        }
        if let Some(w) = self.cpu_weight
            && !(1..=10_000).contains(&w)
        {
            return Err(format!("cpu weight = {w} is out of range: 1 to 10000"));
        }
        if let Some(p) = self.pids
            && !(2..=4_000_000).contains(&p)
        {
            return Err(format!("pids = {p} is out of range: 2 to 4000000 (its init counts as one)"));
        }
        if let Some(d) = self.disk_bytes
            && d < 64 * 1024
        {
            return Err(format!("disk = {d} bytes is too small: the least is 64 KiB"));
        }
        if let Some(n) = self.nofile
            && !(16..=1_048_576).contains(&n)
        {
            return Err(format!("nofile = {n} is out of range: 16 to 1048576"));
        }
        if self.wall_ms == Some(0) {
            return Err("timeout = 0 would end everything at once: leave it out for no timeout".into());
        }
        Ok(())
    }
}
