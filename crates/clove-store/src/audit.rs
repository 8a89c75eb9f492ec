//! The audit index: which journal records there are, for finding the right one to read.

use crate::column::Cells;
use crate::error::StoreError;
use crate::row::AuditRow;
use crate::store::Store;
use clove_abi::ids::RunId;

impl Store {
    /// Index rows from a sequence number on, at most `max`.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn audit(&self, from_seq: u64, max: u32) -> Result<Vec<AuditRow>, StoreError> {
        let ask = || {
            let from = i64::try_from(from_seq).unwrap_or(i64::MAX);
            let mut s =
                self.conn().prepare_cached("SELECT * FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
            let rows = s.query_map((from, max), |row| {
                let c = Cells(row);
                Ok(AuditRow {
                    seq: c.uint("seq")?,
                    wall_ms: c.uint("wall_ms")?,
                    kind: c.text("kind")?,
                    actor: c.text("actor")?,
                    agent: c.opt_parsed("agent")?,
                    run: c.opt_uint("run")?.map(RunId),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        ask().map_err(|e| self.error("read the audit index of", e))
    }
}
