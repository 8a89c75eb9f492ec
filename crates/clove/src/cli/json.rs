//! JSON on standard output, safe to look at on a terminal.

use crate::cli::stdio;
use clove_abi::untrusted::is_hidden;
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter};
use std::io;

/// Prints a value over several lines.
pub fn print(value: &impl Serialize) {
    stdio::raw(&encode(value, true));
}

/// Prints a value as one line.
pub fn print_line(value: &impl Serialize) {
    stdio::raw(&encode(value, false));
}

fn encode(value: &impl Serialize, pretty: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let done = if pretty {
        value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out,
            Harmless(PrettyFormatter::new()),
        ))
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out,
            Harmless(serde_json::ser::CompactFormatter),
        ))
    };
    // Our own types always serialise; a Vec takes every byte.
    debug_assert!(done.is_ok());
    out.push(b'\n');
    out
}

/// serde_json escapes only the first 32 control characters. The others (DEL, C1: U+009B is a terminal's CSI), what turns
/// the direction of writing and what can't be seen would reach the terminal as they are.
struct Harmless<F>(F);

impl<F: Formatter> Formatter for Harmless<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        let mut start = 0;
        for (i, c) in fragment.char_indices().filter(|(_, c)| is_hidden(*c)) {
            w.write_all(&fragment.as_bytes()[start..i])?;
            // Beyond the basic plane it takes two (RFC 8259, section 7).
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(w, "\\u{unit:04x}")?;
            }
            start = i + c.len_utf8();
        }
        w.write_all(&fragment.as_bytes()[start..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, w: &mut W, e: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(w, e)
    }
    fn begin_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_whole_corpus_is_harmless_and_comes_back() {
        for word in crate::cli::page::tests::corpus() {
            let word = String::from_utf8_lossy(&word).into_owned();
            let v = json!({"k": word, word.clone(): [word]});
            let text = String::from_utf8(encode(&v, false)).expect("utf-8");
            assert!(!text.trim_end().contains(is_hidden), "{text:?}");
            assert_eq!(serde_json::from_str::<Value>(&text).expect("json"), v);
        }
    }

    #[test]
    fn nothing_hostile_reaches_the_terminal_and_nothing_is_lost() {
        let v = json!({"a\u{9b}": ["\u{202e}x\u{1b}]\u{7f}", "grün \"quoted\" \u{1f33f}"], "e": {}, "n": []});
        for pretty in [true, false] {
            let bytes = encode(&v, pretty);
            let text = String::from_utf8(bytes).expect("utf-8");
            assert!(!text.trim_end().chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            assert!(!text.contains('\u{202e}') && text.contains("grün"));
            assert_eq!(serde_json::from_str::<Value>(&text).expect("json"), v);
        }
        assert_eq!(
            encode(&json!([1, {"k": 2}]), true),
            serde_json::to_vec_pretty(&json!([1, {"k": 2}]))
                .map(|mut v| {
                    v.push(b'\n');
                    v
                })
                .expect("json")
        );
    }
}
