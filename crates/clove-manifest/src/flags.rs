//! Sweeps and mounts from the command line: `--grid k=a,b`, `--random k=1..10`, `-v SRC:DST[:rw]`.

use crate::configurations::Config;
use crate::random::Draw;
use crate::units::BadQuantity;
use clove_abi::float;
use clove_abi::run::Mount;
use serde_json::Value;

fn bad<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, BadQuantity> {
    Err(BadQuantity { what: what.into(), hint: hint.into() })
}

/// A value as a person types it: a whole number, a number, true or false, JSON in brackets or quotes, else text.
pub fn value(text: &str) -> Value {
    let t = text.trim();
    if let Ok(n) = t.parse::<i64>() {
        return Value::from(n);
    }
    match t {
        "true" | "True" => return Value::Bool(true),
        "false" | "False" => return Value::Bool(false),
        "null" | "None" => return Value::Null,
        _ => {}
    }
    // `infinity` and `nan` parse as floats too, as in Python; a word such as `info` doesn't.
    if let Ok(x) = t.parse::<f64>() {
        return float::to_json(x);
    }
    if t.starts_with(['[', '{', '"'])
        && let Ok(v) = serde_json::from_str(t)
    {
        return v;
    }
    let quoted = t.strip_prefix('\'').and_then(|r| r.strip_suffix('\''));
    Value::String(quoted.unwrap_or(t).to_owned())
}

/// `k=a,b,c`; commas inside brackets, braces and quotes don't separate.
///
/// # Errors
/// What is wrong, and an example.
pub fn grid(text: &str) -> Result<(String, Vec<Value>), BadQuantity> {
    const EXAMPLE: &str = "write --grid lr=0.1,0.01";
    let Some((key, values)) = text.split_once('=') else {
        return bad(format!("`--grid {text}` has no `=`"), EXAMPLE);
    };
    let key = key.trim();
    if key.is_empty() {
        return bad(format!("`--grid {text}` names no key"), EXAMPLE);
    }
    if values.trim().is_empty() {
        return bad(format!("`--grid {text}` has no values, so there would be no tasks"), EXAMPLE);
    }
    let parts = split_commas(values);
    if parts.iter().any(|p| p.trim().is_empty()) {
        return bad(
            format!("`--grid {text}` has an empty value between commas"),
            "write \"\" for empty text",
        );
    }
    Ok((key.to_owned(), parts.into_iter().map(value).collect()))
}

fn split_commas(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0i32, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth <= 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `k=1..10` (whole numbers), `k=0.1..1`, `k=1e-4..1e-1:log`, `k=a|b|c`.
///
/// # Errors
/// What is wrong, and an example.
pub fn random(text: &str) -> Result<(String, Draw), BadQuantity> {
    const EXAMPLE: &str = "write --random lr=1e-4..1e-1:log, --random depth=1..10 or --random opt=sgd|adam";
    let Some((key, spec)) = text.split_once('=').filter(|(k, _)| !k.trim().is_empty()) else {
        return bad(format!("`--random {text}` isn't KEY=WHAT"), EXAMPLE);
    };
    let draw = if let Some((from, to)) = spec.split_once("..") {
        let (to, log) = match to.split_once(':') {
            None => (to, false),
            Some((to, "log")) => (to, true),
            Some((to, "linear")) => (to, false),
            Some((_, scale)) => return bad(format!("`{scale}` isn't a scale"), EXAMPLE),
        };
        match (from.trim().parse::<i64>(), to.trim().parse::<i64>()) {
            (Ok(min), Ok(max)) if min <= max && !log => Draw::Int { min, max },
            _ => match (from.trim().parse::<f64>(), to.trim().parse::<f64>()) {
                (Ok(min), Ok(max)) if min.is_finite() && max.is_finite() && min <= max => {
                    if log && min <= 0.0 {
                        return bad(format!("`{from}` has no logarithm"), "begin a log scale above 0");
                    }
                    Draw::Float { min, max, log }
                }
                _ => return bad(format!("`{spec}` isn't a range from less to more"), EXAMPLE),
            },
        }
    } else if spec.trim().is_empty() {
        return bad(format!("`--random {text}` has nothing to draw from"), EXAMPLE);
    } else {
        Draw::Choice(spec.split('|').map(value).collect())
    };
    Ok((key.trim().to_owned(), draw))
}

/// Configurations from a file: a JSON array of objects, or one object per line.
///
/// # Errors
/// Which entry is wrong, and how.
pub fn list(text: &str) -> Result<Vec<Config>, BadQuantity> {
    const EXAMPLE: &str = "write [{\"lr\": 0.1}, {\"lr\": 0.01}], or one {...} per line";
    let values: Vec<Value> = if text.trim_start().starts_with('[') {
        match serde_json::from_str(text) {
            Ok(v) => v,
            Err(e) => return bad(format!("it isn't JSON: {e}"), EXAMPLE),
        }
    } else {
        let mut out = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(v) => out.push(v),
                Err(e) => return bad(format!("line {} isn't JSON: {e}", i + 1), EXAMPLE),
            }
        }
        out
    };
    if values.is_empty() {
        return bad("it has no configurations", EXAMPLE);
    }
    let mut out = Vec::with_capacity(values.len());
    for (i, v) in values.into_iter().enumerate() {
        match v {
            Value::Object(config) => out.push(config),
            other => {
                let short: String = other.to_string().chars().take(40).collect();
                return bad(format!("entry {i} is `{short}`, not an object with keys and values"), EXAMPLE);
            }
        }
    }
    Ok(out)
}

/// `SRC[:DST][:ro|:rw]`, or Docker's long form `type=bind,source=...,target=...`. Read-only unless `:rw`. The target is
/// empty when none was given: the caller uses the source's absolute path.
///
/// # Errors
/// What is wrong, and an example.
pub fn mount(text: &str) -> Result<Mount, BadQuantity> {
    const EXAMPLE: &str = "write SRC:DST, or SRC:DST:rw to allow writing; for example /data:/data";
    if text.contains("source=") || text.contains("src=") {
        return long_mount(text, EXAMPLE);
    }
    let mut parts: Vec<&str> = text.split(':').collect();
    let mut writable = false;
    if parts.len() > 1
        && let Some(mode) = parts.last().copied().filter(|m| !m.starts_with('/'))
    {
        for word in mode.split(',') {
            match word {
                "rw" => writable = true,
                "ro" | "z" | "Z" => {}
                other => {
                    let what = if other.starts_with('.') || parts.len() == 2 {
                        format!("the target `{other}` in `{text}` isn't an absolute path")
                    } else {
                        format!("`{other}` in `{text}` is neither ro nor rw")
                    };
                    return bad(what, EXAMPLE);
                }
            }
        }
        parts.pop();
    }
    match parts.as_slice() {
        [source] | [source, ""] if !source.is_empty() => {
            Ok(Mount { source: (*source).to_owned(), target: String::new(), writable })
        }
        [source, target] if !source.is_empty() => {
            Ok(Mount { source: (*source).to_owned(), target: (*target).to_owned(), writable })
        }
        [_, _, ..] if parts.len() > 2 => bad(format!("`{text}` has too many colons"), EXAMPLE),
        _ => bad(format!("`{text}` names no folder of this machine"), EXAMPLE),
    }
}

fn long_mount(text: &str, example: &str) -> Result<Mount, BadQuantity> {
    let mut m = Mount { source: String::new(), target: String::new(), writable: false };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match (key, value) {
            ("type", "bind") => {}
            ("type", other) => {
                return bad(format!("there are no mounts of type `{other}`, only bind"), example);
            }
            ("source" | "src", v) => v.clone_into(&mut m.source),
            ("target" | "dst" | "destination", v) => v.clone_into(&mut m.target),
            ("readonly" | "ro", "" | "true" | "1") | ("rw" | "writable", "false") => m.writable = false,
            ("readonly" | "ro", "false" | "0") | ("rw" | "writable", "" | "true") => m.writable = true,
            _ => return bad(format!("`{field}` in `{text}` isn't known"), example),
        }
    }
    if m.source.is_empty() {
        return bad(format!("`{text}` has no source"), example);
    }
    if !m.target.is_empty() && !m.target.starts_with('/') {
        return bad(format!("the target `{}` isn't an absolute path", m.target), example);
    }
    Ok(m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_are_what_they_look_like() {
        for (text, v) in [
            ("3", json!(3)),
            ("-0.5", json!(-0.5)),
            ("1e-3", json!(0.001)),
            ("true", json!(true)),
            ("False", json!(false)),
            ("None", json!(null)),
            ("adam", json!("adam")),
            ("\"3\"", json!("3")),
            ("'3'", json!("3")),
            ("[1,2]", json!([1, 2])),
            ("nan", json!({"$float": "nan"})),
            ("-inf", json!({"$float": "-inf"})),
            ("007x", json!("007x")),
        ] {
            assert_eq!(value(text), v, "{text}");
        }
        assert_eq!(
            grid("k=[1,2],[3],\"a,b\""),
            Ok(("k".into(), vec![json!([1, 2]), json!([3]), json!("a,b")]))
        );
        for wrong in ["k", "=1", "k=", "k=1,,2", "k=1,"] {
            assert!(grid(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn draws_are_read() {
        assert_eq!(random("d=1..10"), Ok(("d".into(), Draw::Int { min: 1, max: 10 })));
        assert_eq!(
            random("l=1e-4..1e-1:log"),
            Ok(("l".into(), Draw::Float { min: 1e-4, max: 1e-1, log: true }))
        );
        assert_eq!(random("o=a|b"), Ok(("o".into(), Draw::Choice(vec![json!("a"), json!("b")]))));
        for wrong in ["x", "=1..2", "x=", "x=2..1", "x=0..1:log", "x=1..2:cube", "x=a..b"] {
            assert!(random(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_come_as_an_array_or_as_lines() {
        assert_eq!(list("[{\"a\":1}]").expect("array").len(), 1);
        assert_eq!(list("{\"a\":1}\n\n{\"a\":2}\n").expect("lines").len(), 2);
        for (wrong, part) in
            [("[1]", "entry 0"), ("{\"a\":1}\n{", "line 2"), ("", "no configurations"), ("[", "JSON")]
        {
            assert!(list(wrong).expect_err(wrong).what.contains(part), "{wrong}");
        }
    }

    #[test]
    fn mounts_are_spelled_as_docker_spells_them() {
        let m = |s: &str, t: &str, w| Ok(Mount { source: s.into(), target: t.into(), writable: w });
        assert_eq!(mount("/data:/data"), m("/data", "/data", false));
        assert_eq!(mount("/data:/d:rw"), m("/data", "/d", true));
        assert_eq!(mount("/data:/d:ro"), m("/data", "/d", false));
        assert_eq!(mount("data"), m("data", "", false));
        assert_eq!(mount("./data:rw"), m("./data", "", true));
        assert_eq!(mount("type=bind,source=/a,target=/b,readonly"), m("/a", "/b", false));
        assert_eq!(mount("src=/a,dst=/b,rw"), m("/a", "/b", true));
        for wrong in
            ["", ":", ":/x", "/a:b", "/a:/b:rx", "/a:/b:/c:rw", "type=tmpfs,src=/a", "src=", "src=/a,x=1"]
        {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (value(&text), grid(&text), random(&text), list(&text), mount(&text));
        }

        #[test]
        fn numbers_survive(n: i64) {
            prop_assert_eq!(value(&n.to_string()), json!(n));
        }
    }
}
