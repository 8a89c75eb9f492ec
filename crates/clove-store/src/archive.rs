//! A run as the rows that make it again.
//!
//! A run that the core has let go of is in no checkpoint any more, so a rebuild from checkpoint and tail would lose it.
//! The daemon keeps these rows in a file of its own and applies them first.

use crate::column::{Cells, sought};
use crate::error::StoreError;
use crate::row::{Row, RunRow, Taken};
use crate::store::Store;
use clove_abi::ids::RunId;
use rusqlite::OptionalExtension;

/// Tasks that are read at once.
const PAGE: u32 = 500;

impl Store {
    /// Everything that the store has of a run but its audit rows, in an order in which it can be applied; `None` when it
    /// has none.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn run_rows(&self, run: RunId) -> Result<Option<Vec<Row>>, StoreError> {
        self.collect_run(run).map_err(|e| self.error("read a run of", e))
    }

    fn collect_run(&self, run: RunId) -> rusqlite::Result<Option<Vec<Row>>> {
        let mut s = self.conn().prepare_cached("SELECT * FROM runs WHERE run = ?1")?;
        let head = s.query_row([sought(run)], |row| {
            let c = Cells(row);
            Ok(RunRow {
                run,
                spec: c.json("spec")?,
                state: c.word("state")?,
                message: c.text("message")?,
                jobs: c.small("jobs")?,
                submitted_ms: c.uint("submitted_ms")?,
                ended_ms: c.opt_uint("ended_ms")?,
                cpu_us: c.uint("cpu_us")?,
                peak_memory_bytes: c.uint("peak_memory_bytes")?,
                taken: Taken {
                    done: c.small("taken_done")?,
                    failed: c.small("taken_failed")?,
                    quarantined: c.small("taken_quarantined")?,
                    cancelled: c.small("taken_cancelled")?,
                },
            })
        });
        let Some(head) = head.optional()? else {
            return Ok(None);
        };
        let mut rows = vec![Row::RunUpsert(Box::new(head))];
        let mut from = Some(0);
        while let Some(first) = from {
            let page = self.task_rows(run, first, PAGE, true)?;
            from = page.last().filter(|_| page.len() == PAGE as usize).and_then(|t| t.task.checked_add(1));
            rows.extend(page.into_iter().map(|t| Row::TaskUpsert(Box::new(t))));
        }
        let certificates = self.certificates_between(run, 0, u32::MAX, false)?;
        rows.extend(certificates.into_values().flatten().map(|c| Row::Attempt { certificate: Box::new(c) }));
        for a in self.agents_of(run)? {
            let ended = a.info.ended.clone().unwrap_or_default();
            rows.push(Row::AgentUpsert(Box::new(a.info)));
            rows.extend(a.certificate.map(|c| Row::AgentEnded { certificate: Box::new(c), ended }));
        }
        Ok(Some(rows))
    }
}
