//! Text that came from an agent: it prints escaped, wherever it goes.

use std::fmt::{self, Write as _};

/// A string whose author may be hostile. `Display` escapes everything [`is_hidden`] names; line ends and tabs are
/// kept only by [`Untrusted::lines_kept`].
#[derive(Clone, Copy)]
pub struct Untrusted<'a> {
    text: &'a str,
    keep_newlines: bool,
}

/// It drives a terminal, breaks a line, turns the direction of writing, or can't be seen: so a reader is shown its
/// number instead. These are the general categories Cc, Zl and Zp, the property Default_Ignorable_Code_Point (Unicode,
/// DerivedCoreProperties.txt), and the interlinear annotations. What merely looks like another letter is shown as it is.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

impl<'a> Untrusted<'a> {
    /// For one line: newlines and tabs are escaped too.
    pub fn new(text: &'a str) -> Self {
        Untrusted { text, keep_newlines: false }
    }

    /// For a block of lines.
    pub fn lines_kept(text: &'a str) -> Self {
        Untrusted { text, keep_newlines: true }
    }

    /// For HTML text and attribute values: the terminal rules, then `& < > " '`.
    pub fn html(&self) -> String {
        let mut out = String::new();
        for c in self.to_string().chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
        }
        out
    }

    /// For one CSV field: quoted where needed, and with a quote mark before whatever a spreadsheet would take for a
    /// formula (OWASP, CSV injection). Where a file's fields are parted by semicolons, our quotes don't hold in the
    /// middle of a line, so what follows a semicolon is looked at too. Numbers stay numbers.
    pub fn csv(&self) -> String {
        let text = self.to_string();
        let mut safe = String::with_capacity(text.len());
        for (i, piece) in text.split(';').enumerate() {
            if i > 0 {
                safe.push(';');
            }
            if is_formula(piece) {
                safe.push('\'');
            }
            safe.push_str(piece);
        }
        if safe.contains([',', '"', ';', '\n', '\r']) || safe.starts_with(' ') || safe.ends_with(' ') {
            format!("\"{}\"", safe.replace('"', "\"\""))
        } else {
            safe
        }
    }

    /// For a path in a command that a person may copy into a shell: quoted where needed, and never an option. What is
    /// hidden stands as in the dollar-single-quotes of POSIX.1-2024 (Shell Command Language, 2.2.4).
    pub fn shell_path(&self) -> String {
        let before = if self.text.starts_with('-') { "./" } else { "" };
        let plain = |c: char| c.is_alphanumeric() || "_./:@%+,-".contains(c);
        if self.text.contains(is_hidden) {
            let mut inside = String::new();
            for c in self.text.chars() {
                match c {
                    '\\' | '\'' => inside.extend(['\\', c]),
                    c if is_hidden(c) => {
                        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                            // Three digits: no digit that follows belongs to it.
                            let _ = write!(inside, "\\{byte:03o}");
                        }
                    }
                    c => inside.push(c),
                }
            }
            format!("{before}$'{inside}'")
        } else if self.text.chars().all(plain) && !self.text.is_empty() {
            format!("{before}{}", self.text)
        } else {
            format!("{before}'{}'", self.text.replace('\'', "'\\''"))
        }
    }
}

/// A spreadsheet would calculate it. Blanks and quote marks before it are ignored by some; the wide forms are taken for
/// the narrow ones by others. Tab and carriage return, which count too, are escaped before this is asked.
fn is_formula(text: &str) -> bool {
    let bare = text.trim_start_matches([' ', '\u{a0}', '\u{3000}', '"', '\'']);
    let begins =
        bare.starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '|', '%']);
    begins && bare.trim_end().parse::<f64>().is_err()
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        // Runs of harmless text go out in one piece.
        while let Some(at) = rest.find(is_hidden) {
            let (harmless, from) = rest.split_at(at);
            f.write_str(harmless)?;
            let mut chars = from.chars();
            match chars.next() {
                Some(c @ ('\n' | '\t')) if self.keep_newlines => f.write_char(c)?,
                Some(c) => write!(f, "{}", c.escape_default())?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_formulas_and_markup_are_harmless() {
        assert_eq!(Untrusted::new("a\x1b]52;c;x\x07\nb").to_string(), "a\\u{1b}]52;c;x\\u{7}\\nb");
        assert_eq!(Untrusted::lines_kept("a\n\tb\r").to_string(), "a\n\tb\\r");
        assert_eq!(Untrusted::new("<b onx='1'>").html(), "&lt;b onx=&#39;1&#39;&gt;");
        assert!(!Untrusted::new("\u{202e}evil").to_string().contains('\u{202e}'));
        assert_eq!(Untrusted::new("раypal e\u{301} \u{5d0}").to_string(), "раypal e\u{301} \u{5d0}");
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (text, word) in [
            ("/a/b-c.py", "/a/b-c.py"),
            ("", "''"),
            ("-rf", "./-rf"),
            ("a b", "'a b'"),
            ("$(touch x)", "'$(touch x)'"),
            ("it's", "'it'\\''s'"),
            ("a\x1b1\n'", "$'a\\0331\\012\\''"),
            ("x\u{202e}", "$'x\\342\\200\\256'"),
        ] {
            assert_eq!(Untrusted::new(text).shell_path(), word);
        }
    }

    #[test]
    fn no_field_is_a_formula() {
        for (text, field) in [
            ("=cmd()", "'=cmd()"),
            ("-1.5", "-1.5"),
            ("+1e-9", "+1e-9"),
            ("-inf", "-inf"),
            ("-2+3", "'-2+3"),
            ("@x", "'@x"),
            (" =x", "' =x"),
            ("\u{ff1d}x", "'\u{ff1d}x"),
            ("\t=x", "\\t=x"),
            ("\r=x", "\\r=x"),
            ("a,b", "\"a,b\""),
            ("a;b", "\"a;b\""),
            ("a;=x;-1", "\"a;'=x;-1\""),
            ("\"=x", "\"'\"\"=x\""),
            ("[1,-2]", "\"[1,-2]\""),
            ("", ""),
        ] {
            assert_eq!(Untrusted::new(text).csv(), field, "{text:?}");
        }
    }

    /// The corpus of hostile words that the end-to-end tests put everywhere.
    #[test]
    fn the_whole_corpus_is_shown_harmless() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/end_to_end/hostile_words/corpus.json");
        let text = std::fs::read_to_string(path).expect("the corpus");
        let corpus: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let words = corpus["words"].as_array().expect("words");
        assert!(words.len() > 50, "the corpus is {} words", words.len());
        for word in words.iter().filter_map(|w| w["text"].as_str()) {
            let u = Untrusted::new(word);
            let shown = u.to_string();
            assert!(!shown.contains(is_hidden), "{shown}");
            assert_eq!(shown == word, !word.contains(is_hidden), "{shown}: only what is hidden is changed");
            assert!(!u.html().contains(['<', '>', '"', '\'']), "{}", u.html());
            let field = u.csv();
            assert!(!field.contains(is_hidden), "{field}");
            let inner = field.strip_prefix('"').map_or(field.clone(), |f| f.replace("\"\"", "\""));
            assert!(
                inner.parse::<f64>().is_ok() || !inner.trim_start().starts_with(['=', '+', '-', '@']),
                "{field}"
            );
            let block = Untrusted::lines_kept(word).to_string();
            assert!(!block.contains(|c| is_hidden(c) && c != '\n' && c != '\t'), "{block}");
        }
    }
}
