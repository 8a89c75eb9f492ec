//! A JSON schema as rows of a table: field, type, what it says.

use serde_json::{Map, Value};

/// One field of an object.
pub struct Field {
    pub name: String,
    pub kind: String,
    pub required: bool,
    pub doc: String,
}

/// The fields of the object that `schema` describes, in the schema's order.
pub fn fields(schema: &Value) -> Vec<Field> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    properties(schema)
        .map(|(name, s)| Field {
            name: name.clone(),
            kind: kind(s),
            required: required.contains(&name.as_str()),
            doc: doc(s),
        })
        .collect()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// The description, on one line, safe in a table's cell.
pub fn doc(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The types that are described on their own, by name, with their schemas.
pub fn definitions(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["$defs"].as_object().into_iter().flatten()
}

/// The members of an enumeration of words, each with what it says.
pub fn words(schema: &Value) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for s in schema["enum"].as_array().into_iter().flatten() {
        found.extend(s.as_str().map(|w| (w.to_owned(), String::new())));
    }
    for s in schema["oneOf"].as_array().into_iter().flatten() {
        let many = s["enum"].as_array().into_iter().flatten();
        for w in many.chain([&s["const"]]).filter_map(Value::as_str) {
            found.push((w.to_owned(), doc(s)));
        }
    }
    found
}

/// The alternatives of a union of objects with one member each: the member's name, its type, what it says.
pub fn alternatives(schema: &Value) -> Vec<Field> {
    let all = schema["oneOf"].as_array().into_iter().flatten();
    all.filter(|s| s["type"] == "object")
        .flat_map(|s| {
            properties(s).map(|(name, p)| Field {
                name: name.clone(),
                kind: kind(p),
                required: false,
                doc: doc(s),
            })
        })
        .collect()
}

/// A short name for a type: `string`, `u64`, `[Mount]`, `string?`.
pub fn kind(schema: &Value) -> String {
    let Some(s) = schema.as_object() else { return "any".into() };
    if let Some(name) = reference(s) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(of) = s.get(word).and_then(Value::as_array) {
            let (null, rest): (Vec<&Value>, Vec<&Value>) = of.iter().partition(|v| v["type"] == "null");
            let named: Vec<String> = rest.into_iter().map(kind).collect();
            return named.join(" or ") + if null.is_empty() { "" } else { "?" };
        }
    }
    match s.get("type") {
        Some(Value::String(t)) => plain(t, s),
        Some(Value::Array(types)) => {
            let names: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
            let named: Vec<String> = names.iter().filter(|t| **t != "null").map(|t| plain(t, s)).collect();
            named.join(" or ") + if names.contains(&"null") { "?" } else { "" }
        }
        _ => "any".into(),
    }
}

fn reference(s: &Map<String, Value>) -> Option<&str> {
    s.get("$ref")?.as_str()?.rsplit('/').next()
}

fn plain(t: &str, s: &Map<String, Value>) -> String {
    match t {
        "integer" => match s.get("format").and_then(Value::as_str) {
            Some(f) => f.replace("uint", "u").replace("int", "i"),
            None => "integer".into(),
        },
        "number" => "number".into(),
        "array" => match (s.get("prefixItems").and_then(Value::as_array), s.get("items")) {
            (Some(items), _) => format!("[{}]", items.iter().map(kind).collect::<Vec<_>>().join(", ")),
            (None, Some(item)) => format!("list of {}", kind(item)),
            (None, None) => "list".into(),
        },
        "object" => match s.get("additionalProperties") {
            Some(v) if v.is_object() => format!("map to {}", kind(v)),
            _ if s.contains_key("properties") => "object".into(),
            _ => "object".into(),
        },
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::kind;
    use serde_json::json;

    #[test]
    fn types_have_short_names() {
        assert_eq!(kind(&json!({"type": "integer", "format": "uint64"})), "u64");
        assert_eq!(kind(&json!({"type": ["string", "null"]})), "string?");
        assert_eq!(
            kind(&json!({"anyOf": [{"$ref": "#/$defs/Mount"}, {"type": "null"}]})),
            "[Mount](#mount)?"
        );
        assert_eq!(kind(&json!({"type": "array", "items": {"type": "boolean"}})), "list of boolean");
        assert_eq!(kind(&json!(true)), "any");
    }
}
