//! The kernel as a process: the deterministic core with sockets, clock, journal and launcher around it.

// First, so that all the others have its macro.
#[macro_use]
mod kernel_log;

mod agents;
mod allowance;
mod blobs;
mod book;
mod bootstrap;
mod capacity;
mod cells;
mod checkpoints;
mod connection;
mod drivers;
mod foreign;
mod ground;
mod harvest;
mod home_watch;
mod intake;
mod logs;
mod notify;
mod opaque;
mod peer;
mod perform;
mod projection;
mod refusal;
pub mod sdk;
mod shell;
mod sockets;
mod sync;
mod templates;
mod turns;
mod unjournaled;
mod wall_clock;

pub use book::{BookError, rerun};
pub use bootstrap::{Options, serve};
