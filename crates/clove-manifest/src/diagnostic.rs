//! An error that points at its place in a file.

use clove_abi::untrusted::{Untrusted, is_hidden};
use std::fmt;
use std::ops::Range;

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line.
    pub source: String,
    /// Characters to underline.
    pub width: usize,
}

impl Place {
    /// Where `span` (in bytes) lies in `text`. A span over several lines is underlined to the end of its first one.
    /// Boxed, as it rides in every error.
    pub fn of(text: &str, span: Range<usize>) -> Box<Place> {
        let start = floor_char(text, span.start.min(text.len()));
        let end = floor_char(text, span.end.clamp(start, text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        Box::new(Place {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: text[start..end.min(line_end).max(start)].chars().count().max(1),
        })
    }
}

fn floor_char(text: &str, mut i: usize) -> usize {
    while !text.is_char_boundary(i) {
        i -= 1;
    }
    i
}

/// What is wrong with a sweep: where, what was expected, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as the user named it, or the flag.
    pub origin: String,
    pub place: Option<Box<Place>>,
    /// One sentence without a full stop.
    pub what: String,
    /// What would be right.
    pub expected: String,
    /// What to do next.
    pub hint: String,
}

impl Diagnostic {
    /// An error without a place in a text.
    pub fn new(origin: impl Into<String>, what: impl Into<String>) -> Diagnostic {
        Diagnostic {
            origin: origin.into(),
            place: None,
            what: what.into(),
            expected: String::new(),
            hint: String::new(),
        }
    }

    /// At a place.
    #[must_use]
    pub fn at(mut self, place: Option<Box<Place>>) -> Diagnostic {
        self.place = place;
        self
    }

    /// With what would be right.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Diagnostic {
        self.expected = expected.into();
        self
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = hint.into();
        self
    }
}

/// Longest part of a source line that is shown.
const SHOWN: usize = 100;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (origin, what) = (Untrusted::new(&self.origin), Untrusted::new(&self.what));
        match &self.place {
            None => write!(f, "{origin}: {what}")?,
            Some(p) => {
                write!(f, "{origin}:{}:{}: {what}", p.line, p.column)?;
                // A window of a long line around what is meant.
                let from = (p.column - 1).saturating_sub(SHOWN / 2);
                let shown: String = p
                    .source
                    .chars()
                    .skip(from)
                    .take(SHOWN)
                    // One for one, so that the marks below stand right.
                    .map(|c| if c == '\t' { ' ' } else { c })
                    .map(|c| if is_hidden(c) { char::REPLACEMENT_CHARACTER } else { c })
                    .collect();
                let margin = " ".repeat(p.line.to_string().len());
                let before = " ".repeat(p.column - 1 - from);
                let carets = "^".repeat(p.width.min(SHOWN.saturating_sub(p.column - 1 - from)).max(1));
                write!(
                    f,
                    "\n  {margin} |\n  {} | {}\n  {margin} | {before}{carets}",
                    p.line,
                    shown.trim_end()
                )?;
            }
        }
        if !self.expected.is_empty() {
            write!(f, "\n  expected: {}", Untrusted::new(&self.expected))?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  try: {}", Untrusted::new(&self.hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_points_at_the_place() {
        let text = "a = 1\nmemory = 512\n";
        let d = Diagnostic::new("s.toml", "memory has no unit")
            .at(Some(Place::of(text, 15..18)))
            .hint("write \"512m\"");
        assert_eq!(
            d.to_string(),
            "s.toml:2:10: memory has no unit\n    |\n  2 | memory = 512\n    |          ^^^\n  try: write \"512m\""
        );
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_has_a_place(text in "(.|\n){0,80}", a in 0usize..300, b in 0usize..300) {
            let d = Diagnostic::new("x", "y").at(Some(Place::of(&text, a.min(b)..a.max(b))));
            prop_assert!(d.to_string().lines().count() >= 4);
        }
    }
}
