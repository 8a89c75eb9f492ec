//! The way to a byte of a JSON text: `tasks[3].limits.memory_bytes`, so that an error names the field and not only a
//! column.

/// Longest name of one field that is shown.
const NAME_BYTES: usize = 60;
/// Steps that are shown; what lies deeper is left out.
const STEPS: usize = 12;

enum Step {
    /// In an object, behind this key (a range of the text), when there is one yet.
    Key(Option<(usize, usize)>),
    /// In a list, at this index.
    Index(usize),
}

/// The way to what was being read when `end` bytes of `text` had been. The text may be wrong from there on, and even
/// before: then the way is a guess. With `whole`, the last field itself belongs to it, else only what it lies in.
pub fn way_to(text: &[u8], end: usize, whole: bool) -> String {
    let end = end.min(text.len());
    let mut steps: Vec<Step> = Vec::new();
    let mut at = 0;
    // In an object, the next string is a key.
    let mut expects_key = false;
    while at < end {
        match text[at] {
            b'{' => {
                steps.push(Step::Key(None));
                expects_key = true;
            }
            b'[' => steps.push(Step::Index(0)),
            b'}' | b']' => {
                steps.pop();
                expects_key = false;
            }
            b',' => match steps.last_mut() {
                Some(Step::Key(k)) => {
                    *k = None;
                    expects_key = true;
                }
                Some(Step::Index(i)) => *i += 1,
                None => {}
            },
            b'"' => {
                let begin = at + 1;
                at = begin;
                while at < end && text[at] != b'"' {
                    at += 1 + usize::from(text[at] == b'\\');
                }
                if expects_key && let Some(Step::Key(k)) = steps.last_mut() {
                    *k = Some((begin, at.min(end)));
                    expects_key = false;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if !whole {
        match steps.last_mut() {
            Some(Step::Key(k)) => *k = None,
            _ => {
                steps.pop();
            }
        }
    }
    let mut way = String::new();
    for s in steps.iter().take(STEPS) {
        match s {
            Step::Key(Some((begin, end))) => {
                let name = String::from_utf8_lossy(&text[*begin..*end.min(&(begin + NAME_BYTES))]);
                if !way.is_empty() {
                    way.push('.');
                }
                way.push_str(&name);
            }
            Step::Key(None) => {}
            Step::Index(i) => way.push_str(&format!("[{i}]")),
        }
    }
    way
}

/// The byte that line and column of a serde_json error stand for: so many bytes had been read.
pub fn offset(text: &[u8], line: usize, column: usize) -> usize {
    let mut begin = 0;
    for _ in 1..line {
        match text[begin..].iter().position(|b| *b == b'\n') {
            Some(n) => begin += n + 1,
            None => break,
        }
    }
    (begin + column).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_named() {
        let text = br#"{"a": [1, {"b\"}": {"c": "x,[{"}, "d": 5}]}"#;
        let behind = |what: &str| {
            let at = text.windows(what.len()).position(|w| w == what.as_bytes()).expect("it is there");
            way_to(text, at + what.len(), true)
        };
        assert_eq!(behind("[1"), "a[0]");
        assert_eq!(behind("\"x,[{\""), "a[1].b\\\"}.c");
        assert_eq!(behind("\"d\""), "a[1].d");
        assert_eq!(behind(": 5"), "a[1].d");
        assert_eq!(behind("5}]"), "a");
        assert_eq!(way_to(text, text.len(), true), "");
        let at = text.len() - 4;
        assert_eq!((way_to(text, at, true), way_to(text, at, false)), ("a[1].d".into(), "a[1]".into()));
        // Nothing is a reason to stop: not the wrong end of a string, a bracket too many, or bytes that are no text.
        for junk in [&b"\"\\"[..], b"]]}}", b"{\"\xff\":", b"{,,,", b"[[[[,", b""] {
            for n in 0..=junk.len() + 1 {
                let _ = (way_to(junk, n, true), way_to(junk, n, false));
            }
        }
        assert!(way_to(&b"{\"a\":".repeat(10_000), 50_000, true).len() < 100);
    }

    #[test]
    fn lines_and_columns_are_bytes() {
        let text = b"{\n \"a\":\n5}";
        assert_eq!(offset(text, 1, 1), 1);
        assert_eq!(offset(text, 3, 1), 9);
        assert_eq!(way_to(text, offset(text, 3, 1), true), "a");
        assert_eq!(offset(text, 9, 9_999), text.len());
    }
}
