//! SQLite projections of the CloveOS journal: what can be asked about runs, tasks, attempts, agents and the audit
//! trail after the kernel's core no longer holds it in memory.
//!
//! The journal is the truth. A [`Store`] holds what follows from it up to one sequence number, in one file that may be
//! deleted at any time. It takes [`Row`]s, which the daemon derives from journal records, and knows no kernel types.

mod archive;
mod audit;
mod column;
mod error;
mod file;
mod open;
mod query_agents;
mod query_runs;
mod query_tasks;
mod row;
mod schema;
mod store;
mod word;
mod write;

pub use error::{StoreError, StoreErrorKind};
pub use open::{AppliedSeq, Dropped};
pub use query_agents::AgentRecord;
pub use row::{AuditRow, Row, RunRow, Taken, TaskProgress, TaskRow};
pub use schema::SCHEMA_VERSION;
pub use store::{Applied, Store, Trimmed};
