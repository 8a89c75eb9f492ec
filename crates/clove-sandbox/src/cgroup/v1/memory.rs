//! v1 memory: a hard limit without swap, and an eventfd that tells of running out.

use crate::cgroup::{CgroupError, files};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// No limit is written as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

pub fn is_limited(group: &Path) -> bool {
    files::number(&group.join("memory.limit_in_bytes")) < UNLIMITED
}

/// What TCP may keep in its buffers, which v1 counts apart, and without a limit of its own not at all. They only lead
/// over `lo`; with less than it wants, TCP is slow.
const TCP_BYTES: u64 = 64 << 20;

/// Memory and swap together may not be less than memory, so the order depends on the direction.
pub fn set_limit(group: &Path, bytes: u64) -> Result<(), CgroupError> {
    files::write_if_there(&group.join("memory.kmem.tcp.limit_in_bytes"), &bytes.min(TCP_BYTES).to_string())?;
    let memory = group.join("memory.limit_in_bytes");
    let with_swap = group.join("memory.memsw.limit_in_bytes");
    let value = bytes.to_string();
    if with_swap.exists() {
        if bytes > files::number(&memory) {
            files::write(&with_swap, &value)?;
            files::write(&memory, &value)
        } else {
            files::write(&memory, &value)?;
            files::write(&with_swap, &value)
        }
    } else {
        // Without swap accounting (swapaccount=0) this is the nearest to no swap.
        files::write(&memory, &value)?;
        files::write(&group.join("memory.swappiness"), "0")
    }
}

/// cgroup-v1/memory.rst, section 10: an eventfd registered with memory.oom_control.
pub fn watch_oom(group: &Path) -> Option<OwnedFd> {
    let event = rustix::event::eventfd(
        0,
        rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
    );
    let event = event.ok()?;
    let control = std::fs::File::open(group.join("memory.oom_control")).ok()?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    std::fs::write(group.join("cgroup.event_control"), line).ok()?;
    Some(event)
}

/// Processes killed for want of memory. `memory.failcnt` can stay 0 (facts.md).
pub fn oom_kills(group: &Path) -> u64 {
    files::keyed(&group.join("memory.oom_control"), "oom_kill")
}

pub fn peak(group: &Path) -> u64 {
    files::number(&group.join("memory.max_usage_in_bytes"))
}

pub fn now(group: &Path) -> u64 {
    files::number(&group.join("memory.usage_in_bytes"))
}

/// tmpfs pages.
pub fn shmem(group: &Path) -> u64 {
    files::keyed(&group.join("memory.stat"), "shmem")
}
