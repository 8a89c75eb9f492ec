//! Who may write to a terminal: one file of the command line, one of the daemon. All else goes through them, and what
//! goes through them is escaped.

use xtask::{rust_files, rust_words, workspace};

/// Words that hold standard output or standard error, or write to them, and the files of `crates/clove/src` in which
/// they may stand. A child's streams (`out.stdout`, `.stderr(Stdio::null())`) aren't ours.
const WRITERS: &[(&str, &[&str])] = &[
    ("stdout", &["cli/stdio.rs", "cli/terminal.rs"]),
    ("stderr", &["cli/stdio.rs", "cli/terminal.rs", "daemon/kernel_log.rs"]),
    ("print!", &[]),
    ("println!", &[]),
    ("eprint!", &[]),
    ("eprintln!", &[]),
    ("dbg!", &[]),
    ("indicatif", &["cli/bar.rs"]),
    ("comfy_table", &["cli/table.rs"]),
    // These write bytes as they are: a log for a pipe, an attached program's output, JSON (which its encoder escapes),
    // scripts for shells.
    ("stdio::raw", &["cli/json.rs", "cli/logs.rs", "cli/completions.rs"]),
    ("write_raw(", &["cli/stdio.rs", "cli/relay.rs"]),
];

#[test]
fn only_the_chokepoints_write_to_a_terminal() {
    let root = workspace().join("crates/clove/src");
    let mut wrong = Vec::new();
    for file in rust_files(&root) {
        let name = file.strip_prefix(&root).expect("below").display().to_string();
        let source = std::fs::read_to_string(&file).expect("readable");
        for (word, allowed) in WRITERS.iter().filter(|(_, allowed)| !allowed.contains(&name.as_str())) {
            for (line, text) in uses(&source, word) {
                wrong.push(format!("{name}:{line}: `{text}`: only {allowed:?} may use {word}"));
            }
        }
    }
    let advice = "print with cli/stdio.rs (show, line, say, complain), or with the daemon's say!";
    assert!(wrong.is_empty(), "{}\n{advice}", wrong.join("\n"));
}

/// Lines on which a word is used, outside of comments, strings and tests.
fn uses<'s>(source: &'s str, word: &str) -> Vec<(usize, &'s str)> {
    let end = source.find("#[cfg(test)]").unwrap_or(source.len());
    let source = &source[..end];
    let bare = word.rsplit("::").next().unwrap_or(word).trim_end_matches(['!', '(']);
    let of_a_child =
        |text: &str| word == bare && text.replace(&format!(".{word}"), "").matches(word).count() == 0;
    rust_words::lines_with(source, bare)
        .into_iter()
        .filter_map(|n| Some((n, source.lines().nth(n - 1)?.trim())))
        .filter(|(_, text)| text.contains(word) && !of_a_child(text))
        .collect()
}

#[test]
fn a_use_is_found() {
    let source = "fn f() {\n    // println!\n    println!(\"x\");\n    out.stdout;\n    io::stdout();\n    json::print(v);\n}\n";
    assert_eq!(uses(source, "println!"), [(3, "println!(\"x\");")]);
    assert_eq!(uses(source, "stdout"), [(5, "io::stdout();")]);
    assert!(uses(source, "print!").is_empty());
}

/// The list above names no file for nothing: what has moved is told.
#[test]
fn every_exception_is_still_needed() {
    let root = workspace().join("crates/clove/src");
    let mut gone = Vec::new();
    for (word, allowed) in WRITERS {
        for name in *allowed {
            let source = std::fs::read_to_string(root.join(name)).unwrap_or_default();
            if uses(&source, word).is_empty() {
                gone.push(format!("{name} doesn't use `{word}` any more"));
            }
        }
    }
    assert!(gone.is_empty(), "{}", gone.join("\n"));
}
