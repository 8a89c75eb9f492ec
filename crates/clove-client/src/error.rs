//! What can go wrong between a call and its reply.

use crate::paths::in_words;
use clove_abi::{ErrorCode, SysError};
use std::io;

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kernel answered with an error: the connection is fine.
    #[error("{0}")]
    Refused(SysError),
    /// The connection is gone. Whether the call was done isn't known.
    #[error("the connection to the kernel was lost while {doing}: {}", in_words(source))]
    Lost { doing: &'static str, source: io::Error },
    /// The kernel's bytes make no sense to this client. The connection can't be used any more.
    #[error("the kernel's answer to {call} can't be read: {what}")]
    Garbled { call: &'static str, what: String },
    /// The call is larger than a frame may be; nothing was sent.
    #[error("{call} has {bytes} bytes of {part}, at most {most} fit into one call")]
    TooLong { call: &'static str, part: &'static str, bytes: usize, most: usize },
}

impl ClientError {
    /// The kernel's error code, when it was the kernel that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused(e) => Some(e.code),
            _ => None,
        }
    }

    /// The connection can't be used any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, ClientError::Lost { .. } | ClientError::Garbled { .. })
    }
}
