//! Newtypes for everything that has an identity.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An agent: a slot in the kernel's table plus the generation of that slot, so that a stale id is recognised
/// and never reaches a successor. Prints as `a7.2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId {
    /// Index of the slot; reused after the agent has ended.
    pub slot: u32,
    /// Counts the users of the slot, from 1.
    pub generation: u32,
}

/// A run: a sweep or an executor session. Prints as `r12`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// Position of a task in its run, from 0.
pub type TaskIndex = u32;

/// A connection to the kernel's front door or to an agent's own socket; never reused in a kernel's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// The text isn't an id of the expected kind.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct BadId {
    text: String,
    expected: &'static str,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}.{}", self.slot, self.generation)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for AgentId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: s.chars().take(60).collect(), expected: "an agent id such as a7.2" };
        let (slot, generation) = s.strip_prefix('a').and_then(|r| r.split_once('.')).ok_or_else(bad)?;
        Ok(AgentId {
            slot: slot.parse().map_err(|_| bad())?,
            generation: generation.parse().map_err(|_| bad())?,
        })
    }
}

impl FromStr for RunId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: s.chars().take(60).collect(), expected: "a run id such as r12" };
        Ok(RunId(s.strip_prefix('r').ok_or_else(bad)?.parse().map_err(|_| bad())?))
    }
}

macro_rules! text_id {
    ($t:ty) => {
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $t {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($t).into()
            }
            fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(g)
            }
        }
    };
}
text_id!(AgentId);
text_id!(RunId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_nonsense() {
        let a: AgentId = "a7.2".parse().expect("good id");
        assert_eq!(a.to_string(), "a7.2");
        for bad in ["", "a", "a7", "7.2", "a7.x", "a-1.2", "a7.2 ", "r7", "a99999999999.1"] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
        assert!("r-1".parse::<RunId>().is_err());
        assert_eq!("r18".parse::<RunId>().expect("good id"), RunId(18));
    }
}
