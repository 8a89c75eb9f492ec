//! Wrong arguments for every row of the table, made from its JSON schemas.

use clove_abi::table::Spec;
use serde_json::{Map, Value, json};

/// One body that is to be sent to one row.
pub struct Case {
    pub row: &'static Spec,
    /// What was done to it, for messages.
    pub what: String,
    pub body: Vec<u8>,
    /// What an error message has to name: the field; empty for the whole.
    pub field: String,
    /// The schema doesn't allow it: it must be refused as malformed.
    pub is_wrong: bool,
}

/// Every field of every row: missing, null, of each wrong type, huge, negative, nested, overlong; and one too many. What
/// is text is `text`, where nothing else is tried.
pub fn cases(text: &str) -> Vec<Case> {
    let mut all = Vec::new();
    for (row, arguments, _) in clove_abi::table::schemas() {
        let root = arguments.to_value();
        let schema = Schema { root: &root, text };
        let sample = schema.sample(&root);
        assert!(schema.accepts(&root, &sample), "{}: {sample}", row.name);
        let mut add = |what: String, body: Value, field: &str| {
            let is_wrong = !schema.accepts(&root, &body);
            let body = serde_json::to_vec(&body).expect("json");
            all.push(Case { row, what, body, field: field.to_owned(), is_wrong });
        };
        add("as it should be".into(), sample.clone(), "");
        for whole in [json!([]), json!(null), json!(7), json!("x"), json!([[1]]), json!(true)] {
            add(format!("the whole is {whole}"), whole, "");
        }
        for path in paths(&sample) {
            let field = path.iter().rev().find(|p| p.parse::<usize>().is_err()).cloned().unwrap_or_default();
            let name = path.join(".");
            for wrong in substitutes() {
                let mut body = sample.clone();
                *at(&mut body, &path) = wrong.clone();
                let shown: String = wrong.to_string().chars().take(24).collect();
                add(format!("{name} = {shown}"), body, &field);
            }
            let mut body = sample.clone();
            let (last, parents) = path.split_last().expect("not the root");
            if let Value::Object(o) = at(&mut body, parents) {
                o.remove(last);
                // An enum without its variant is known by its own name only.
                let is_variant = o.is_empty() && parents.last().is_some_and(|p| p == "program");
                add(format!("{name} is missing"), body, if is_variant { "program" } else { last });
            }
        }
        for path in objects(&sample) {
            let mut body = sample.clone();
            if let Value::Object(o) = at(&mut body, &path) {
                o.insert("no_such_field".into(), json!(1));
                add(format!("no_such_field in `{}`", path.join(".")), body, "no_such_field");
            }
        }
        // A field that is there twice: no JSON value can hold it.
        if let Value::Object(o) = &sample
            && let Some((k, v)) = o.iter().next()
        {
            let body = format!("{{{0}:{v},{0}:{v}}}", json!(k));
            all.push(Case {
                row,
                what: format!("{k} twice"),
                body: body.into_bytes(),
                field: k.clone(),
                is_wrong: true,
            });
        }
    }
    all
}

fn substitutes() -> Vec<Value> {
    let mut nested = json!(1);
    for _ in 0..80 {
        nested = json!([nested]);
    }
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("x"),
        json!("\u{0}\u{1b}[2J\u{202e}"),
        json!("y".repeat(20_000)),
        json!([]),
        json!([1, "a", null]),
        json!({}),
        json!({"a": {"b": [1]}}),
        json!({"$float": "nan"}),
        nested,
    ]
}

/// The places inside a value, each as the names and numbers that lead there.
fn paths(v: &Value) -> Vec<Vec<String>> {
    let children: Vec<(String, &Value)> = match v {
        Value::Object(o) => o.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(a) => a.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (name, child) in children {
        all.push(vec![name.clone()]);
        all.extend(paths(child).into_iter().map(|mut p| {
            p.insert(0, name.clone());
            p
        }));
    }
    all
}

fn objects(v: &Value) -> Vec<Vec<String>> {
    let mut v = v.clone();
    let mut all = paths(&v);
    all.push(Vec::new());
    all.retain(|p| at(&mut v, p).is_object());
    all
}

fn at<'v>(v: &'v mut Value, path: &[String]) -> &'v mut Value {
    path.iter().fold(v, |v, name| match v {
        Value::Object(o) => o.get_mut(name).expect("a field"),
        Value::Array(a) => &mut a[name.parse::<usize>().expect("a number")],
        _ => panic!("nothing is in there"),
    })
}

/// As much of JSON Schema as schemars writes.
struct Schema<'a> {
    root: &'a Value,
    text: &'a str,
}

impl<'a> Schema<'a> {
    fn resolved(&self, s: &'a Value) -> &'a Value {
        match s["$ref"].as_str() {
            Some(r) => self.root.pointer(r.trim_start_matches('#')).expect("a definition"),
            None => s,
        }
    }

    fn choices(s: &Value) -> Option<&Vec<Value>> {
        s["anyOf"].as_array().or_else(|| s["oneOf"].as_array())
    }

    fn types(s: &Value) -> Vec<&str> {
        match &s["type"] {
            Value::String(t) => vec![t],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A value with every field there is, as small as can be.
    fn sample(&self, s: &'a Value) -> Value {
        let s = self.resolved(s);
        if let Some(first) = s["enum"].as_array().and_then(|e| e.first()) {
            return first.clone();
        }
        if let Some(c) = s.get("const") {
            return c.clone();
        }
        if let Some(all) = Self::choices(s) {
            return self.sample(&all[0]);
        }
        match Self::types(s).first().copied() {
            Some("object") => {
                let mut o = Map::new();
                if let Some(p) = s["properties"].as_object() {
                    o.extend(p.iter().map(|(k, v)| (k.clone(), self.sample(v))));
                } else if s["additionalProperties"].is_object() {
                    o.insert("NAME".into(), self.sample(&s["additionalProperties"]));
                }
                Value::Object(o)
            }
            Some("array") => match s["prefixItems"].as_array() {
                Some(each) => each.iter().map(|i| self.sample(i)).collect(),
                None => Value::Array(vec![self.sample(&s["items"])]),
            },
            Some("integer") => json!(1),
            Some("number") => json!(0.5),
            Some("boolean") => json!(false),
            Some("string") => json!(self.text),
            _ => json!({"any": "thing"}),
        }
    }

    fn accepts(&self, s: &'a Value, v: &Value) -> bool {
        let s = self.resolved(s);
        if let Some(all) = s["enum"].as_array() {
            return all.contains(v);
        }
        if let Some(c) = s.get("const") {
            return c == v;
        }
        if let Some(all) = Self::choices(s) {
            return all.iter().any(|one| self.accepts(one, v));
        }
        let types = Self::types(s);
        types.is_empty() || types.iter().any(|t| self.is(t, s, v))
    }

    fn is(&self, kind: &str, s: &'a Value, v: &Value) -> bool {
        match (kind, v) {
            ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => true,
            ("number", Value::Number(_)) => true,
            ("integer", Value::Number(n)) => {
                let range = match s["format"].as_str() {
                    Some("uint8") => (0, i128::from(u8::MAX)),
                    Some("uint16") => (0, i128::from(u16::MAX)),
                    Some("uint32") => (0, i128::from(u32::MAX)),
                    Some("uint64" | "uint") => (0, i128::from(u64::MAX)),
                    Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
                    Some("int64") => (i128::from(i64::MIN), i128::from(i64::MAX)),
                    other => panic!("integers of format {other:?} aren't known here"),
                };
                let n = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
                n.is_some_and(|n| (range.0..=range.1).contains(&n))
            }
            ("array", Value::Array(items)) => match s["prefixItems"].as_array() {
                Some(each) => {
                    each.len() == items.len() && each.iter().zip(items).all(|(s, v)| self.accepts(s, v))
                }
                None => items.iter().all(|v| self.accepts(&s["items"], v)),
            },
            ("object", Value::Object(o)) => {
                let properties = s["properties"].as_object();
                let known = |k: &str| properties.and_then(|p| p.get(k));
                let required = s["required"].as_array();
                let has_all =
                    required.is_none_or(|r| r.iter().filter_map(Value::as_str).all(|k| o.contains_key(k)));
                has_all
                    && o.iter().all(|(k, v)| match known(k) {
                        Some(s) => self.accepts(s, v),
                        None => match &s["additionalProperties"] {
                            Value::Bool(open) => *open,
                            Value::Null => true,
                            more => self.accepts(more, v),
                        },
                    })
            }
            _ => false,
        }
    }
}
