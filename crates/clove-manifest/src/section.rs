//! Reads one table of a file key by key; every mistake becomes a diagnostic at its place.

use crate::diagnostic::{Diagnostic, Place};
use crate::suggestion::nearest;
use crate::units::BadQuantity;
use crate::value::{kind, to_json};
use serde_json::Value;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file's text and its name.
#[derive(Clone, Copy, Debug)]
pub struct Document<'d> {
    pub origin: &'d str,
    pub text: &'d str,
}

impl Document<'_> {
    /// An error at a span.
    pub fn error(&self, span: Range<usize>, what: impl Into<String>) -> Diagnostic {
        Diagnostic::new(self.origin, what).at(Some(Place::of(self.text, span)))
    }

    /// The JSON of a value.
    ///
    /// # Errors
    /// A number that doesn't fit.
    pub fn json(&self, v: &Spanned<DeValue<'_>>) -> Result<Value, Diagnostic> {
        to_json(v).map_err(|(span, what)| self.error(span, what))
    }
}

/// One table, with its name for messages.
#[derive(Clone, Copy)]
pub struct Section<'d, 't> {
    pub doc: Document<'d>,
    /// As in `[limits]`; empty for the file itself.
    pub name: &'d str,
    pub table: &'t DeTable<'t>,
    /// Where it begins.
    pub span_start: usize,
}

type Found<'t> = &'t Spanned<DeValue<'t>>;

impl<'d, 't> Section<'d, 't> {
    /// Refuses keys that aren't known. `elsewhere` tells, for words that people try, where they belong.
    ///
    /// # Errors
    /// The first unknown key in the file.
    pub fn only(&self, known: &[&str], elsewhere: &[(&str, &str)]) -> Result<(), Diagnostic> {
        let unknown = self
            .table
            .keys()
            .filter(|k| !known.contains(&k.get_ref().as_ref()))
            .min_by_key(|k| k.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let word = key.get_ref().as_ref();
        let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
        let d = self
            .doc
            .error(key.span(), format!("unknown key `{word}`{place}"))
            .expected(format!("one of {}", known.join(", ")));
        let lower = word.to_lowercase().replace('-', "_");
        Err(if let Some((_, advice)) = elsewhere.iter().find(|(w, _)| *w == lower) {
            d.hint(*advice)
        } else if let Some(near) = nearest(word, known.iter().copied()) {
            d.hint(format!("did you mean `{near}`?"))
        } else {
            d
        })
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> Option<Found<'t>> {
        self.table.iter().find(|(k, _)| k.get_ref().as_ref() == key).map(|(_, v)| v)
    }

    /// An error at a value: it should have been something else.
    pub fn mistyped(&self, key: &str, v: Found<'_>, expected: &str) -> Diagnostic {
        self.doc.error(v.span(), format!("`{key}` is {}", kind(v.get_ref()))).expected(expected)
    }

    /// A string.
    ///
    /// # Errors
    /// When it is something else.
    pub fn string(&self, key: &str, expected: &str) -> Result<Option<(String, Range<usize>)>, Diagnostic> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.get_ref() {
                DeValue::String(s) => Ok(Some((s.to_string(), v.span()))),
                _ => Err(self.mistyped(key, v, expected)),
            },
        }
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// When it is something else, or out of bounds.
    pub fn integer(&self, key: &str, least: i128, most: i128) -> Result<Option<i128>, Diagnostic> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let expected = format!("a whole number from {least} to {most}");
        let DeValue::Integer(i) = v.get_ref() else { return Err(self.mistyped(key, v, &expected)) };
        match i128::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) if (least..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.doc.error(v.span(), format!("`{key} = {i}` is out of range")).expected(expected)),
        }
    }

    /// A number, whole or not.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, key: &str, expected: &str) -> Result<Option<(f64, Range<usize>)>, Diagnostic> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => as_number(v.get_ref())
                .map(|n| Some((n, v.span())))
                .ok_or_else(|| self.mistyped(key, v, expected)),
        }
    }

    /// true or false.
    ///
    /// # Errors
    /// When it is something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Diagnostic> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.get_ref() {
                DeValue::Boolean(b) => Ok(Some(*b)),
                _ => Err(self.mistyped(key, v, "true or false")),
            },
        }
    }

    /// A quantity that is written as a string with a unit.
    ///
    /// # Errors
    /// A bare number, a wrong unit.
    pub fn quantity<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, BadQuantity>,
    ) -> Result<Option<(T, Range<usize>)>, Diagnostic> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let text = match v.get_ref() {
            DeValue::String(s) => s.to_string(),
            DeValue::Integer(i) => i.to_string(),
            DeValue::Float(f) => f.to_string(),
            _ => {
                let expected = format!("a string with a number and a unit, such as \"{example}\"");
                return Err(self.mistyped(key, v, &expected));
            }
        };
        match parse(&text) {
            Ok(n) => Ok(Some((n, v.span()))),
            Err(e) => Err(self.doc.error(v.span(), format!("`{key}`: {}", e.what)).hint(e.hint)),
        }
    }

    /// A list of strings.
    ///
    /// # Errors
    /// When it, or an element, is something else.
    pub fn strings(&self, key: &str, expected: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let DeValue::Array(items) = v.get_ref() else { return Err(self.mistyped(key, v, expected)) };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(s) => out.push(s.to_string()),
                _ => return Err(self.mistyped(key, item, expected)),
            }
        }
        Ok(Some(out))
    }

    /// A table below this one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn section(&self, key: &'d str) -> Result<Option<Section<'d, 't>>, Diagnostic> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.get_ref() {
                DeValue::Table(table) => {
                    Ok(Some(Section { doc: self.doc, name: key, table, span_start: v.span().start }))
                }
                _ => Err(self.mistyped(key, v, &format!("a table: [{key}], or {key} = {{ ... }}"))),
            },
        }
    }

    /// Keys and values in the order of the file.
    pub fn in_order(&self) -> Vec<(&'t Spanned<toml::de::DeString<'t>>, Found<'t>)> {
        let mut all: Vec<_> = self.table.iter().collect();
        all.sort_by_key(|(k, _)| k.span().start);
        all
    }
}

/// The number that a value is, if it is one.
pub fn as_number(v: &DeValue<'_>) -> Option<f64> {
    match v {
        DeValue::Integer(i) => i128::from_str_radix(i.as_str(), i.radix()).ok().map(|n| n as f64),
        DeValue::Float(f) => f.as_str().parse().ok(),
        _ => None,
    }
}
