//! Names of tasks, made from their configurations by a pattern such as `{target}-{model}`.

use crate::configurations::Config;
use serde_json::Value;

/// Longest name in characters.
pub const LONGEST: usize = 120;

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Key(String),
}

impl Pattern {
    /// Reads a pattern. `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' if chars.peek() == Some(&'{') => plain.extend(chars.next()),
                '}' if chars.peek() == Some(&'}') => plain.extend(chars.next()),
                '{' => {
                    let mut key = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) if c != '{' => key.push(c),
                            _ => return Err(format!("the brace before `{key}` is never closed")),
                        }
                    }
                    if key.is_empty() {
                        return Err("`{}` names no key".into());
                    }
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    pieces.push(Piece::Key(key));
                }
                '}' => return Err("there is a `}` without its `{`".into()),
                c => plain.push(c),
            }
        }
        pieces.push(Piece::Text(plain));
        Ok(Pattern(pieces))
    }

    /// The name of one task.
    ///
    /// # Errors
    /// A key that the configuration doesn't have, or a name that can't be one.
    pub fn name(&self, index: usize, config: &Config) -> Result<String, String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(t) => out.push_str(t),
                Piece::Key(k) => match config.get(k) {
                    Some(v) => out.push_str(&shown(v)),
                    None if k == "index" => out.push_str(&index.to_string()),
                    None => {
                        let has: Vec<&str> = config.keys().map(String::as_str).collect();
                        return Err(format!("task {index} has no `{k}` (it has {})", has.join(", ")));
                    }
                },
            }
        }
        if out.is_empty() {
            return Err(format!("the name of task {index} is empty"));
        }
        if out.chars().count() > LONGEST {
            return Err(format!("the name of task {index} is longer than {LONGEST} characters"));
        }
        if out.chars().any(char::is_control) {
            return Err(format!("the name of task {index} has a control character in it"));
        }
        Ok(out)
    }
}

/// A value as it stands in a name: a string without its quotes.
pub fn shown(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => match clove_abi::float::from_json(other) {
            Some(x) if other.is_object() => x.to_string().to_lowercase(),
            _ => other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(v: Value) -> Config {
        v.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn patterns_are_filled() {
        let c = config(json!({"model": "SVM", "lr": 0.1, "n": 3, "x": {"$float": "nan"}}));
        for (pattern, name) in [
            ("{model}-{lr}", "SVM-0.1"),
            ("{{{n}}}", "{3}"),
            ("t{index}", "t7"),
            ("{x}", "nan"),
            ("plain", "plain"),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).name(7, &c), Ok(name.to_owned()));
        }
        for wrong in ["{", "{a", "}", "{}", "{a{b}"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
        let missing = Pattern::parse("{modle}").expect("well formed").name(0, &c).expect_err("no key");
        assert!(missing.contains("it has lr, model"), "{missing}");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}") {
            if let Ok(p) = Pattern::parse(&text) {
                let _ = p.name(0, &Config::new());
            }
        }
    }
}
