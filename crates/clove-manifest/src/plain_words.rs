//! The usual mistakes in TOML, said better than its grammar says them.

use crate::diagnostic::Place;
use std::ops::Range;

/// A mistake in plain words.
#[derive(Debug)]
pub struct Mistake {
    /// Where it is; not always where the parser gave up.
    pub span: Range<usize>,
    pub what: String,
    /// What to write instead; may be empty.
    pub hint: String,
}

/// What the parser's `message` about `span` of `text` means.
pub fn of(message: &str, text: &str, span: Range<usize>) -> Mistake {
    let word = text.get(span.clone()).unwrap_or_default().trim();
    let place = Place::of(text, span.clone());
    let line = place.source.as_str();
    let rest = text.get(span.start..).unwrap_or_default();
    let said = |what: String, hint: &str| Mistake { span: span.clone(), what, hint: hint.to_owned() };
    if message.starts_with("duplicate key") {
        return said(format!("`{word}` is given twice"), "keep one of the two");
    }
    if text.trim_start().starts_with('{') {
        return said(
            "this is no line of TOML".into(),
            "it looks like JSON: write each key in a line of its own, as key = value, and sections as [name]",
        );
    }
    if line.contains(": ") && !line.contains('=') || text.starts_with("---\n") {
        return said("this is no line of TOML".into(), "it looks like YAML: write key = value");
    }
    if let Some(m) = bad_word(message, word, &span) {
        return m;
    }
    if let Some(m) = open_text(message, text, &span) {
        return m;
    }
    if message.starts_with("missing comma between array elements")
        || message.starts_with("unexpected `=` in array")
        || message.starts_with("unclosed array")
    {
        let hint = "end it with ], or put a comma between its values";
        return said("the list before this isn't closed".into(), hint);
    }
    if message.starts_with("unclosed inline table") {
        return said("the table before this isn't closed".into(), "end it with }, in the same line");
    }
    if message.starts_with("unclosed table") {
        return said("the name of this section isn't closed".into(), "end it with ]");
    }
    if message.starts_with("extra comma") {
        return said("there is a comma too many".into(), "leave it out");
    }
    if message.starts_with("unquoted keys cannot be empty") {
        return said("a name is missing here".into(), "write key = value, or [section]");
    }
    if message.starts_with("unexpected key or value") {
        return match rest.chars().next() {
            Some(';') => said("a line doesn't end with a semicolon".into(), "leave the ; out"),
            _ if line.contains("=>") => said("`=>` isn't TOML".into(), "write ="),
            Some(c) if "])}".contains(c) => said(format!("there is a `{c}` too many"), "leave it out"),
            _ => said("there is a second thing in this line".into(), "write each key in a line of its own"),
        };
    }
    if message.starts_with("key with no value") {
        return without_value(line, &span);
    }
    if message.contains("recurse") || message.contains("recursion") {
        return said("it is nested too deeply".into(), "at most 80 lists or tables may lie in each other");
    }
    if message.starts_with("carriage return must be followed") {
        let hint = "write it anew with other line ends: tr '\\r' '\\n' < OLD > NEW";
        return said("its lines end with a bare carriage return, as on an old Macintosh".into(), hint);
    }
    let message = message.lines().collect::<Vec<_>>().join(", ");
    said(format!("this isn't TOML: {message}"), "")
}

/// A line in which no `=` follows the first word.
fn without_value(line: &str, span: &Range<usize>) -> Mistake {
    let line = line.trim();
    let said = |what: String, hint: String| Mistake { span: span.clone(), what, hint };
    if ["//", ";", "--", "/*"].iter().any(|c| line.starts_with(c)) {
        return said("a comment begins otherwise in TOML".into(), "write # before it".into());
    }
    let (key, value) = line.split_once('=').map_or((line, None), |(k, v)| (k.trim(), Some(v.trim())));
    let plain = |c: char| c.is_alphanumeric() || "_-. ".contains(c);
    match value {
        Some(v) if key.chars().all(plain) => {
            said(format!("the key `{key}` isn't one word"), format!("put it into quotes: \"{key}\" = {v}"))
        }
        None if key.chars().all(|c| plain(c) && c != ' ') => {
            said(format!("`{key}` has no value"), format!("write {key} = and its value"))
        }
        _ => said("this is no line of TOML".into(), "write key = value, or [section]".into()),
    }
}

/// A value that is no value of TOML: text without quotes, another language's word, a number written otherwise.
fn bad_word(message: &str, word: &str, span: &Range<usize>) -> Option<Mistake> {
    let said = |what: String, hint: String| Some(Mistake { span: span.clone(), what, hint });
    if message.starts_with("invalid fraction") {
        return said(
            "a number has no digit after its point".into(),
            "write 1.0 for 1.; there are no ranges such as 1..5: write [1, 2, 3, 4, 5], or draw from one in [random]"
                .into(),
        );
    }
    if message.starts_with("invalid mantissa") {
        return said("a number has no digit before its point".into(), "write 0.5 for .5".into());
    }
    if message.starts_with("unexpected leading zero") {
        return said(
            "a number begins with a zero".into(),
            "write 1 for 01; in quotes, \"01\", it is text".into(),
        );
    }
    if message.starts_with("missing escaped value") {
        return said(
            "what follows this backslash is no escape".into(),
            "put text with backslashes into single quotes: 'C:\\data'".into(),
        );
    }
    if message.starts_with("extra `=`") {
        return said("there is a second `=`".into(), "write one".into());
    }
    let unquoted = message.starts_with("string values must be quoted");
    if unquoted && word.is_empty() {
        return said("there is no value after the `=`".into(), "write one, or leave the key out".into());
    }
    let bare = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "_-./~:".contains(c));
    let begins_like_text = word.starts_with(|c: char| c.is_alphabetic() || "./~_".contains(c));
    let is_bare_text = bare && begins_like_text && message.starts_with("invalid");
    if !unquoted && !is_bare_text {
        return None;
    }
    let typographic = |c: char| "“”„‟‘’‚«»".contains(c);
    if word.starts_with(typographic) || word.ends_with(typographic) {
        let inner = word.trim_matches(typographic);
        return said(
            format!("`{word}` stands in quotation marks that aren't TOML's"),
            format!("write \"{inner}\""),
        );
    }
    let hint = match word {
        "True" | "False" | "TRUE" | "FALSE" => "write true or false in small letters".into(),
        "None" | "null" | "nil" => "TOML has no empty value: leave the key out, or write \"\"".into(),
        _ if word.contains('(') => "TOML calls no functions: write the values out, as in [0, 1, 2]".into(),
        _ if word.split_whitespace().count() > 1
            && word.split_whitespace().all(|w| w.parse::<f64>().is_ok()) =>
        {
            format!("put commas between them: {}", word.split_whitespace().collect::<Vec<_>>().join(", "))
        }
        _ => format!("put text into quotes: \"{word}\""),
    };
    said(format!("`{word}` isn't a value"), hint)
}

/// Text whose quotes aren't closed.
fn open_text(message: &str, text: &str, span: &Range<usize>) -> Option<Mistake> {
    let quote = ["`\"\"\"`", "`'''`", "`\"`", "`'`"]
        .iter()
        .find(|q| message.contains("string") && message.contains(&format!("expected {q}")))?
        .trim_matches('`');
    // The parser gives up at the end of the file: what matters is where it began.
    let many = quote.len() == 3 || message.contains("multi-line");
    let quote = if many && quote.len() == 1 { quote.repeat(3) } else { quote.to_owned() };
    let before = text.get(..span.start).unwrap_or_default();
    let span = match before.rfind(quote.as_str()) {
        Some(at) if many => at..at + quote.len(),
        _ => span.clone(),
    };
    let what = if many {
        "the text that begins here has no closing quotes"
    } else {
        "the text that begins in this line has no closing quote"
    };
    Some(Mistake { span, what: what.into(), hint: format!("end it with {quote}") })
}
