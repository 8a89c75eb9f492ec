//! Which error codes a row can answer with, beyond those that any call can.

use clove_abi::ErrorCode;
use clove_abi::table::Spec;
use std::collections::BTreeSet;

/// Codes that any call can get: frames, arguments, permission, a journal that fails, a kernel that leaves, a bug.
pub const ANY_CALL: &[ErrorCode] = &[
    ErrorCode::BadFrame,
    ErrorCode::NoSuchCall,
    ErrorCode::BadBody,
    ErrorCode::BadDescriptor,
    ErrorCode::NotPermitted,
    ErrorCode::Journal,
    ErrorCode::Internal,
];

/// What handlers call to find things, and how that fails.
const LOOKUPS: &[(&str, &[ErrorCode])] = &[
    ("find_agent", &[ErrorCode::NoAgent, ErrorCode::Dead]),
    ("find_run", &[ErrorCode::NoRun]),
    ("no_run", &[ErrorCode::NoRun]),
    ("check_digest", &[ErrorCode::BadArgument]),
];

/// What comes later, or before the handler: from the daemon's drivers and the launcher.
const BESIDE_THE_HANDLER: &[(&str, &[ErrorCode])] = &[
    (
        "proc.spawn",
        &[ErrorCode::BadMount, ErrorCode::CannotEnforce, ErrorCode::SpawnFailed, ErrorCode::NotExecutable],
    ),
    ("proc.stdin", &[ErrorCode::WrongState, ErrorCode::Full]),
    ("proc.logs", &[ErrorCode::WrongState]),
    ("proc.resize", &[ErrorCode::WrongState]),
    ("task.next", &[ErrorCode::WrongState]),
    ("task.done", &[ErrorCode::WrongState, ErrorCode::BlobStore, ErrorCode::Full]),
    ("run.push", &[ErrorCode::Full]),
    ("run.collect", &[ErrorCode::Full]),
    ("blob.put", &[ErrorCode::BlobStore, ErrorCode::Full]),
    ("blob.get", &[ErrorCode::NoBlob, ErrorCode::BlobStore]),
    ("blob.stat", &[ErrorCode::NoBlob, ErrorCode::BlobStore]),
];

/// The codes of one row, in order: those that its handler's source names, and those from beside it.
pub fn of(spec: &Spec) -> BTreeSet<ErrorCode> {
    let handlers = crate::workspace().join("crates/clove-kernel/src/calls");
    let source = std::fs::read_to_string(handlers.join(spec.family).join(format!("{}.rs", spec.verb)));
    let source = source.unwrap_or_default();
    let mut codes: BTreeSet<ErrorCode> = source.split("ErrorCode::").skip(1).filter_map(named).collect();
    for (function, fails_with) in LOOKUPS {
        if source.contains(&format!("{function}(")) {
            codes.extend(*fails_with);
        }
    }
    for (_, more) in BESIDE_THE_HANDLER.iter().filter(|(row, _)| *row == spec.name) {
        codes.extend(*more);
    }
    codes.retain(|c| !ANY_CALL.contains(c));
    codes
}

/// The code whose variant's name `text` begins with.
fn named(text: &str) -> Option<ErrorCode> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    ErrorCode::ALL.iter().copied().find(|c| format!("{c:?}") == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_from_handlers_lookups_and_drivers() {
        let of = |name: &str| super::of(clove_abi::TABLE.iter().find(|s| s.name == name).expect("a row"));
        assert_eq!(of("run.show").into_iter().collect::<Vec<_>>(), [ErrorCode::NoRun]);
        assert!(of("proc.spawn").contains(&ErrorCode::NameTaken));
        assert!(of("blob.get").contains(&ErrorCode::NoBlob));
        assert!(of("kernel.ping").is_empty());
        for (row, _) in BESIDE_THE_HANDLER {
            assert!(clove_abi::TABLE.iter().any(|s| s.name == *row), "{row}");
        }
    }
}
