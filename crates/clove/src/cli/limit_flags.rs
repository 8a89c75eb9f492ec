//! The limits' flags, as Docker spells them.

use crate::cli::failure::Failure;
use clap::Args;
use clove_abi::{Limits, LimitsSpec};
use clove_manifest::units::{BadQuantity, Bytes, Elapsed, parse_bytes, parse_cpus, parse_duration_ms};

/// What an agent may use. What isn't given gets the kernel's default.
#[derive(Args, Clone, Debug, Default)]
pub struct LimitFlags {
    /// Memory, files in its own folders included; no swap. For example 512m or 2g
    #[arg(long, help_heading = "Limits", short = 'm', value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Memory that is set aside for it when it starts; as much as --memory when absent
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = bytes)]
    pub memory_reserve: Option<u64>,
    /// CPUs, as a quota: 0.5 is half of one
    #[arg(long, help_heading = "Limits", visible_alias = "cpu", value_name = "N", value_parser = cpus)]
    pub cpus: Option<u32>,
    /// Share of the CPUs when they are all busy, 1 to 10000; 100 is usual
    #[arg(long, help_heading = "Limits", visible_alias = "cpu-shares", value_name = "N")]
    pub cpu_weight: Option<u32>,
    /// Processes and threads
    #[arg(long, help_heading = "Limits", visible_alias = "pids", value_name = "N")]
    pub pids_limit: Option<u32>,
    /// Bytes in its work folder, /tmp, /dev/shm, output and checkpoint folders together
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = bytes)]
    pub disk: Option<u64>,
    /// Open files of one process
    #[arg(long, help_heading = "Limits", value_name = "N")]
    pub nofile: Option<u32>,
    /// Wall time: 90s, 10m, 1h30m
    #[arg(long, help_heading = "Limits", value_name = "TIME", value_parser = duration)]
    pub timeout: Option<u64>,
    /// Standard output and standard error that are kept
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = bytes)]
    pub output_limit: Option<u64>,
}

impl LimitFlags {
    /// As the kernel takes them.
    ///
    /// # Errors
    /// A value that can't work.
    pub fn spec(&self) -> Result<LimitsSpec, Failure> {
        let spec = LimitsSpec {
            memory_bytes: self.memory,
            memory_reserve_bytes: self.memory_reserve,
            cpu_milli: self.cpus,
            cpu_weight: self.cpu_weight,
            pids: self.pids_limit,
            disk_bytes: self.disk,
            nofile: self.nofile,
            wall_ms: self.timeout,
            output_bytes: self.output_limit,
        };
        spec.check().map_err(Failure::usage)?;
        Ok(spec)
    }
}

fn in_one_line(e: BadQuantity) -> String {
    format!("{}; {}", e.what, e.hint)
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(in_one_line)
}

/// A time with its unit, in milliseconds, for clap.
///
/// # Errors
/// What is wrong.
pub fn duration(text: &str) -> Result<u64, String> {
    parse_duration_ms(text).map_err(in_one_line)
}

fn cpus(text: &str) -> Result<u32, String> {
    parse_cpus(text).map_err(in_one_line)
}

/// Limits in one line.
pub fn in_words(l: &Limits) -> String {
    let mut parts = vec![format!("memory {}", Bytes(l.memory_bytes))];
    if l.memory_reserve_bytes != l.memory_bytes {
        parts.push(format!("{} of it set aside", Bytes(l.memory_reserve_bytes)));
    }
    parts.push(match l.cpu_milli {
        0 => "CPUs without quota".to_owned(),
        n => format!("{} CPUs", f64::from(n) / 1000.0),
    });
    parts.push(format!("pids {}", l.pids));
    parts.push(format!("disk {}", Bytes(l.disk_bytes)));
    parts.push(format!("open files {}", l.nofile));
    parts.push(match l.wall_ms {
        0 => "no timeout".to_owned(),
        ms => format!("timeout {}", Elapsed(ms)),
    });
    parts.push(format!("output {}", Bytes(l.output_bytes)));
    parts.join(", ")
}
