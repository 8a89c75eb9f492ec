//! The configurations of a sweep: every combination of a list, a grid and random draws.

use crate::MAX_TASKS;
use crate::random::Random;
use serde_json::{Map, Value};

/// What one task's `run(config, shared)` gets.
pub type Config = Map<String, Value>;

/// What a sweep goes over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axes {
    /// Keys with their values; the last one changes fastest.
    pub grid: Vec<(String, Vec<Value>)>,
    /// Whole configurations.
    pub list: Option<Vec<Config>>,
    pub random: Option<Random>,
}

impl Axes {
    /// Nothing was given at all.
    pub fn is_empty(&self) -> bool {
        self.grid.is_empty() && self.list.is_none() && self.random.is_none()
    }

    /// How many configurations; `None` beyond what a `usize` holds.
    pub fn count(&self) -> Option<usize> {
        let list = self.list.as_ref().map_or(1, Vec::len);
        let random = self.random.as_ref().map_or(1, |r| r.samples);
        self.grid.iter().try_fold(list, |n, (_, values)| n.checked_mul(values.len()))?.checked_mul(random)
    }

    /// A key that two of them set, which would hide one.
    pub fn collision(&self) -> Option<String> {
        let mut keys: Vec<&str> = self.grid.iter().map(|(k, _)| k.as_str()).collect();
        keys.extend(self.random.iter().flat_map(|r| r.params.iter().map(|(k, _)| k.as_str())));
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|w| w[0] == w[1]) {
            return Some(pair[0].to_owned());
        }
        let list = self.list.as_deref().unwrap_or_default();
        list.iter().flat_map(Map::keys).find(|k| keys.binary_search(&k.as_str()).is_ok()).cloned()
    }

    /// All of them, in a fixed order: list, then grid, then draws, the last changing fastest.
    ///
    /// # Errors
    /// Their number, when there are more than [`MAX_TASKS`] (`None` when it can't even be counted).
    pub fn configurations(&self, seed: u64) -> Result<Vec<Config>, Option<usize>> {
        let count = self.count().filter(|n| *n <= MAX_TASKS).ok_or_else(|| self.count())?;
        let one = [Config::new()];
        let list: &[Config] = self.list.as_deref().unwrap_or(&one);
        let draws: Vec<Config> = match &self.random {
            Some(r) => (0..r.samples).map(|i| r.sample(seed, i)).collect(),
            None => vec![Config::new()],
        };
        let cells: usize = self.grid.iter().map(|(_, v)| v.len()).product();
        let mut out = Vec::with_capacity(count);
        for entry in list {
            for cell in 0..cells {
                let mut base = entry.clone();
                let mut rest = cell;
                for (key, values) in self.grid.iter().rev() {
                    base.insert(key.clone(), values[rest % values.len()].clone());
                    rest /= values.len();
                }
                for draw in &draws {
                    let mut config = base.clone();
                    config.extend(draw.iter().map(|(k, v)| (k.clone(), v.clone())));
                    out.push(config);
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draw;
    use proptest::prelude::*;
    use serde_json::json;

    fn grid(axes: &[(&str, usize)]) -> Vec<(String, Vec<Value>)> {
        axes.iter().map(|(k, n)| ((*k).to_owned(), (0..*n).map(Value::from).collect())).collect()
    }

    #[test]
    fn the_last_key_changes_fastest() {
        let axes = Axes { grid: grid(&[("z", 2), ("a", 2)]), ..Axes::default() };
        let all: Vec<Value> = axes.configurations(0).expect("few").into_iter().map(Value::Object).collect();
        assert_eq!(
            all,
            [json!({"z":0,"a":0}), json!({"z":0,"a":1}), json!({"z":1,"a":0}), json!({"z":1,"a":1})]
        );
    }

    #[test]
    fn too_many_are_counted_not_made() {
        let axes = Axes { grid: grid(&[("a", 1001), ("b", 1000)]), ..Axes::default() };
        assert_eq!(axes.configurations(0), Err(Some(1_001_000)));
        let huge: Vec<_> = (0..40).map(|i| (format!("k{i}"), vec![Value::Null; 1000])).collect();
        assert_eq!(Axes { grid: huge, ..Axes::default() }.configurations(0), Err(None));
    }

    proptest! {
        #[test]
        fn every_combination_comes_once(a in 1usize..5, b in 1usize..5, l in 1usize..4, s in 1usize..4) {
            let axes = Axes {
                grid: grid(&[("a", a), ("b", b)]),
                list: Some((0..l).map(|i| Config::from_iter([("l".to_owned(), Value::from(i))])).collect()),
                random: Some(Random { samples: s, params: vec![("r".into(), Draw::Float { min: 0.0, max: 1.0, log: false })] }),
            };
            prop_assert_eq!(axes.collision(), None);
            let all = axes.configurations(1).expect("few");
            prop_assert_eq!(Some(all.len()), axes.count());
            let mut seen: Vec<String> = all.iter().map(|c| serde_json::to_string(c).expect("json")).collect();
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len(), a * b * l * s);
        }
    }
}
