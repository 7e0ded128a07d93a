//! What the index is asked: which sessions there were, and the records of one.

use std::path::PathBuf;

use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};

use super::index::{Index, IndexError, at};
use super::record::Record;
use super::segment;

/// Which sessions are asked for; empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Those that opened at this time (nanoseconds since the Unix epoch) or later.
    pub since_ns: Option<i64>,
    /// Those whose principal has this in its key or its name.
    pub principal: Option<String>,
    /// Those to this target.
    pub target: Option<String>,
    /// Those with an operation that was judged like this: `allowed`, `observed`, `held`, `refused`.
    pub decision: Option<String>,
}

/// A session, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLine {
    /// Its id.
    pub session: String,
    /// When it opened, in nanoseconds since the Unix epoch.
    pub started_ns: i64,
    /// Whether its end is recorded.
    pub ended: bool,
    /// Who.
    pub principal: String,
    /// The workload of a serving agent; empty for a run.
    pub workload: String,
    /// From which process: its name.
    pub comm: String,
    /// And its number.
    pub pid: u64,
    /// To which target.
    pub target: String,
    /// Where the process meant to connect to.
    pub original: String,
    /// Operations that were decided.
    pub operations: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// How often one waited for consent.
    pub held: u64,
}

const SESSIONS: &str = "SELECT session, min(ts_ns) AS started_ns, sum(kind = 'session.closed') > 0 OR sum(kind = 'session.opened') = 0 AS ended, principal, workload, comm, pid, target, original,
        sum(kind = 'operation' AND verdict <> 'held') AS operations,
        sum(kind = 'operation' AND verdict = 'refused') AS refused,
        sum(kind = 'operation' AND verdict = 'held') AS held
    FROM records WHERE session <> ''";

impl Index {
    /// Sessions, in the order in which they opened.
    ///
    /// # Errors
    /// The index's.
    pub fn sessions(&self, wanted: &Wanted) -> Result<Vec<SessionLine>, IndexError> {
        let Wanted {
            since_ns,
            principal,
            target,
            decision,
        } = wanted;
        let mut sql = SESSIONS.to_owned();
        let mut values = Vec::new();
        if let Some(principal) = principal {
            sql.push_str(" AND (instr(principal, ?) > 0 OR instr(principal_name, ?) > 0)");
            values.extend([Value::Text(principal.clone()), Value::Text(principal.clone())]);
        }
        if let Some(target) = target {
            sql.push_str(" AND target = ?");
            values.push(Value::Text(target.clone()));
        }
        // The only min() makes the columns beside it those of the first record.
        sql.push_str(" GROUP BY session HAVING true");
        if let Some(since) = since_ns {
            sql.push_str(" AND started_ns >= ?");
            values.push(Value::Integer(*since));
        }
        if let Some(decision) = decision {
            sql.push_str(" AND sum(kind = 'operation' AND verdict = ?) > 0");
            values.push(Value::Text(decision.clone()));
        }
        sql.push_str(" ORDER BY started_ns, session");
        let mut found = self.db.prepare(&sql)?;
        let rows = found.query_map(params_from_iter(values), session)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The records of every session whose id begins with `id`, read from the log itself, in their order.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn records(&self, id: &str) -> Result<Vec<Record>, IndexError> {
        let mut found = self.db.prepare(
            "SELECT DISTINCT boot_of.boot, boot_of.first, commit_at, commit_length
             FROM records JOIN segments AS boot_of ON boot_of.id = records.segment
             WHERE session >= ?1 AND substr(session, 1, length(?1)) = ?1 AND session <> ''
             ORDER BY boot_of.boot, boot_of.first, commit_at",
        )?;
        let commits = found.query_map([id], |row| {
            let place: (String, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(place)
        })?;
        let mut records = Vec::new();
        for commit in commits {
            let (boot, first, from, length) = commit?;
            let name = segment::file_name(first.unsigned_abs(), "seg");
            let path = self.dir.join(boot).join(name);
            let read = read_records(path, from.unsigned_abs(), length.unsigned_abs())?;
            records.extend(read.into_iter().filter(|r| r.session.starts_with(id)));
        }
        Ok(records)
    }
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionLine> {
    let count = |name: &str| row.get::<_, i64>(name).map(i64::unsigned_abs);
    Ok(SessionLine {
        session: row.get("session")?,
        started_ns: row.get("started_ns")?,
        ended: row.get("ended")?,
        principal: row.get("principal")?,
        workload: row.get("workload")?,
        comm: row.get("comm")?,
        pid: count("pid")?,
        target: row.get("target")?,
        original: row.get("original")?,
        operations: count("operations")?,
        refused: count("refused")?,
        held: count("held")?,
    })
}

fn read_records(path: PathBuf, from: u64, length: u64) -> Result<Vec<Record>, IndexError> {
    let bytes = segment::read_range(&path, from, from + length).map_err(at(&path))?;
    let lines = segment::decode(&bytes).lines;
    let records = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    records
        .map(|line| {
            serde_json::from_slice(line).map_err(|source| IndexError::Record {
                path: path.clone(),
                source,
            })
        })
        .collect()
}
