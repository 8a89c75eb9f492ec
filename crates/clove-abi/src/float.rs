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
}
