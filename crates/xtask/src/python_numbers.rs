//! `python/cloveos/_calls.py`: the numbers of the calls, for the Python library.

use clove_abi::TABLE;

const HEAD: &str = r#""""The numbers of the syscalls, made from the kernel's one table by `cargo run -p xtask -- gen`."""

from __future__ import annotations

from typing import Dict

NUMBERS: Dict[str, int] = {
"#;

/// The whole file, as ruff formats it.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    for s in TABLE {
        out.push_str(&format!("    \"{}\": 0x{:04X},\n", s.name, s.number));
    }
    out.push_str("}\n");
    out
}
