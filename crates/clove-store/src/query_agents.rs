//! Answers about agents, shaped as the kernel's own.

use crate::column::{Cells, sought};
use crate::error::StoreError;
use crate::store::Store;
use clove_abi::calls::AgentInfo;
use clove_abi::certificate::Certificate;
use clove_abi::ids::{AgentId, RunId};
use rusqlite::{OptionalExtension, Row};

/// What is kept of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRecord {
    pub info: AgentInfo,
    /// Absent while it lives, as far as the store knows.
    pub certificate: Option<Certificate>,
}

fn record(row: &Row<'_>) -> rusqlite::Result<AgentRecord> {
    let c = Cells(row);
    let info = AgentInfo {
        id: c.id("agent")?,
        name: c.text("name")?,
        kind: c.text("kind")?,
        state: c.word("state")?,
        run: c.opt_uint("run")?.map(RunId),
        task: c.opt_small("task")?,
        attempt: c.small("attempt")?,
        command: c.text("command")?,
        pid: c.opt_small("pid")?,
        started_ms: c.uint("started_ms")?,
        ended_ms: c.opt_uint("ended_ms")?,
        memory_limit_bytes: c.uint("memory_limit_bytes")?,
        ended: c.opt_text("ended")?,
        missing_walls: c.json("missing_walls")?,
        missing_limits: c.json("missing_limits")?,
        profile: c.word("profile")?,
    };
    Ok(AgentRecord { info, certificate: c.opt_json("certificate")? })
}

impl Store {
    /// An agent by the name of a living one, by its id, else the latest that had the name: the kernel's own order.
    ///
    /// # Errors
    /// As [`Store::runs`].
    pub fn agent(&self, target: &str) -> Result<Option<AgentRecord>, StoreError> {
        self.find_agent(target).map_err(|e| self.error("read an agent of", e))
    }

    fn find_agent(&self, target: &str) -> rusqlite::Result<Option<AgentRecord>> {
        let named = self
            .conn()
            .prepare_cached(
                "SELECT * FROM agents WHERE name = ?1 ORDER BY state = 'ended', ended_ms DESC, started_ms DESC LIMIT 1",
            )?
            .query_row([target], record)
            .optional()?;
        let Ok(id) = target.parse::<AgentId>() else {
            return Ok(named);
        };
        if named.as_ref().is_some_and(|a| a.certificate.is_none()) {
            return Ok(named);
        }
        let by_id = self
            .conn()
            .prepare_cached("SELECT * FROM agents WHERE agent = ?1")?
            .query_row([id.to_string()], record)
            .optional()?;
        Ok(by_id.or(named))
    }

    pub(crate) fn agents_of(&self, run: RunId) -> rusqlite::Result<Vec<AgentRecord>> {
        let mut s =
            self.conn().prepare_cached("SELECT * FROM agents WHERE run = ?1 ORDER BY started_ms, agent")?;
        s.query_map([sought(run)], record)?.collect()
    }
}
