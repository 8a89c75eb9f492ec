//! The words that stand for states in the tables: the same ones as in JSON.

use clove_abi::calls::AgentState;
use clove_abi::run::{Profile, RunKind, RunState, TaskState};

/// A state with a word.
pub(crate) trait Word: Sized {
    /// As it is written to a column.
    fn word(&self) -> &'static str;
    /// The state that a word stands for.
    fn parse(word: &str) -> Option<Self>;
}

macro_rules! words {
    ($( $t:ident { $( $v:ident = $w:literal ),* $(,)? } )*) => {
        $(
            impl Word for $t {
                fn word(&self) -> &'static str {
                    match self { $( $t::$v => $w ),* }
                }
                fn parse(word: &str) -> Option<Self> {
                    match word { $( $w => Some($t::$v), )* _ => None }
                }
            }
        )*

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn words_are_those_of_json() {
                $( $(
                    assert_eq!(serde_json::to_value($t::$v).ok(), Some(serde_json::Value::from($w)));
                    assert_eq!($t::parse($t::$v.word()), Some($t::$v));
                )* )*
            }
        }
    };
}

words! {
    TaskState {
        Pending = "pending", Backoff = "backoff", Running = "running", Done = "done", Failed = "failed",
        Quarantined = "quarantined", Cancelled = "cancelled",
    }
    RunState {
        Active = "active", Interrupted = "interrupted", Finished = "finished", Cancelled = "cancelled",
        Failed = "failed",
    }
    RunKind { Sweep = "sweep", Executor = "executor" }
    Profile { Default = "default", Strict = "strict" }
    AgentState { Starting = "starting", Running = "running", Ending = "ending", Ended = "ended" }
}
