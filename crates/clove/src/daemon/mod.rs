//! The kernel as a process: the deterministic core with sockets, clock, journal and launcher around it.

mod agents;
mod blobs;
mod book;
mod bootstrap;
mod capacity;
mod cells;
mod checkpoints;
mod connection;
mod drivers;
mod harvest;
mod logs;
mod notify;
mod peer;
mod perform;
mod projection;
pub mod sdk;
mod shell;
mod sync;
mod templates;

pub use book::{BookError, rerun};
pub use bootstrap::{Options, serve};
