//! The words of Rust source, without what stands in comments, strings and characters.

/// Lines (from 1) on which `word` stands as code.
pub fn lines_with(source: &str, word: &str) -> Vec<usize> {
    let code = code_only(source);
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.split(|c| !is_part(c)).any(|w| w == word))
        .map(|(i, _)| i + 1)
        .collect()
}

/// The source with everything else blanked; newlines stay, so that lines keep their numbers.
fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = skippable(rest, out.chars().next_back());
        if skipped > 0 {
            let (gone, after) = rest.split_at(skipped);
            out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Bytes at the start of `rest` that are no code. `before` is the character before them.
fn skippable(rest: &str, before: Option<char>) -> usize {
    let to = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return to(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !in_word {
        let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 2;
            return to(rest.get(from..).and_then(|r| r.find(&end)).map(|at| from + at + end.len()));
        }
    }
    // 'x' and '\n' are characters, 'a in &'a str is a lifetime.
    if let Some(inside) = rest.strip_prefix('\'') {
        let mut chars = inside.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), _) => return quoted(rest, '\''),
            (Some(c), Some('\'')) => return 2 + c.len_utf8(),
            _ => {}
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    while let Some(here) = rest.get(at..).filter(|h| !h.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::lines_with;

    #[test]
    fn only_code_counts() {
        let source = r####"
// unsafe
/* unsafe /* unsafe */ unsafe */
let a = "unsafe \" unsafe"; let b = r#"unsafe "unsafe" "#; let c = '"'; let d: &'static str = "";
#![deny(unsafe_code)]
let e = '\''; unsafe { f() }
"####;
        assert_eq!(lines_with(source, "unsafe"), vec![6]);
    }
}
