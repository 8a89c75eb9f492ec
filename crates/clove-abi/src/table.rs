//! The one syscall table. Everything else about a call is derived from its row here: dispatch, checks, the
//! reference page, JSON schemas, the Python stubs. A new call is one row, its argument types in `calls/FAMILY.rs`,
//! and one handler file `clove-kernel/src/calls/FAMILY/VERB.rs`.

use crate::calls::*;
use crate::error::{ErrorCode, SysError};
use crate::place;
use crate::strict::Strict;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// A peer of the kernel's uid in its namespaces, at the front door.
    Operator,
    /// An agent, at its own socket.
    Agent,
    Any,
}

/// What the journal does with it (design, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Audit {
    /// Journaled before it acts.
    State,
    /// Recorded, batched.
    Record,
    /// Only counted.
    Counted,
}

/// Where its answer comes from when a run is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// Has no outside input: made again.
    Reissue,
    /// Served from the recording.
    FromRecord,
    /// Never made by a replayed agent.
    Never,
}

/// One row.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spec {
    pub number: u16,
    /// `family.verb`.
    pub name: &'static str,
    pub family: &'static str,
    pub verb: &'static str,
    pub from: From,
    pub audit: Audit,
    pub replay: Replay,
    /// The reply waits for the group's fdatasync.
    pub durable: bool,
    /// The reply may wait for something to happen.
    pub blocks: bool,
    /// Descriptors it may carry.
    pub fds: u8,
    /// Longest arguments, in bytes.
    pub most_body: usize,
    /// Longest tail, in bytes.
    pub most_tail: usize,
    /// Its answer may be large: it isn't taken while its caller leaves much unread.
    pub answers_large: bool,
    pub doc: &'static str,
}

/// Longest arguments of rows that have no use for longer ones, in bytes.
pub const SHORT_BODY: usize = 64 << 10;

/// Arguments of one syscall; its reply type and row hang on it.
pub trait Syscall: Serialize + DeserializeOwned {
    type Reply: Serialize + DeserializeOwned;
    const SYSNO: Sysno;
}

/// Calls `$callback!` with the whole table, so that other crates derive from it too. `body` is in KiB, `tail` in MiB.
#[macro_export]
macro_rules! syscall_table {
    ($callback:path) => {
        $callback! {
            kernel {
                /// Says who calls and learns who answers; the first call on a connection, to find out about versions.
                0x0101 hello KernelHello -> KernelHelloReply { Any, Counted, FromRecord, durable false, blocks false, fds 0, body 64, tail 0, answer small }
                /// The kernel's process, data directory, capacity, defaults and counters.
                0x0102 info KernelInfo -> KernelInfoReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer small }
                /// Does nothing: measures the way there and back.
                0x0103 ping KernelPing -> KernelPingReply { Any, Counted, Reissue, durable false, blocks false, fds 0, body 64, tail 0, answer small }
                /// Ends the kernel; refused while agents run, unless `force`.
                0x0104 shutdown KernelShutdown -> KernelShutdownReply { Operator, State, Never, durable true, blocks false, fds 0, body 64, tail 0, answer small }
            }
            proc {
                /// Starts a program as a cold agent.
                0x0201 spawn ProcSpawn -> ProcSpawnReply { Operator, State, Never, durable false, blocks true, fds 0, body 16384, tail 0, answer small }
                /// Waits for an agent's end and returns its certificate.
                0x0202 wait ProcWait -> ProcWaitReply { Operator, Counted, Never, durable false, blocks true, fds 0, body 64, tail 0, answer small }
                /// Ends an agent's whole process tree, or sends a signal to its program.
                0x0203 kill ProcKill -> ProcKillReply { Operator, State, Never, durable false, blocks false, fds 0, body 64, tail 0, answer small }
                /// Lists agents.
                0x0204 list ProcList -> ProcListReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer large }
                /// Everything about one agent: limits, mounts, certificate.
                0x0205 inspect ProcInspect -> ProcInspectReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer large }
                /// Reads an agent's output from an offset, waiting for more if asked; the bytes are the tail.
                0x0206 logs ProcLogs -> ProcLogsReply { Operator, Counted, Never, durable false, blocks true, fds 0, body 64, tail 0, answer large }
                /// Writes the tail to an agent's standard input; answers once it was taken.
                0x0207 stdin ProcStdin -> ProcStdinReply { Operator, Record, Never, durable false, blocks true, fds 0, body 64, tail 8, answer small }
                /// Tells an agent's terminal its size.
                0x0208 resize ProcResize -> ProcResizeReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer small }
            }
            task {
                /// A warm agent asks for its next task; its opaque input is the tail.
                0x0301 next TaskNext -> TaskNextReply { Agent, Counted, FromRecord, durable false, blocks true, fds 0, body 64, tail 0, answer small }
                /// A warm agent hands in its task's result or exception; an opaque result is the tail.
                0x0302 done TaskDone -> TaskDoneReply { Agent, State, FromRecord, durable false, blocks false, fds 0, body 10240, tail 16, answer small }
            }
            run {
                /// Submits a sweep, or opens an executor session.
                0x0401 submit RunSubmit -> RunSubmitReply { Operator, State, Never, durable true, blocks false, fds 0, body 16384, tail 0, answer small }
                /// Adds tasks to an open executor session; their opaque inputs are the tail, one after the other.
                0x0402 push RunPush -> RunPushReply { Operator, State, Never, durable false, blocks false, fds 0, body 16384, tail 64, answer small }
                /// An executor session takes no more tasks, and finishes with those it has.
                0x0403 close RunClose -> RunCloseReply { Operator, State, Never, durable false, blocks false, fds 0, body 64, tail 0, answer small }
                /// Lists runs.
                0x0404 list RunList -> RunListReply { Operator, Counted, Never, durable true, blocks false, fds 0, body 64, tail 0, answer large }
                /// The summary of one run: counts, causes of failures, slowest tasks, disk used.
                0x0405 show RunShow -> RunShowReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer large }
                /// A page of a run's tasks with their results and certificates.
                0x0406 tasks RunTasks -> RunTasksReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer large }
                /// Waits for changes of a run's tasks after a version.
                0x0407 watch RunWatch -> RunWatchReply { Operator, Counted, Never, durable false, blocks true, fds 0, body 64, tail 0, answer large }
                /// Waits for ended tasks of an executor session; their opaque results are the tail, one after the other.
                0x0408 collect RunCollect -> RunCollectReply { Operator, Counted, Never, durable false, blocks true, fds 0, body 64, tail 0, answer large }
                /// Ends a run, or one of its tasks.
                0x0409 cancel RunCancel -> RunCancelReply { Operator, State, Never, durable true, blocks false, fds 0, body 64, tail 0, answer small }
                /// Goes on with an interrupted, cancelled or partly failed sweep: what is done stays done.
                0x040a resume RunResume -> RunResumeReply { Operator, State, Never, durable true, blocks false, fds 0, body 64, tail 0, answer small }
                /// Where a run's kept output lies on disk.
                0x040b artifacts RunArtifacts -> RunArtifactsReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer small }
            }
            template {
                /// Lists templates with their modules, memory and embryos.
                0x0501 list TemplateList -> TemplateListReply { Operator, Counted, Never, durable false, blocks false, fds 0, body 64, tail 0, answer large }
            }
            blob {
                /// Stores bytes (the tail, or one fully sealed memfd) under their digest.
                0x0601 put BlobPut -> BlobPutReply { Any, Record, FromRecord, durable false, blocks true, fds 1, body 64, tail 64, answer small }
                /// Reads a blob, or a part of it; the bytes are the tail.
                0x0602 get BlobGet -> BlobGetReply { Any, Counted, FromRecord, durable false, blocks true, fds 0, body 64, tail 0, answer large }
                /// The length of a blob.
                0x0603 stat BlobStat -> BlobStatReply { Any, Counted, FromRecord, durable false, blocks false, fds 0, body 64, tail 0, answer small }
            }
        }
    };
}

macro_rules! size {
    (small) => {
        false
    };
    (large) => {
        true
    };
}

macro_rules! derive_table {
    ($( $family:ident { $( $(#[doc = $d:literal])* $n:literal $verb:ident $Args:ident -> $Reply:ident {
        $from:ident, $audit:ident, $replay:ident, durable $durable:literal, blocks $blocks:literal, fds $fds:literal,
        body $body_kib:literal, tail $tail_mib:literal, answer $answer:ident } )* } )*) => {
        /// The number of each row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Sysno { $($( $(#[doc = $d])* $Args = $n, )*)* }

        /// All rows, by rising number.
        pub const TABLE: &[Spec] = &[ $($( Spec {
            number: $n,
            name: concat!(stringify!($family), ".", stringify!($verb)),
            family: stringify!($family),
            verb: stringify!($verb),
            from: From::$from,
            audit: Audit::$audit,
            replay: Replay::$replay,
            durable: $durable,
            blocks: $blocks,
            fds: $fds,
            most_body: $body_kib << 10,
            most_tail: $tail_mib << 20,
            answers_large: size!($answer),
            doc: concat!($($d),*),
        }, )*)* ];

        $($( impl Syscall for $Args {
            type Reply = $Reply;
            const SYSNO: Sysno = Sysno::$Args;
        } )*)*

        impl Sysno {
            /// The row with this number.
            pub fn from_number(n: u16) -> Option<Sysno> {
                match n { $($( $n => Some(Sysno::$Args), )*)* _ => None }
            }
        }

        /// A call with its arguments decoded and checked.
        #[derive(Clone, Debug)]
        #[expect(clippy::large_enum_variant, reason = "one is decoded at a time, handled, and dropped")]
        pub enum Call { $($( $Args($Args), )*)* }

        impl Call {
            /// Which row it is.
            pub fn sysno(&self) -> Sysno {
                match self { $($( Call::$Args(_) => Sysno::$Args, )*)* }
            }

            /// Reads the arguments of `sysno` from a body. An empty body stands for `{}`.
            pub fn decode(sysno: Sysno, body: &[u8]) -> Result<Call, SysError> {
                match sysno { $($( Sysno::$Args => decode_body::<$Args>(body).map(Call::$Args), )*)* }
            }

            /// The arguments as JSON, as the journal keeps them.
            pub fn to_json(&self) -> serde_json::Value {
                match self { $($( Call::$Args(a) => serde_json::to_value(a).unwrap_or_default(), )*)* }
            }
        }

        /// JSON schemas of each row's arguments and reply.
        pub fn schemas() -> Vec<(&'static Spec, schemars::Schema, schemars::Schema)> {
            vec![ $($( (Sysno::$Args.spec(), schemars::schema_for!($Args), schemars::schema_for!($Reply)), )*)* ]
        }
    };
}
syscall_table!(derive_table);

const _: () = {
    let mut i = 1;
    while i < TABLE.len() {
        assert!(TABLE[i - 1].number < TABLE[i].number, "numbers must rise and never repeat");
        i += 1;
    }
};

impl Sysno {
    /// Its row.
    pub fn spec(self) -> &'static Spec {
        let n = self as u16;
        // The table is sorted (asserted above) and holds every variant (both come from one macro).
        match TABLE.binary_search_by_key(&n, |s| s.number) {
            Ok(i) => &TABLE[i],
            Err(_) => &TABLE[0],
        }
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, SysError> {
    let body = if body.is_empty() { b"{}" } else { body };
    if crate::frame::check_depth(body).is_err() {
        return Err(SysError::new(
            ErrorCode::BadBody,
            format!("the body is nested more than {} deep", crate::frame::MAX_DEPTH),
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let decoded = T::deserialize(Strict(&mut json)).and_then(|args| json.end().map(|()| args));
    decoded.map_err(|e| SysError::new(ErrorCode::BadBody, what_is_wrong(body, &e)))
}

/// Longest beginning and end of what a parser says: it may repeat the caller's whole text.
const SAID_BYTES: usize = 240;

/// The field and what is wrong with it, in few words.
fn what_is_wrong(body: &[u8], e: &serde_json::Error) -> String {
    let said = e.to_string();
    // These name the field themselves: what is of interest is the object that it is in.
    let names_it = ["unknown field", "missing field", "duplicate field"].iter().any(|w| said.starts_with(w));
    let is_missing = said.starts_with("missing field");
    let way = match e.line() {
        0 => String::new(),
        line => {
            let mut end = place::offset(body, line, e.column());
            // What a field's own type refuses is told at the end of the object or list, if it was the last in there.
            if !is_missing && end > 0 && matches!(body[end - 1], b'}' | b']') {
                end -= 1;
            }
            place::way_to(body, end, is_missing || !names_it)
        }
    };
    let said = match said.len() {
        n if n <= 2 * SAID_BYTES => said,
        n => {
            let head: String = said.chars().take(SAID_BYTES).collect();
            let tail = said.char_indices().find(|(at, _)| *at >= n - SAID_BYTES / 2);
            format!("{head} ... {}", tail.map_or("", |(at, _)| &said[at..]))
        }
    };
    if way.is_empty() { said } else { format!("`{way}`: {said}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field_and_is_short() {
        let said =
            |body: &str| Call::decode(Sysno::RunPush, body.as_bytes()).expect_err("it is wrong").message;
        for (body, begins) in [
            (r#"{"run":5,"tasks":[]}"#, "`run`: invalid type: integer `5`"),
            (
                r#"{"run":"r1","tasks":[{"limits":{}},{"limits":{"pids":-1}}]}"#,
                "`tasks[1].limits.pids`: invalid value",
            ),
            (r#"{"run":"r1","tasks":[{"limits":[]}]}"#, "`tasks[0].limits`: invalid type: sequence"),
            (r#"{"run":"r1","tasks":[{"nonsense":1}]}"#, "`tasks[0]`: unknown field `nonsense`"),
            (r#"{"run":"x","tasks":[]}"#, "`run`: `x` is not a run id"),
            (r#"{"tasks":[],"run":"x"}"#, "`run`: `x` is not a run id"),
            (r#"{"tasks":[{}]}"#, "missing field `run`"),
            (r#"{"run":"r1","tasks":{}}"#, "`tasks`: invalid type: map"),
            (r#"{"run":"r1","tasks":[7"#, "`tasks[0]`: invalid type: integer `7`"),
        ] {
            assert!(said(body).starts_with(begins), "{body}: {}", said(body));
        }
        for long in ["x".repeat(1 << 20), "\\u0001".repeat(1 << 18), "é".repeat(1 << 19)] {
            for body in [
                format!(r#"{{"run":"{long}"}}"#),
                format!(r#"{{"{long}":1}}"#),
                format!(r#"{{"tasks":"{long}"}}"#),
            ] {
                let said = said(&body);
                assert!(
                    said.len() < 3 * SAID_BYTES && said.contains("line 1"),
                    "{} bytes: {said}",
                    said.len()
                );
            }
        }
    }

    #[test]
    fn rows_decode_and_refuse() {
        assert!(matches!(Call::decode(Sysno::KernelPing, b""), Ok(Call::KernelPing(_))));
        let e = Call::decode(Sysno::ProcWait, br#"{"target": 5}"#).expect_err("wrong type");
        assert_eq!(e.code, ErrorCode::BadBody);
        assert!(e.message.contains("line 1 column"), "{e}");
        let e = Call::decode(Sysno::ProcWait, br#"{"target":"a","target":"b"}"#).expect_err("twice");
        assert!(e.message.contains("duplicate field"), "{e}");
        let e = Call::decode(Sysno::ProcWait, br#"{"target":"a","x":1}"#).expect_err("unknown");
        assert!(e.message.contains("unknown field"), "{e}");
        let e = Call::decode(Sysno::ProcWait, b"[]").expect_err("a list");
        assert!(e.message.starts_with("invalid type: sequence, expected struct ProcWait"), "{e}");
        assert!(Call::decode(Sysno::KernelPing, b"{}{}").is_err());
        for s in TABLE {
            assert_eq!(Sysno::from_number(s.number).map(|n| n.spec().name), Some(s.name));
            assert!(s.doc.len() > 10, "{}", s.name);
            for deep in [b"[".repeat(100_000), br#"{"a":"#.repeat(50_000)] {
                let n = Sysno::from_number(s.number).expect("in the table");
                assert!(Call::decode(n, &deep).is_err());
            }
        }
    }
}
