//! Stable error codes, each with a page that `clove explain CODE` prints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a failed syscall answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code}: {message}{}", if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) })]
pub struct SysError {
    pub code: ErrorCode,
    /// What was wrong, and where.
    pub message: String,
    /// What to do next; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl SysError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        SysError { code, message: message.into(), hint: String::new() }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

macro_rules! codes {
    ($( $(#[doc = $d:literal])* $v:ident = $code:literal, $title:literal; )*) => {
        /// A stable code. The first digit pair is the family: 01 protocol, 02 lookup, 03 permission, 04 arguments,
        /// 05 limits and capacity, 06 the host, 07 storage, 08 runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode { $( $(#[doc = $d])* $v, )* }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$v, )* ];

            /// As it is written on the wire and in documents, for example `E0201`.
            pub fn code(self) -> &'static str {
                match self { $( ErrorCode::$v => $code, )* }
            }

            /// One line.
            pub fn title(self) -> &'static str {
                match self { $( ErrorCode::$v => $title, )* }
            }

            /// The page: what it means, why it happens, what to do.
            pub fn page(self) -> &'static str {
                match self { $( ErrorCode::$v => concat!($( $d, "\n" ),*), )* }
            }
        }
    };
}

codes! {
    /// The bytes on the socket aren't a frame of this version: a wrong version, a length beyond the bounds, set
    /// padding, an unknown flag, descriptors that weren't announced, or an end in the middle of a frame. The kernel
    /// answers once and closes the connection.
    /// Next: update the client, or see `docs/wire.md` for the layout.
    BadFrame = "E0101", "malformed frame";
    /// No row of the table has this number.
    /// Next: `clove syscalls` lists those that there are; a newer client may know more than this kernel.
    NoSuchCall = "E0102", "no such syscall";
    /// The body isn't JSON, is nested too deeply, names a field twice, or has a field of the wrong type; or the
    /// arguments or the tail are longer than the call takes. The message says which call, and where.
    BadBody = "E0103", "malformed arguments";
    /// Client and kernel speak different versions.
    /// Next: `clove stop`, then run the command again: the newer build starts its own kernel.
    Version = "E0104", "version mismatch";
    /// Descriptors came with a call that takes none, or they aren't fully sealed memfds. The connection is closed.
    BadDescriptor = "E0105", "descriptor not accepted";
    /// No live or remembered agent has this id or name.
    /// Next: `clove ps -a` lists agents, ended ones too.
    NoAgent = "E0201", "no such agent";
    /// No run has this id.
    /// Next: `clove sweep ls` lists runs.
    NoRun = "E0202", "no such run";
    /// The agent has ended: the call needs a living one. A stale id is never delivered to its slot's next user.
    Dead = "E0203", "that agent has ended";
    /// The run has no task with this number.
    NoTask = "E0204", "no such task";
    /// No blob has this digest.
    NoBlob = "E0205", "no such blob";
    /// The caller isn't allowed to make this call: agents may only make the calls that are theirs.
    /// Next: `clove syscalls` says who may call what.
    NotPermitted = "E0301", "not permitted";
    /// An argument has a value that can't work. The message names it, and the bound.
    BadArgument = "E0401", "bad argument";
    /// A mount's source is refused: it doesn't exist, is `/`, the home folder itself, or has a CloveOS directory in it.
    BadMount = "E0402", "mount refused";
    /// The name is in use by a live agent.
    /// Next: choose another `--name`, or end the other one with `clove kill NAME`.
    NameTaken = "E0403", "name in use";
    /// The call doesn't fit what the object is doing now, for example input for an agent that has ended.
    WrongState = "E0404", "not possible in this state";
    /// The machine's capacity can't hold what was asked for, even when nothing else runs.
    /// Next: ask for less memory or fewer CPUs; `clove kernel info` shows the capacity.
    TooLarge = "E0501", "more than this machine has";
    /// A queue, the disk limit of an agent's blobs, the memory for inputs and results, or the number of connections is full.
    /// Nothing was taken.
    /// Next: wait for some tasks to end, read what was answered, close what isn't needed, then try again.
    Full = "E0502", "full";
    /// A requested limit can't be enforced on this host, so the start was refused.
    /// Next: `clove doctor` names the remedy; `--allow-degraded` starts without it, marked on every listing.
    CannotEnforce = "E0503", "limit can't be enforced";
    /// The process couldn't be started. The message names the step and the reason.
    /// Next: `clove doctor`.
    SpawnFailed = "E0601", "spawn failed";
    /// The program exists inside the sandbox, but can't be executed: its mode, its format, or a missing interpreter.
    /// `clove run` exits with 126.
    NotExecutable = "E0602", "program not executable";
    /// The template couldn't be built: an import or `setup` raised, or it holds what can't be forked (threads, CUDA,
    /// open descriptors).
    /// Next: read the traceback; run the import by hand with the same interpreter.
    TemplateFailed = "E0603", "template failed";
    /// The program doesn't exist inside the sandbox. `clove run` exits with 127.
    /// Next: a program outside the system folders is seen with `--mount DIR:DIR` or `--here`.
    ProgramNotFound = "E0604", "program not found";
    /// The journal can't be written: disk full or failing, or the data directory was moved away. Nothing that was
    /// acknowledged is lost; the kernel ends what runs, and leaves.
    /// Next: make room on the data directory's disk, then run the command again; `clove sweep resume` goes on with sweeps.
    Journal = "E0701", "journal can't be written";
    /// A blob couldn't be stored or read.
    BlobStore = "E0702", "blob store failed";
    /// The run has ended and takes no more tasks.
    RunClosed = "E0801", "run is closed";
    /// The kernel is stopping.
    Stopping = "E0901", "kernel is stopping";
    /// A bug in CloveOS. The message says where; the call had no effect.
    Internal = "E0999", "internal error";
}

impl ErrorCode {
    /// The code that is written like this, in any case.
    pub fn parse(text: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|c| c.code().eq_ignore_ascii_case(text))
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(ErrorCode::parse(&text).unwrap_or(ErrorCode::Internal))
    }
}

impl JsonSchema for ErrorCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_and_each_has_a_page() {
        for pair in ErrorCode::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code(), "{} then {}", pair[0], pair[1]);
        }
        for c in ErrorCode::ALL {
            assert!(c.page().len() > 20, "{c}");
            assert_eq!(ErrorCode::parse(&c.code().to_lowercase()), Some(*c));
        }
    }
}
