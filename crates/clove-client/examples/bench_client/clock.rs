//! The clock that the kernel, its agents and this program share: no namespace of an agent shifts CLOCK_MONOTONIC.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before the machine's programs started.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
