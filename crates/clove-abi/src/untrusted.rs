//! Text that came from an agent: it prints escaped, wherever it goes.

use std::fmt;

/// A string whose author may be hostile. `Display` escapes control characters (so no terminal sequence
/// survives) and bidirectional overrides; newlines are kept only by [`Untrusted::lines_kept`].
#[derive(Clone, Copy)]
pub struct Untrusted<'a> {
    text: &'a str,
    keep_newlines: bool,
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

    /// For one CSV field: quoted where needed, and a leading `= + - @` that isn't a number gets a quote mark in
    /// front, so that no spreadsheet takes it for a formula (OWASP, CSV injection).
    pub fn csv(&self) -> String {
        let text = self.to_string();
        let formula = text.starts_with(['=', '+', '-', '@']) && text.parse::<f64>().is_err();
        let text = if formula { format!("'{text}") } else { text };
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    }
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars() {
            match c {
                '\n' | '\t' if self.keep_newlines => write!(f, "{c}")?,
                c if is_hostile(c) => write!(f, "{}", c.escape_default())?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_formulas_and_markup_are_harmless() {
        assert_eq!(Untrusted::new("a\x1b]52;c;x\x07\nb").to_string(), "a\\u{1b}]52;c;x\\u{7}\\nb");
        assert_eq!(Untrusted::lines_kept("a\nb").to_string(), "a\nb");
        assert_eq!(Untrusted::new("<b onx='1'>").html(), "&lt;b onx=&#39;1&#39;&gt;");
        assert_eq!(Untrusted::new("=cmd()").csv(), "'=cmd()");
        assert_eq!(Untrusted::new("-1.5").csv(), "-1.5");
        assert_eq!(Untrusted::new("a,b").csv(), "\"a,b\"");
        assert!(!Untrusted::new("\u{202e}evil").to_string().contains('\u{202e}'));
    }
}
