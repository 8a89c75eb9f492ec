//! When a failed attempt is repeated: exponential backoff with jitter that follows from the run's seed.

use clove_abi::run::Retry;

/// SplitMix64 (Steele, Lea, Flood 2014): spreads related inputs over the whole range.
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Seed of one task: a function of the run's seed and the index, the same in every attempt. At most 53 bits, so
/// that every JSON reader takes it exactly.
pub fn task_seed(run_seed: u64, index: u32) -> u64 {
    splitmix64(run_seed ^ splitmix64(u64::from(index) + 1)) >> 11
}

/// Milliseconds to wait before attempt `attempt` (2 is the first repetition): backoff doubled each time, within its
/// bound, times a jitter of 0.5 to 1.5.
pub fn wait_ms(retry: &Retry, run_seed: u64, index: u32, attempt: u32) -> u64 {
    let doublings = attempt.saturating_sub(2).min(40);
    let base =
        retry.backoff_ms.saturating_mul(1u64 << doublings).min(retry.backoff_max_ms.max(retry.backoff_ms));
    let jitter = splitmix64(run_seed ^ (u64::from(index) << 20) ^ u64::from(attempt)) % 1024;
    base / 2 + base.saturating_mul(jitter) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds() {
        let r = Retry { deaths: 9, failures: 0, backoff_ms: 100, backoff_max_ms: 5_000 };
        for index in 0..200 {
            for attempt in 2..60 {
                let base = (100u64 << (attempt - 2).min(30)).min(5_000);
                let w = wait_ms(&r, 7, index, attempt);
                assert!(w >= base / 2 && w <= base * 3 / 2, "{attempt}: {w} for {base}");
            }
        }
        assert_ne!(wait_ms(&r, 7, 1, 2), wait_ms(&r, 7, 2, 2), "jitter spreads tasks");
    }

    #[test]
    fn seeds_differ_between_tasks_and_repeat() {
        let seeds: std::collections::BTreeSet<u64> = (0..10_000).map(|i| task_seed(0, i)).collect();
        assert_eq!(seeds.len(), 10_000);
        assert_eq!(task_seed(5, 3), task_seed(5, 3));
        assert!(seeds.iter().all(|s| *s < 1 << 53));
    }
}
