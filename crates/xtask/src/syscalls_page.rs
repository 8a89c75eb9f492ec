//! `docs/syscalls.md`: the reference of every row of the table.

use crate::row_errors;
use crate::schema_text::{self, Field};
use clove_abi::ErrorCode;
use clove_abi::table::{self, Audit, From, Replay, Spec};
use serde_json::Value;
use std::collections::BTreeMap;

const HEAD: &str = "# Syscalls

Made by `cargo run -p xtask -- gen` from the one table (`crates/clove-abi/src/table.rs`); not written by hand.
`clove syscalls` prints the list, `clove syscalls --json` the schemas. How a call travels is in [wire.md](wire.md), what can come
back instead of a reply in [errors.md](errors.md).

**Who** may call: an *operator* at the kernel's socket, an *agent* at its own, or *any* of them. **Audit**: *state* is journaled before
it acts (when it changes anything), *record* is always journaled, *counted* only raises a counter. **Replay** (used once recordings
exist): a call is *reissued*, served *from the record*, or *never* made by a replayed agent. **Durable**: the reply waits for the disk.
**Blocks**: the reply may wait for something to happen. **Fds**: sealed memfds that it may carry. Arguments are at most 64 KiB long and no call
has a tail, where nothing else is said.

A `?` behind a type means that the field may be null or absent. Unknown and repeated arguments are errors (E0103).
\"Errors\" names the codes that are a call's own; any call can get ";

/// The whole page.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    out.push_str(&format!("{}.\n", links(row_errors::ANY_CALL.iter().copied())));
    out.push_str("\n| number | call | who | audit | replay | durable | blocks | fds |\n|---|---|---|---|---|---|---|---|\n");
    for s in table::TABLE {
        out.push_str(&format!(
            "| {:#06x} | [{}](#{}) | {} | {} | {} | {} | {} | {} |\n",
            s.number,
            s.name,
            s.name.replace('.', ""),
            who(s.from),
            audit(s.audit),
            replay(s.replay),
            yes(s.durable),
            yes(s.blocks),
            s.fds
        ));
    }
    let mut types: BTreeMap<String, Value> = BTreeMap::new();
    let mut family = "";
    for (spec, arguments, reply) in table::schemas() {
        if spec.family != family {
            family = spec.family;
            out.push_str(&format!("\n## Family `{family}`\n"));
        }
        row(&mut out, spec, arguments.as_value(), reply.as_value(), &mut types);
    }
    out.push_str("\n## Types\n");
    for (name, schema) in &types {
        add_type(&mut out, name, schema);
    }
    out
}

fn row(out: &mut String, spec: &Spec, arguments: &Value, reply: &Value, types: &mut BTreeMap<String, Value>) {
    out.push_str(&format!("\n### {}\n\n{}\n\n", spec.name, sentence(spec.doc)));
    let traits = [
        Some(format!("`{:#06x}`", spec.number)),
        Some(format!("by {}", who(spec.from))),
        Some(format!("audit: {}", audit(spec.audit))),
        Some(format!("replay: {}", replay(spec.replay))),
        spec.durable.then(|| "durable".to_owned()),
        spec.blocks.then(|| "may block".to_owned()),
        (spec.fds > 0).then(|| format!("up to {} descriptor", spec.fds)),
        (spec.most_body > table::SHORT_BODY).then(|| format!("arguments up to {} MiB", spec.most_body >> 20)),
        (spec.most_tail > 0).then(|| format!("tail up to {} MiB", spec.most_tail >> 20)),
    ];
    out.push_str(&traits.into_iter().flatten().collect::<Vec<_>>().join(" · "));
    out.push('\n');
    let codes = row_errors::of(spec);
    if !codes.is_empty() {
        out.push_str(&format!("\nErrors: {}.\n", links(codes)));
    }
    let mut optional = schema_text::fields(arguments);
    optional.sort_by_key(|f| !f.required);
    table_of(out, "argument", &optional, true);
    table_of(out, "reply", &schema_text::fields(reply), false);
    for (name, schema) in schema_text::definitions(arguments).chain(schema_text::definitions(reply)) {
        types.insert(name.clone(), schema.clone());
    }
}

/// A table of fields; `requirable` adds whether each has to be there.
fn table_of(out: &mut String, what: &str, fields: &[Field], requirable: bool) {
    if fields.is_empty() {
        out.push_str(&format!("\nNo {what} fields.\n"));
        return;
    }
    out.push_str(&format!("\n| {what} | type | |\n|---|---|---|\n"));
    for f in fields {
        let required = if requirable && f.required { "**Required.** " } else { "" };
        out.push_str(&format!("| `{}` | {} | {required}{} |\n", f.name, f.kind, f.doc));
    }
}

fn add_type(out: &mut String, name: &str, schema: &Value) {
    out.push_str(&format!("\n### {name}\n"));
    let doc = schema_text::doc(schema);
    if !doc.is_empty() {
        out.push_str(&format!("\n{doc}\n"));
    }
    let words = schema_text::words(schema);
    if !words.is_empty() {
        out.push('\n');
        for (word, doc) in words {
            let doc = if doc.is_empty() { String::new() } else { format!(": {doc}") };
            out.push_str(&format!("- `{word}`{doc}\n"));
        }
    }
    let alternatives = schema_text::alternatives(schema);
    if !alternatives.is_empty() {
        table_of(out, "one of", &alternatives, false);
    }
    let fields = schema_text::fields(schema);
    if !fields.is_empty() {
        table_of(out, "field", &fields, true);
    }
    if schema["type"] == "string" && schema["enum"].is_null() {
        out.push_str("\nWritten as a string.\n");
    }
}

/// Codes with their titles, each linked to its page.
fn links(codes: impl IntoIterator<Item = ErrorCode>) -> String {
    let link = |c: ErrorCode| format!("[{c}](errors.md#{}) {}", c.code().to_lowercase(), c.title());
    codes.into_iter().map(link).collect::<Vec<_>>().join(", ")
}

/// Doc lines of the table joined.
fn sentence(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn who(from: From) -> &'static str {
    match from {
        From::Operator => "operator",
        From::Agent => "agent",
        From::Any => "any",
    }
}

fn audit(a: Audit) -> &'static str {
    match a {
        Audit::State => "state",
        Audit::Record => "record",
        Audit::Counted => "counted",
    }
}

fn replay(r: Replay) -> &'static str {
    match r {
        Replay::Reissue => "reissue",
        Replay::FromRecord => "from record",
        Replay::Never => "never",
    }
}

fn yes(b: bool) -> &'static str {
    if b { "yes" } else { "" }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_and_every_type_it_names_has_a_section() {
        let page = super::render();
        for s in clove_abi::TABLE {
            assert!(page.contains(&format!("\n### {}\n", s.name)), "{}", s.name);
        }
        let anchors: Vec<String> = page
            .lines()
            .filter_map(|l| l.strip_prefix("### "))
            .map(|h| h.replace('.', "").to_lowercase())
            .collect();
        for target in page.split("](#").skip(1).filter_map(|rest| rest.split_once(')')).map(|(t, _)| t) {
            assert!(anchors.iter().any(|a| a == target), "nothing is at #{target}");
        }
    }
}
