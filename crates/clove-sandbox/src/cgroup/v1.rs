//! The v1 controllers, one file each. A v1 hierarchy is a folder tree of its own.

pub mod cpu;
pub mod cpuacct;
pub mod freezer;
pub mod memory;
pub mod pids;
