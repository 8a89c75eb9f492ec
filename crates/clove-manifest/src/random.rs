//! Random search: configurations drawn from ranges, the same ones for the same seed, on every machine and version.

use crate::configurations::Config;
use clove_abi::float;
use serde_json::Value;

/// What one parameter is drawn from.
#[derive(Clone, Debug, PartialEq)]
pub enum Draw {
    /// Evenly between two numbers, or evenly between their logarithms.
    Float { min: f64, max: f64, log: bool },
    /// A whole number, both ends included.
    Int { min: i64, max: i64 },
    /// One of these.
    Choice(Vec<Value>),
}

/// How many configurations, and what they are drawn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Random {
    pub samples: usize,
    pub params: Vec<(String, Draw)>,
}

impl Random {
    /// The configuration number `index` of this seed. Each parameter has a stream of its own, so that adding one
    /// doesn't change the others.
    pub fn sample(&self, seed: u64, index: usize) -> Config {
        self.params
            .iter()
            .map(|(name, draw)| {
                let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                    (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
                });
                let bits = mix(mix(seed ^ stream).wrapping_add(index as u64));
                (name.clone(), draw.value_at(bits))
            })
            .collect()
    }
}

impl Draw {
    fn value_at(&self, bits: u64) -> Value {
        // 53 bits: every value of a double in [0, 1) on an even grid.
        let unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
        match self {
            Draw::Float { min, max, log: false } => {
                float::to_json((min + unit * (max - min)).clamp(*min, *max))
            }
            Draw::Float { min, max, log: true } => {
                let (a, b) = (min.ln(), max.ln());
                float::to_json((a + unit * (b - a)).exp().clamp(*min, *max))
            }
            Draw::Int { min, max } => {
                // At most 2^64, so the product fits.
                let span = u128::from(max.abs_diff(*min)) + 1;
                let offset = (u128::from(bits) * span) >> 64;
                Value::from(min.wrapping_add_unsigned(offset as u64))
            }
            Draw::Choice(items) => {
                let at = (u128::from(bits) * items.len() as u128) >> 64;
                items.get(at as usize).cloned().unwrap_or(Value::Null)
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random() -> Random {
        Random {
            samples: 4,
            params: vec![
                ("lr".into(), Draw::Float { min: 1e-4, max: 1e-1, log: true }),
                ("depth".into(), Draw::Int { min: 1, max: 3 }),
                ("opt".into(), Draw::Choice(vec!["sgd".into(), "adam".into()])),
            ],
        }
    }

    #[test]
    fn the_draws_of_a_seed_never_change() {
        // Worked out by hand in another language: a resumed or repeated sweep must mean the same experiments after an update.
        let c = random().sample(7, 0);
        assert_eq!(c["depth"], Value::from(PINNED.0));
        assert_eq!(c["opt"], Value::from(PINNED.1));
        assert!((c["lr"].as_f64().expect("number") - PINNED.2).abs() < 1e-9, "{}", c["lr"]);
    }
    const PINNED: (i64, &str, f64) = (3, "sgd", 0.000183318266);

    #[test]
    fn adding_a_parameter_leaves_the_others() {
        let mut more = random();
        more.params.insert(0, ("aaa".into(), Draw::Int { min: 0, max: 9 }));
        for i in 0..20 {
            let (a, b) = (random().sample(3, i), more.sample(3, i));
            assert_eq!(a["lr"], b["lr"]);
        }
    }

    #[test]
    fn draws_fill_their_range() {
        let r = random();
        let all: Vec<_> = (0..3000).map(|i| r.sample(1, i)).collect();
        for depth in 1..=3 {
            let n = all.iter().filter(|c| c["depth"] == depth).count();
            assert!((800..1200).contains(&n), "{depth}: {n}");
        }
        let small = all.iter().filter(|c| c["lr"].as_f64().is_some_and(|x| x < 1e-3)).count();
        assert!((800..1200).contains(&small), "log scale: a third per decade, got {small}");
    }

    proptest! {
        #[test]
        fn draws_stay_in_range(seed: u64, index in 0usize..1_000_000, a: i64, b: i64) {
            let (min, max) = (a.min(b), a.max(b));
            let drawn = Draw::Int { min, max }.value_at(mix(seed.wrapping_add(index as u64)));
            let n = drawn.as_i64().expect("whole");
            prop_assert!((min..=max).contains(&n));
        }
    }
}
