//! The contract between the CloveOS kernel and everybody who calls it: ids, limits, errors, frames and
//! the one syscall table. No I/O happens here.

pub mod calls;
pub mod certificate;
pub mod error;
pub mod float;
pub mod frame;
pub mod ids;
pub mod limits;
mod place;
pub mod run;
mod strict;
pub mod table;
pub mod untrusted;

pub use certificate::{Cause, Certificate, KilledBy};
pub use error::{ErrorCode, SysError};
pub use ids::{AgentId, ConnId, RunId, TaskIndex};
pub use limits::{Limits, LimitsSpec};
pub use table::{Syscall, Sysno, TABLE};

/// Version of the frame layout and of the table's meaning. A client and a kernel that differ here don't talk.
pub const ABI_VERSION: u8 = 1;
