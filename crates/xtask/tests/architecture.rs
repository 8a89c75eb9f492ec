//! The arrows between crates, and the places where dangerous things may stand (ARCHITECTURE.md).

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{rust_files, rust_words, workspace};

/// Which crates of ours each crate may use. A new crate gets its row here and in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("clove-abi", &[]),
    ("clove-sys", &[]),
    ("clove-sandbox", &["clove-abi", "clove-sys"]),
    ("clove-journal", &["clove-abi"]),
    ("clove-store", &["clove-abi"]),
    ("clove-manifest", &["clove-abi"]),
    ("clove-kernel", &["clove-abi"]),
    ("clove-client", &["clove-abi"]),
    (
        "clove",
        &[
            "clove-abi",
            "clove-client",
            "clove-journal",
            "clove-kernel",
            "clove-manifest",
            "clove-sandbox",
            "clove-store",
            "clove-sys",
        ],
    ),
    ("xtask", &["clove-abi"]),
];

/// What would give the deterministic core, or the contract, a clock, randomness, I/O or an order that differs from run to run.
const NOT_IN_THE_CORE: &[&str] =
    &["HashMap", "HashSet", "Instant", "SystemTime", "File", "TcpStream", "UnixStream", "Command"];

#[test]
fn arrows_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let name = text(&package["name"]);
        let Some(may_use) = allowed.get(name.as_str()) else {
            wrong.push(format!(
                "{name} has no row in ARROWS (crates/xtask/tests/architecture.rs) and in ARCHITECTURE.md"
            ));
            continue;
        };
        let empty = Vec::new();
        for d in package["dependencies"].as_array().unwrap_or(&empty) {
            let used = text(&d["name"]);
            // Tests may use what they like.
            if d["kind"] != "dev" && allowed.contains_key(used.as_str()) && !may_use.contains(&used.as_str())
            {
                wrong.push(format!("{name} may not use {used}: see the crates in ARCHITECTURE.md"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_only_in_clove_sys() {
    let mut wrong = Vec::new();
    for file in rust_files(&workspace().join("crates"))
        .into_iter()
        .filter(|f| !f.components().any(|c| c.as_os_str() == "clove-sys"))
    {
        for line in rust_words::lines_with(&read(&file), "unsafe") {
            wrong.push(format!("{}:{line}: unsafe code belongs to clove-sys", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_has_no_clock_no_chance_no_io() {
    let mut wrong = Vec::new();
    for file in rust_files(&workspace().join("crates")) {
        let in_core =
            ["clove-kernel/src", "clove-abi/src"].iter().any(|p| file.to_string_lossy().contains(p));
        for word in NOT_IN_THE_CORE.iter().filter(|_| in_core) {
            for line in rust_words::lines_with(&read(&file), word) {
                wrong.push(format!(
                    "{}:{line}: {word} makes the core depend on more than its inputs",
                    file.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every handler file belongs to a row, every row has its handler file.
#[test]
fn one_handler_file_for_each_row() {
    let calls = workspace().join("crates/clove-kernel/src/calls");
    let rows: BTreeSet<PathBuf> =
        clove_abi::TABLE.iter().map(|s| calls.join(s.family).join(format!("{}.rs", s.verb))).collect();
    let mut files = BTreeSet::new();
    for family in
        std::fs::read_dir(&calls).expect("the handlers' folder").flatten().filter(|e| e.path().is_dir())
    {
        files
            .extend(std::fs::read_dir(family.path()).expect("a family's folder").flatten().map(|e| e.path()));
    }
    files.retain(|f| f.file_name().is_some_and(|n| n != "mod.rs"));
    assert_eq!(rows, files, "a row of table.rs and calls/FAMILY/VERB.rs belong together");
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo can be run");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: Value = serde_json::from_slice(&done.stdout).expect("cargo metadata prints JSON");
    all["packages"].as_array().cloned().unwrap_or_default()
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).expect("a source file can be read")
}
