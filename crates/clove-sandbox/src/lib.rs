//! From policy to a running, isolated process: the plan, the launcher that carries it out, and what watches over it.
//!
//! A *cell* is a first process (init), seven namespaces, an own root, cgroups and a listening socket. The launcher
//! builds it; then either init executes a program in it (cold), or a template puts an embryo into it (warm).

pub mod cgroup;
mod compile;
pub mod host;
mod idmap;
pub mod launcher;
pub mod link;
pub mod plan;
pub mod probe;
pub mod protocol;
pub mod seccomp;
mod sources;
mod stage;
mod uids;

pub use launcher::{LauncherConfig, LauncherError, fork_launcher, fork_launcher_with};
pub use link::Link;

/// The exit code that a shell expects when a program couldn't be executed: 127 when there is none, 126 otherwise.
pub fn exec_failure_code(errno: i32) -> i32 {
    if errno == libc::ENOENT || errno == libc::ENOTDIR { 127 } else { 126 }
}
