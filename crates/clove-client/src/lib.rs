//! Rust client of the kernel's operator socket: a blocking connection, the folders where a kernel lives, starting one on demand.

pub mod build_id;
pub mod connection;
pub mod error;
pub mod file_system;
pub mod paths;
pub mod start;

pub use build_id::build_id;
pub use connection::Client;
pub use error::ClientError;
pub use paths::{Paths, PathsError};
pub use start::{StartError, StartOptions, connect_or_start};
