//! How values cross between Rust and SQLite's columns.
//!
//! SQLite's integers are signed, so a `u64` above `i64::MAX` is refused instead of wrapped. A column that doesn't
//! hold what this crate writes there counts as damage.

use crate::word::Word;
use clove_abi::ids::RunId;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// A value that no column can hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unstorable {
    #[error("{what} is {value}, more than SQLite's greatest integer")]
    Number { what: &'static str, value: u64 },
    #[error("{what} can't be written as JSON: {source}")]
    Json { what: &'static str, source: serde_json::Error },
}

/// A column that holds something else than it should.
#[derive(Debug, thiserror::Error)]
#[error("the column {column} holds {found}")]
struct Unreadable {
    column: String,
    found: String,
}

pub(crate) fn int(what: &'static str, value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value)
        .map_err(|_| rusqlite::Error::ToSqlConversionFailure(Box::new(Unstorable::Number { what, value })))
}

/// The key of a run that is asked for: one that can't be stored isn't there.
pub(crate) fn sought(run: RunId) -> i64 {
    i64::try_from(run.0).unwrap_or(-1)
}

pub(crate) fn opt_int(what: &'static str, value: Option<u64>) -> rusqlite::Result<Option<i64>> {
    value.map(|v| int(what, v)).transpose()
}

pub(crate) fn to_json<T: Serialize + ?Sized>(what: &'static str, value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|source| {
        rusqlite::Error::ToSqlConversionFailure(Box::new(Unstorable::Json { what, source }))
    })
}

fn unreadable(column: &str, ty: Type, found: impl Into<String>) -> rusqlite::Error {
    let found = found.into().chars().take(120).collect();
    rusqlite::Error::FromSqlConversionFailure(
        0,
        ty,
        Box::new(Unreadable { column: column.to_owned(), found }),
    )
}

/// One row of an answer, read by the names of its columns.
pub(crate) struct Cells<'r, 's>(pub &'r rusqlite::Row<'s>);

impl Cells<'_, '_> {
    pub fn text(&self, column: &str) -> rusqlite::Result<String> {
        self.0.get(column)
    }

    pub fn opt_text(&self, column: &str) -> rusqlite::Result<Option<String>> {
        self.0.get(column)
    }

    pub fn opt_uint(&self, column: &str) -> rusqlite::Result<Option<u64>> {
        let n: Option<i64> = self.0.get(column)?;
        n.map(|n| u64::try_from(n).map_err(|_| unreadable(column, Type::Integer, n.to_string()))).transpose()
    }

    pub fn uint(&self, column: &str) -> rusqlite::Result<u64> {
        self.opt_uint(column)?.ok_or_else(|| unreadable(column, Type::Null, "nothing"))
    }

    pub fn opt_small(&self, column: &str) -> rusqlite::Result<Option<u32>> {
        let n = self.opt_uint(column)?;
        n.map(|n| u32::try_from(n).map_err(|_| unreadable(column, Type::Integer, n.to_string()))).transpose()
    }

    pub fn small(&self, column: &str) -> rusqlite::Result<u32> {
        self.opt_small(column)?.ok_or_else(|| unreadable(column, Type::Null, "nothing"))
    }

    pub fn word<T: Word>(&self, column: &str) -> rusqlite::Result<T> {
        let text = self.text(column)?;
        T::parse(&text).ok_or_else(|| unreadable(column, Type::Text, text))
    }

    pub fn opt_parsed<T: FromStr>(&self, column: &str) -> rusqlite::Result<Option<T>> {
        let text = self.opt_text(column)?;
        text.map(|t| t.parse().map_err(|_| unreadable(column, Type::Text, t))).transpose()
    }

    pub fn opt_json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<Option<T>> {
        let text = self.opt_text(column)?;
        text.map(|t| serde_json::from_str(&t).map_err(|e| unreadable(column, Type::Text, e.to_string())))
            .transpose()
    }

    pub fn json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        self.opt_json(column)?.ok_or_else(|| unreadable(column, Type::Null, "nothing"))
    }

    pub fn id<T: FromStr>(&self, column: &str) -> rusqlite::Result<T> {
        self.opt_parsed(column)?.ok_or_else(|| unreadable(column, Type::Null, "nothing"))
    }
}
