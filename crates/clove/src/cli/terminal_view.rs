//! An agent's output as a terminal may show it: text, line ends, tabs and colours as they are, all else escaped.

use clove_abi::untrusted::is_hidden;

/// Longest colour sequence that is let through: ESC, `[`, numbers, `m`.
const LONGEST_COLOUR: usize = 48;

/// A stream's state between two pieces.
#[derive(Debug)]
pub struct TerminalView {
    colours: bool,
    /// The end of the last piece, where it may go on: half a character, half a colour, a carriage return.
    pending: Vec<u8>,
    painted: bool,
}

impl TerminalView {
    /// Without `colours` they are left out.
    pub fn new(colours: bool) -> TerminalView {
        TerminalView { colours, pending: Vec::new(), painted: false }
    }

    /// The next piece, as it may be shown. What may still become part of something else comes with the next one.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.pending);
        input.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            let used = self.step(&input[at..], &mut out);
            if used == 0 {
                self.pending = input.split_off(at);
                break;
            }
            at += used;
        }
        out
    }

    /// What was held back, and the way back from the last colour.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for byte in std::mem::take(&mut self.pending) {
            match byte {
                // A progress bar's last carriage return.
                b'\r' => out.push(b'\n'),
                b' '..=b'~' => out.push(byte),
                byte => single(byte, &mut out),
            }
        }
        if std::mem::take(&mut self.painted) {
            out.extend_from_slice(b"\x1b[0m");
        }
        out
    }

    /// Shows what stands at the start of `rest`, and says how many bytes it was; 0 when its end isn't there yet.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        match rest[0] {
            b'\n' | b'\t' | b' '..=b'~' => {
                let run = rest.iter().take_while(|b| matches!(b, b'\n' | b'\t' | b' '..=b'~')).count();
                out.extend_from_slice(&rest[..run]);
                run
            }
            // Nothing may overwrite its own line: each state of a progress bar gets one.
            b'\r' => match rest.get(1) {
                None => 0,
                Some(b'\n') => 1,
                Some(_) => {
                    out.push(b'\n');
                    1
                }
            },
            0x1b => match colour(rest) {
                Sequence::Cut => 0,
                Sequence::Colour(length) => {
                    if self.colours {
                        out.extend_from_slice(&rest[..length]);
                        self.painted = true;
                    }
                    length
                }
                Sequence::Other => {
                    single(0x1b, out);
                    1
                }
            },
            byte if byte < 0x80 => {
                single(byte, out);
                1
            }
            _ => character(rest, out),
        }
    }
}

enum Sequence {
    /// Select Graphic Rendition (ECMA-48, 8.3.117) of this length.
    Colour(usize),
    /// It may become one.
    Cut,
    Other,
}

fn colour(rest: &[u8]) -> Sequence {
    match rest.get(1) {
        None => return Sequence::Cut,
        Some(b'[') => {}
        Some(_) => return Sequence::Other,
    }
    for (i, b) in rest.iter().enumerate().take(LONGEST_COLOUR).skip(2) {
        match b {
            b'0'..=b'9' | b';' | b':' => {}
            b'm' => return Sequence::Colour(i + 1),
            _ => return Sequence::Other,
        }
    }
    if rest.len() < LONGEST_COLOUR { Sequence::Cut } else { Sequence::Other }
}

/// A control character, or a byte that no UTF-8 has.
fn single(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
}

fn character(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let text = match std::str::from_utf8(&rest[..rest.len().min(4)]) {
        Ok(text) => text,
        Err(e) if e.valid_up_to() > 0 => std::str::from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default(),
        Err(e) if e.error_len().is_none() => return 0,
        Err(_) => "",
    };
    match text.chars().next() {
        Some(c) if is_hidden(c) => {
            out.extend_from_slice(c.escape_default().to_string().as_bytes());
            c.len_utf8()
        }
        Some(c) => {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            c.len_utf8()
        }
        None => {
            single(rest[0], out);
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::page::tests::corpus;

    fn shown(bytes: &[u8], piece: usize, colours: bool) -> String {
        let mut view = TerminalView::new(colours);
        let mut out: Vec<u8> = bytes.chunks(piece).flat_map(|p| view.push(p)).collect();
        out.extend(view.finish());
        String::from_utf8(out).expect("UTF-8 comes out whatever goes in")
    }

    #[test]
    fn text_and_colours_stay_and_all_else_is_escaped() {
        for (bytes, text) in [
            (&b"a\tb\r\nc\n"[..], "a\tb\nc\n"),
            (b"10%\r20%\rdone\n", "10%\n20%\ndone\n"),
            (b"end\r", "end\n"),
            (b"\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m\x1b[0m"),
            (b"\x1b[2J\x1b]52;c;x\x07", "\\x1b[2J\\x1b]52;c;x\\x07"),
            (b"\x1b[?25l", "\\x1b[?25l"),
            ("grün \u{1f33f} \u{9b}2J \u{202e}".as_bytes(), "grün \u{1f33f} \\u{9b}2J \\u{202e}"),
            (b"\x9b2J \xff \xe2\x82", "\\x9b2J \\xff \\xe2\\x82"),
            (b"\x1b", "\\x1b"),
            (b"\x1b[31", "\\x1b[31"),
        ] {
            assert_eq!(shown(bytes, 1000, true), text);
        }
        assert_eq!(shown(b"\x1b[1;31mred\x1b[0m", 1, false), "red");
    }

    #[test]
    fn it_is_the_same_in_any_pieces_and_never_drives_the_terminal() {
        let mut all = corpus();
        all.push(all.iter().filter(|w| w.len() < 1000).flatten().copied().collect());
        for word in &all {
            let word = &word[..word.len().min(5000)];
            let whole = shown(word, usize::MAX, true);
            for piece in [1, 2, 3, 7, 64] {
                assert_eq!(shown(word, piece, true), whole);
            }
            let bare = shown(word, 5, false);
            assert!(!bare.contains(|c| is_hidden(c) && c != '\n' && c != '\t'), "{bare:?}");
            // With colours, what is left of them is ESC [ numbers m.
            for (i, _) in whole.match_indices('\x1b') {
                assert!(matches!(colour(&whole.as_bytes()[i..]), Sequence::Colour(_)), "{whole:?}");
            }
        }
    }
}
