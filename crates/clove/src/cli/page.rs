//! What a person reads. It is made line by line, and whatever is put into a line stays in it: nothing there drives the
//! terminal, or makes a line that looks like one of ours.

use clove_abi::untrusted::Untrusted;
use std::fmt::{self, Display, Write as _};

/// Lines that are safe to print. There is no way to put in text that isn't escaped, so nobody can forget to.
#[derive(Debug, Default)]
pub struct Page(String);

/// The colours that a page may have.
#[derive(Clone, Copy, Debug)]
pub enum Paint {
    Green,
    Red,
}

impl Page {
    /// An empty one.
    pub fn new() -> Page {
        Page::default()
    }

    /// Adds one line, whatever is in it: line ends are escaped as other control characters are.
    pub fn line(&mut self, text: impl Display) {
        self.piece(text);
        self.0.push('\n');
    }

    /// Adds a line whose second part is painted, if there is a colour.
    pub fn painted_line(
        &mut self,
        before: impl Display,
        paint: Option<Paint>,
        word: impl Display,
        after: impl Display,
    ) {
        self.piece(before);
        self.0.push_str(match paint {
            Some(Paint::Green) => "\x1b[32m",
            Some(Paint::Red) => "\x1b[31m",
            None => "",
        });
        self.piece(word);
        self.0.push_str(if paint.is_some() { "\x1b[0m" } else { "" });
        self.piece(after);
        self.0.push('\n');
    }

    /// Adds the lines of a text that is our own, such as a page of help.
    pub fn own(&mut self, text: &str) {
        for line in text.lines() {
            self.block_line("", line);
        }
    }

    /// Adds the lines of somebody's text, each behind a mark that shows whose they are.
    pub fn block(&mut self, mark: &str, text: &str) {
        for line in text.trim_end().lines() {
            self.block_line(mark, line);
        }
    }

    /// Adds one record of a CSV file, with formulas disarmed.
    pub fn record(&mut self, fields: &[String]) {
        let fields: Vec<String> = fields.iter().map(|f| Untrusted::new(f).csv()).collect();
        self.0.push_str(&fields.join(","));
        self.0.push('\n');
    }

    /// Adds another page below.
    pub fn append(&mut self, below: &Page) {
        self.0.push_str(&below.0);
    }

    /// As it is printed.
    pub fn text(&self) -> &str {
        &self.0
    }

    fn piece(&mut self, text: impl Display) {
        // Writing to a String can't fail.
        let _ = write!(self.0, "{}", Untrusted::new(&text.to_string()));
    }

    /// Tabs stay: they are common in an agent's output, and move nothing but the rest of their line.
    fn block_line(&mut self, mark: &str, line: &str) {
        let _ = writeln!(self.0, "{mark}{}", Untrusted::lines_kept(line));
    }
}

impl Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The words of the corpus that all tests share, whole.
    pub fn corpus() -> Vec<Vec<u8>> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/end_to_end/hostile_words/corpus.json");
        let text = std::fs::read_to_string(path).expect("the corpus");
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let bytes = |w: &serde_json::Value| match (w["text"].as_str(), w["hex"].as_str()) {
            (Some(t), _) => t.as_bytes().repeat(w["times"].as_u64().unwrap_or(1) as usize),
            (_, Some(h)) => {
                (0..h.len() / 2).map(|i| u8::from_str_radix(&h[2 * i..2 * i + 2], 16).expect("hex")).collect()
            }
            _ => panic!("{w} has neither text nor hex"),
        };
        let words: Vec<_> = all["words"].as_array().expect("words").iter().map(bytes).collect();
        assert!(words.len() > 50);
        words
    }

    #[test]
    fn a_line_stays_a_line() {
        let words = corpus();
        let mut page = Page::new();
        for word in &words {
            let word = String::from_utf8_lossy(word);
            page.line(format_args!("a {word} b"));
            page.painted_line(&word, Some(Paint::Red), &word, &word);
            page.record(&[word.to_string(), "x".into()]);
        }
        assert_eq!(page.text().lines().count(), 3 * words.len());
        let bare = page.text().replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert!(!bare.contains(|c| clove_abi::untrusted::is_hidden(c) && c != '\n'));
        let mut block = Page::new();
        for word in &words {
            block.block("    | ", &String::from_utf8_lossy(word));
        }
        assert!(block.text().lines().all(|l| l.starts_with("    | ")));
        assert!(!block.text().contains(|c| clove_abi::untrusted::is_hidden(c) && c != '\n' && c != '\t'));
    }
}
