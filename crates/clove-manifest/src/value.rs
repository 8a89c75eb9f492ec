//! TOML values as the JSON that a task's configuration is made of.

use clove_abi::float;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::DeValue;

/// The JSON of a value. Dates become strings; NaN and the infinities their defined form.
///
/// # Errors
/// The span (in bytes) of a number that doesn't fit, and what is wrong with it.
pub fn to_json(v: &Spanned<DeValue<'_>>) -> Result<Value, (std::ops::Range<usize>, String)> {
    let bad = |what: String| Err((v.span(), what));
    Ok(match v.get_ref() {
        DeValue::String(s) => Value::String(s.to_string()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::String(d.to_string()),
        DeValue::Integer(i) => {
            let text = i.as_str();
            if let Ok(n) = i64::from_str_radix(text, i.radix()) {
                Value::from(n)
            } else if let Ok(n) = u64::from_str_radix(text, i.radix()) {
                Value::from(n)
            } else {
                return bad(format!("the number {i} has more than 64 bits"));
            }
        }
        DeValue::Float(f) => match f.as_str().parse::<f64>() {
            Ok(x) if x.is_finite() || f.as_str().contains(['i', 'n']) => float::to_json(x),
            _ => return bad(format!("the number {f} is too large for a float")),
        },
        DeValue::Array(items) => Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        DeValue::Table(t) => {
            let mut out = Map::new();
            for (k, v) in t {
                out.insert(k.get_ref().to_string(), to_json(v)?);
            }
            Value::Object(out)
        }
    })
}

/// What a value is, in words.
pub fn kind(v: &DeValue<'_>) -> &'static str {
    match v {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
