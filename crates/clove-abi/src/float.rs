//! How NaN and the infinities travel in JSON, which has no such numbers: as `{"$float": "nan" | "inf" | "-inf"}`.

use serde_json::{Map, Value};

/// Key of the one-member object that stands for a number JSON can't write.
pub const KEY: &str = "$float";

/// The JSON form of a float, finite or not.
pub fn to_json(x: f64) -> Value {
    match serde_json::Number::from_f64(x) {
        Some(n) => Value::Number(n),
        None => {
            let word = if x.is_nan() {
                "nan"
            } else if x > 0.0 {
                "inf"
            } else {
                "-inf"
            };
            Value::Object(Map::from_iter([(KEY.to_owned(), Value::String(word.to_owned()))]))
        }
    }
}

/// The float that a JSON value stands for, if it stands for one.
pub fn from_json(v: &Value) -> Option<f64> {
    if let Some(x) = v.as_f64() {
        return Some(x);
    }
    let o = v.as_object().filter(|o| o.len() == 1)?;
    match o.get(KEY)?.as_str()? {
        "nan" => Some(f64::NAN),
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Reads JSON as Python's `json.dump` writes it: with bare `NaN`, `Infinity` and `-Infinity`, which become the form
/// above. Everything else must be JSON.
///
/// # Errors
/// serde_json's, with line and column of the text as it was given when it has no such numbers.
pub fn parse_lenient(text: &[u8]) -> Result<Value, serde_json::Error> {
    match serde_json::from_slice(text) {
        Ok(v) => Ok(v),
        Err(e) => match spelled_out(text) {
            Some(text) => serde_json::from_slice(&text),
            None => Err(e),
        },
    }
}

/// The text with its bare words replaced, if it has any outside strings.
fn spelled_out(text: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [(&[u8], &str); 3] = [(b"-Infinity", "-inf"), (b"Infinity", "inf"), (b"NaN", "nan")];
    let mut out = Vec::with_capacity(text.len() + 64);
    let (mut i, mut in_string, mut found) = (0, false, false);
    while let Some(&c) = text.get(i) {
        if in_string {
            out.push(c);
            if c == b'\\' {
                i += 1;
                out.extend(text.get(i));
            } else if c == b'"' {
                in_string = false;
            }
        } else if let Some((word, name)) = WORDS.iter().find(|(w, _)| text[i..].starts_with(w)) {
            out.extend_from_slice(format!("{{\"{KEY}\":\"{name}\"}}").as_bytes());
            i += word.len() - 1;
            found = true;
        } else {
            in_string = c == b'"';
            out.push(c);
        }
        i += 1;
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_survives() {
        for x in [0.0, -1.5, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE] {
            assert_eq!(from_json(&to_json(x)), Some(x));
        }
        assert!(from_json(&to_json(f64::NAN)).is_some_and(f64::is_nan));
        assert_eq!(from_json(&serde_json::json!({"$float": "nan", "x": 1})), None);
    }

    #[test]
    fn pythons_bare_words_are_read_outside_strings_only() {
        let v = parse_lenient(br#"{"a": NaN, "b": [-Infinity, Infinity], "NaN": "a NaN \" NaN"}"#)
            .expect("lenient");
        assert!(from_json(&v["a"]).is_some_and(f64::is_nan));
        assert_eq!(from_json(&v["b"][0]), Some(f64::NEG_INFINITY));
        assert_eq!(v["NaN"], "a NaN \" NaN");
        assert!(parse_lenient(b"{\"a\": nope}").is_err());
        assert!(parse_lenient(b"NaNNaN").is_err());
    }
}
