//! The kernel core: a deterministic state machine that turns one input at a time into changes of its state and
//! effects for others to carry out. It owns no socket, no clock, no randomness and no file.

pub mod calls;
pub mod change;
pub mod core;
pub mod effect;
pub mod input;
pub mod issued;
pub mod judge;
pub mod lifecycle;
pub mod retry;
pub mod scheduler;
pub mod state;
pub mod view;
pub mod waiting;

pub use change::Change;
pub use core::{Core, Outcome};
pub use effect::Effect;
pub use input::{Event, Input, Peer, Tail};
pub use issued::{Answer, Issued, Outgoing};
pub use state::State;

/// Version of the core's behaviour. Re-running inputs is a check only within one version; recovery applies
/// outcomes and doesn't depend on it.
pub const CORE_VERSION: u32 = 1;
