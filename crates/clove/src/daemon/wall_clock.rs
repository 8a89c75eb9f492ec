//! The time of day that the kernel notes: one that doesn't jump while something runs.
//!
//! Somebody may set the clock, or NTP may step it by years when a machine without a battery comes up. What a task took is
//! the difference of two notes, so they are made on a clock that only goes on: the time of day when it was last looked
//! at, plus what CLOCK_BOOTTIME has counted since (it counts while a machine is suspended, too). It is set right when
//! nothing runs.

use rustix::time::{ClockId, clock_gettime};

/// A difference that comes of slewing (adjtimex(2): half a millisecond in a second) isn't worth a correction.
const STEP_MS: u64 = 2_000;

/// The clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    wall_ms: u64,
    boot_ms: u64,
}

impl WallClock {
    /// As the host's clock is now.
    pub fn new() -> WallClock {
        WallClock { wall_ms: wall_ms(), boot_ms: boot_ms() }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.at(boot_ms())
    }

    fn at(&self, boot_ms: u64) -> u64 {
        self.wall_ms.saturating_add(boot_ms.saturating_sub(self.boot_ms))
    }

    /// Nothing runs: follows the host's clock, if that was set. Gives by how many milliseconds, when it was.
    pub fn follow_host(&mut self) -> Option<i128> {
        let (wall_ms, boot_ms) = (wall_ms(), boot_ms());
        let mine = self.at(boot_ms);
        (wall_ms.abs_diff(mine) > STEP_MS).then(|| {
            *self = WallClock { wall_ms, boot_ms };
            i128::from(wall_ms) - i128::from(mine)
        })
    }
}

/// The host's time of day, in milliseconds since the Unix epoch; 0 before it.
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn boot_ms() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_whatever_the_hosts_clock_does_and_follows_when_asked() {
        let mut c = WallClock::new();
        assert_eq!(c.follow_host(), None);
        let years = 10 * 365 * 86_400_000;
        // As if the host's clock had been ten years ahead when this was made.
        c.wall_ms += years;
        let (first, second) = (c.now_ms(), c.now_ms());
        assert!(second >= first && first >= wall_ms() + years - STEP_MS);
        let moved = c.follow_host().expect("it was set");
        assert!((moved + i128::from(years)).abs() < i128::from(STEP_MS), "{moved}");
        assert!(c.now_ms().abs_diff(wall_ms()) < STEP_MS);
        // The clock that counts can't go back; if it did, time would stand still.
        assert_eq!(c.at(0), c.wall_ms);
    }
}
