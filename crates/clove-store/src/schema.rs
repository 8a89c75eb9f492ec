//! The tables' layout and how a file tells which one it has.

use rusqlite::{Connection, OptionalExtension};

/// Layout that this build writes (`PRAGMA user_version`).
pub const SCHEMA_VERSION: i64 = 2;
/// `CLVS`: tells file(1), and us, whose database it is (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x434c_5653;
const DDL: &str = include_str!("schema.sql");

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Nothing yet.
    Empty,
    /// Ours, as this build writes it.
    Current,
    Older(i64),
    Newer(i64),
    /// Another program's tables.
    Foreign,
    /// Ours, but not as it was written.
    Broken(String),
}

/// Makes the tables in an empty database, all or nothing.
pub(crate) fn create(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    tx.execute_batch(DDL)?;
    tx.execute(
        "INSERT INTO projection (one, schema_version, applied_seq, journal) VALUES (1, ?1, 0, '')",
        [SCHEMA_VERSION],
    )?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    tx.commit()
}

/// Looks at a database without changing it.
pub(crate) fn layout(conn: &Connection) -> rusqlite::Result<Layout> {
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0))?;
    let application: i64 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if objects == 0 {
        return Ok(if application == 0 && version == 0 {
            Layout::Empty
        } else {
            Layout::Broken("its tables are gone".into())
        });
    }
    let known =
        conn.query_row("SELECT 1 FROM sqlite_master WHERE name = 'projection'", [], |_| Ok(())).optional()?;
    match (application == APPLICATION_ID, known.is_some()) {
        (false, false) => return Ok(Layout::Foreign),
        (false, true) => {
            return Ok(Layout::Broken(format!("its application_id is {application:#x}")));
        }
        (true, _) => {}
    }
    // Every version, past and to come, has this column; where it can't be read, the header alone is believed.
    let repeated: Option<i64> =
        conn.query_row("SELECT schema_version FROM projection", [], |r| r.get(0)).unwrap_or(None);
    if repeated.is_some_and(|r| r != version) {
        return Ok(Layout::Broken(format!("its header says schema {version}, its table another")));
    }
    Ok(match version {
        v if v > SCHEMA_VERSION => Layout::Newer(v),
        v if v < SCHEMA_VERSION => Layout::Older(v),
        _ => match missing_object(conn)? {
            Some(name) => Layout::Broken(format!("{name} is missing or was altered")),
            None => Layout::Current,
        },
    })
}

/// A table, index or view that isn't as [`create`] makes it. What people have added doesn't matter.
fn missing_object(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let mut model = Connection::open_in_memory()?;
    create(&mut model)?;
    let mut wanted = model.prepare("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")?;
    let mut rows = wanted.query([])?;
    let mut found = conn.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1 AND sql = ?2")?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        if !found.exists([&name, &sql])? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
