//! What was asked of models within the last hour, and how many tokens it took: in a file that the agents of a host share,
//! so that it outlives each of them.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::model::{Spent, Timestamp, Usage};

/// How long one agent waits for another's transaction.
const BUSY: Duration = Duration::from_secs(1);
/// Minutes of the hour that counts.
const HOUR: i64 = 60;

/// What is spent, by principal, target, model and minute. A lost minute of it after a power cut is accepted: it is no
/// record.
const TABLE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS spent (
        principal TEXT NOT NULL, target TEXT NOT NULL, model TEXT NOT NULL, minute INTEGER NOT NULL,
        tokens INTEGER NOT NULL, requests INTEGER NOT NULL,
        PRIMARY KEY (principal, target, model, minute)
    ) WITHOUT ROWID;";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the file of usage {path} cannot be used: {why}. Moved away, a new one is made, and the last hour is forgotten"
)]
pub struct LedgerError {
    path: std::path::PathBuf,
    why: String,
}

/// Who asks what of whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spender {
    /// `issuer/subject`.
    pub principal: String,
    /// The target.
    pub target: String,
    /// The model, as written.
    pub model: String,
}

/// What was asked within the last hour.
pub struct Ledger {
    database: Mutex<Connection>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Opens the file, or makes it (0600).
    ///
    /// # Errors
    /// Where it cannot be opened, or is none.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |why: String| LedgerError {
            path: path.to_owned(),
            why,
        };
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        drop(made.map_err(|error| failed(error.to_string()))?);
        let prepared = Connection::open(path).and_then(Self::prepared);
        prepared.map_err(|error| failed(error.to_string()))
    }

    fn prepared(database: Connection) -> rusqlite::Result<Self> {
        database.busy_timeout(BUSY)?;
        database.execute_batch(TABLE)?;
        Ok(Self {
            database: Mutex::new(database),
        })
    }

    /// What `who` asked within the hour before `now`; `None` where that cannot be read.
    #[must_use]
    pub fn usage(&self, who: &Spender, now: Timestamp) -> Option<Usage> {
        let minutes = self.minutes(who, now);
        if let Err(error) = &minutes {
            tracing::error!(%error, "usage cannot be read: policies that need it see none");
        }
        let minutes = minutes.ok()?;
        let total = |from: usize| {
            let each = minutes.iter().skip(from).map(|(_, spent)| spent);
            each.fold(Spent::default(), |sum, one| sum.and(one))
        };
        let later = minutes.iter().enumerate().map(|(nth, (minute, _))| {
            let gone = Timestamp::from_seconds(minute.saturating_add(HOUR).saturating_mul(60));
            (gone, total(nth + 1))
        });
        Some(Usage {
            hour: total(0),
            later: later.collect(),
        })
    }

    /// Each minute of the hour in which something was asked, the first one first.
    fn minutes(&self, who: &Spender, now: Timestamp) -> rusqlite::Result<Vec<(i64, Spent)>> {
        let database = self.database();
        let mut statement = database.prepare_cached(
            "SELECT minute, sum(tokens), sum(requests), sum(CASE WHEN model = ?3 THEN tokens ELSE 0 END), \
             sum(CASE WHEN model = ?3 THEN requests ELSE 0 END) FROM spent \
             WHERE principal = ?1 AND target = ?2 AND minute > ?4 GROUP BY minute ORDER BY minute",
        )?;
        let from = minute(now).saturating_sub(HOUR);
        let rows = statement.query_map(params![who.principal, who.target, who.model, from], |row| {
            let number = |at| row.get(at).map(|n: i64| u64::try_from(n).unwrap_or(0));
            let spent = Spent {
                tokens: number(1)?,
                requests: number(2)?,
                model_tokens: number(3)?,
                model_requests: number(4)?,
            };
            Ok((row.get(0)?, spent))
        })?;
        rows.collect()
    }

    /// Counts a request, with as many tokens as it will take at least.
    #[must_use]
    pub fn spend(self: &Arc<Self>, who: Spender, now: Timestamp, tokens: u64) -> Spending {
        let mut spending = Spending {
            ledger: Arc::clone(self),
            who,
            minute: minute(now),
            counted: 0,
        };
        spending.add(whole(tokens), 1);
        let old = minute(now).saturating_sub(2 * HOUR);
        let pruned = self
            .database()
            .execute("DELETE FROM spent WHERE minute < ?1", [old]);
        noted(pruned);
        spending
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that was counted. What it takes is counted in the minute in which it began.
#[derive(Debug)]
pub struct Spending {
    ledger: Arc<Ledger>,
    who: Spender,
    minute: i64,
    counted: i64,
}

impl Spending {
    /// Tokens that are counted for it.
    #[must_use]
    pub fn counted(&self) -> u64 {
        u64::try_from(self.counted).unwrap_or(0)
    }

    /// It takes so many tokens, if not more.
    pub fn at_least(&mut self, tokens: u64) {
        let more = whole(tokens).saturating_sub(self.counted);
        if more > 0 {
            self.add(more, 0);
        }
    }

    /// It took so many tokens.
    pub fn exactly(&mut self, tokens: u64) {
        let more = whole(tokens).saturating_sub(self.counted);
        if more != 0 {
            self.add(more, 0);
        }
    }

    fn add(&mut self, tokens: i64, requests: i64) {
        let Spender {
            principal,
            target,
            model,
        } = &self.who;
        let added = self.ledger.database().execute(
            "INSERT INTO spent (principal, target, model, minute, tokens, requests) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, requests = requests + excluded.requests",
            params![principal, target, model, self.minute, tokens, requests],
        );
        self.counted = self.counted.saturating_add(tokens);
        noted(added);
    }
}

fn noted(done: rusqlite::Result<usize>) {
    if let Err(error) = done {
        tracing::error!(%error, "usage could not be counted");
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_seconds().div_euclid(60)
}

/// A number of tokens, as far as anybody can count: no provider's word makes the sum run over.
fn whole(tokens: u64) -> i64 {
    const MOST: i64 = 1 << 40;
    i64::try_from(tokens).unwrap_or(MOST).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(model: &str) -> Spender {
        Spender {
            principal: "corp/alice".into(),
            target: "models".into(),
            model: model.into(),
        }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_seconds(1_767_268_800 + 60 * minutes)
    }

    #[test]
    fn the_last_hour_counts_and_outlives_the_agent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("usage.db");
        let open = || Arc::new(Ledger::open(&path).expect("ledger"));
        let ledger = open();
        assert_eq!(ledger.usage(&who("a"), at(0)), Some(Usage::default()));
        let mut first = ledger.spend(who("a"), at(0), 10);
        let hour = |model: &str, minutes| {
            let usage = open().usage(&who(model), at(minutes)).expect("readable").hour;
            (
                usage.tokens,
                usage.requests,
                usage.model_tokens,
                usage.model_requests,
            )
        };
        assert_eq!(hour("a", 0), (10, 1, 10, 1));
        first.at_least(8);
        first.at_least(30);
        assert_eq!(hour("a", 1), (30, 1, 30, 1));
        first.exactly(25);
        drop(first);
        drop(ledger);
        let mut second = open().spend(who("b"), at(20), 7);
        second.exactly(5);
        assert_eq!(hour("a", 20), (30, 2, 25, 1));
        assert_eq!(hour("b", 59), (30, 2, 5, 1));
        assert_eq!(hour("b", 60), (5, 1, 5, 1));
        assert_eq!(hour("b", 80), (0, 0, 0, 0));
        let later = open().usage(&who("a"), at(20)).expect("readable").later;
        let left: Vec<_> = later.iter().map(|(gone, left)| (*gone, left.tokens)).collect();
        assert_eq!(left, [(at(60), 5), (at(80), 0)]);
        let other = Spender {
            principal: "corp/bob".into(),
            ..who("a")
        };
        assert_eq!(open().usage(&other, at(20)), Some(Usage::default()));
        second.exactly(u64::MAX);
        second.exactly(u64::MAX);
        assert!(hour("b", 20).0 < 1 << 41);
    }

    #[test]
    fn what_is_no_ledger_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("usage.db");
        std::fs::write(&path, "x".repeat(2000)).expect("written");
        let error = Ledger::open(&path).expect_err("no database").to_string();
        assert!(
            error.contains("usage.db") && error.contains("Moved away"),
            "{error}"
        );
    }
}
