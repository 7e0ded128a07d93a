//! Tools in SQLite.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::config::{NewTools, ToolRules};
use crate::model::{Digest, Timestamp};

use super::rules::{Standing, standing};

/// How long one agent waits for another's transaction.
const BUSY: Duration = Duration::from_secs(5);
/// Tools that are kept of one server; a server that names more of them is not kept up with, and the rest is held.
const MAX_TOOLS: i64 = 10_000;
/// Longest description with its schemas, in bytes.
const MAX_TEXT: usize = 1024 * 1024;

/// Why the inventory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file.
    #[error("the inventory of tools {path} cannot be used: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite.
    #[error("the inventory of tools cannot be used: {0}")]
    Store(#[from] rusqlite::Error),
    /// The log.
    #[error("nothing is accepted that cannot be recorded: {0}")]
    NotRecorded(String),
    /// A server with too many tools, or a tool that says too much.
    #[error("the server offers more tools, or longer descriptions, than are kept")]
    TooMuch,
}

/// What is known of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The target.
    pub target: String,
    /// The path of the server there.
    pub server: String,
    /// The tool.
    pub name: String,
    /// What it said when it was first seen and accepted without being asked about: canonical JSON of name, title,
    /// description, schemas and annotations.
    pub first: Option<String>,
    /// What a person accepted since.
    pub accepted: Option<String>,
    /// What it said when it was last seen.
    pub seen: String,
    /// When it was last seen saying something new, in nanoseconds.
    pub seen_ns: i64,
    /// Who accepted, and when.
    pub decided: Option<(String, i64)>,
}

/// The inventory; cheap to clone.
#[derive(Debug, Clone)]
pub struct Inventory {
    connection: Arc<Mutex<Connection>>,
}

const COLUMNS: &str = "target, server, name, first, accepted, seen, seen_ns, decided_by, decided_ns";

impl Inventory {
    /// Opens the file, making it where there is none.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn open(path: &Path) -> Result<Self, InventoryError> {
        let failed = |source| InventoryError::File {
            path: path.display().to_string(),
            source,
        };
        // What servers say can be confidential.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Self::with(connection)
    }

    /// One that forgets, for tests of other rooms.
    ///
    /// # Errors
    /// Where SQLite cannot be used at all.
    pub fn in_memory() -> Result<Self, InventoryError> {
        Self::with(Connection::open_in_memory()?)
    }

    fn with(connection: Connection) -> Result<Self, InventoryError> {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS tools (
                target TEXT NOT NULL, server TEXT NOT NULL, name TEXT NOT NULL,
                first TEXT, accepted TEXT, seen TEXT NOT NULL, seen_ns INTEGER NOT NULL,
                decided_by TEXT, decided_ns INTEGER,
                PRIMARY KEY (target, server, name)) WITHOUT ROWID;",
        )?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server offers a tool that says `text`: keeps it, and says how it stands.
    ///
    /// # Errors
    /// Where it cannot be kept: then it is not shown.
    pub fn saw(
        &self,
        (target, server): (&str, &str),
        name: &str,
        text: &str,
        rules: ToolRules,
        now: Timestamp,
    ) -> Result<Standing, InventoryError> {
        if text.len() > MAX_TEXT {
            return Err(InventoryError::TooMuch);
        }
        let mut connection = self.connection();
        let kept = find(&connection, target, server, name)?;
        let seen = Digest::of(text.as_bytes());
        let stands = standing(kept.as_ref(), &seen, rules);
        let accepts_new = rules.new == NewTools::Accept;
        match &kept {
            Some(kept) if kept.seen == text && (kept.first.is_some() || !accepts_new) => return Ok(stands),
            Some(_) | None => {}
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if kept.is_none() {
            let many: i64 = transaction.query_row(
                "SELECT count(*) FROM tools WHERE target = ?1 AND server = ?2",
                params![target, server],
                |row| row.get(0),
            )?;
            if many >= MAX_TOOLS {
                return Err(InventoryError::TooMuch);
            }
        }
        let unknown = kept
            .as_ref()
            .is_none_or(|kept| kept.first.is_none() && kept.accepted.is_none());
        let first = (unknown && accepts_new).then_some(text);
        transaction.execute(
            "INSERT INTO tools (target, server, name, first, seen, seen_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET first = coalesce(first, excluded.first), seen = excluded.seen,
             seen_ns = excluded.seen_ns",
            params![target, server, name, first, text, now.as_nanos()],
        )?;
        transaction.commit()?;
        Ok(stands)
    }

    /// How a tool stands that is to be called, and the digest of what it was last seen saying.
    ///
    /// # Errors
    /// Where that cannot be known: then it is not called.
    pub fn called(
        &self,
        (target, server): (&str, &str),
        name: &str,
        rules: ToolRules,
    ) -> Result<(Standing, Option<Digest>), InventoryError> {
        let Some(kept) = find(&self.connection(), target, server, name)? else {
            let stands = match rules.new {
                // Called without being listed: nobody was shown anything.
                NewTools::Accept => Standing::Accepted,
                NewTools::Hold | NewTools::Block => Standing::New,
            };
            return Ok((stands, None));
        };
        let seen = Digest::of(kept.seen.as_bytes());
        Ok((standing(Some(&kept), &seen, rules), Some(seen)))
    }

    /// Every tool, by target, server and name.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn all(&self) -> Result<Vec<Kept>, InventoryError> {
        let connection = self.connection();
        let query = format!("SELECT {COLUMNS} FROM tools ORDER BY target, server, name");
        let mut statement = connection.prepare(&query)?;
        let rows = statement.query_map([], kept)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Somebody accepts what a tool says: exactly `seen`, as it was shown. False where it says something else by now. It holds
    /// only once `record` has made it durable, with the digests of what was accepted before and is now.
    ///
    /// # Errors
    /// Where it cannot be kept or recorded.
    pub fn accept(
        &self,
        tool: &Kept,
        by: &str,
        now: Timestamp,
        record: impl FnOnce(Option<Digest>, Digest) -> Result<(), String>,
    ) -> Result<bool, InventoryError> {
        let Kept {
            target,
            server,
            name,
            seen,
            ..
        } = tool;
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let changed = transaction.execute(
            "UPDATE tools SET accepted = seen, decided_by = ?5, decided_ns = ?6
             WHERE target = ?1 AND server = ?2 AND name = ?3 AND seen = ?4",
            params![target, server, name, seen, by, now.as_nanos()],
        )?;
        if changed != 1 {
            return Ok(false);
        }
        let before = tool.accepted.as_ref().or(tool.first.as_ref());
        let before = before.map(|text| Digest::of(text.as_bytes()));
        record(before, Digest::of(seen.as_bytes())).map_err(InventoryError::NotRecorded)?;
        transaction.commit()?;
        Ok(true)
    }
}

fn find(connection: &Connection, target: &str, server: &str, name: &str) -> rusqlite::Result<Option<Kept>> {
    let query = format!("SELECT {COLUMNS} FROM tools WHERE target = ?1 AND server = ?2 AND name = ?3");
    let mut statement = connection.prepare_cached(&query)?;
    statement
        .query_row(params![target, server, name], kept)
        .optional()
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    let (by, at): (Option<String>, Option<i64>) = (row.get(7)?, row.get(8)?);
    Ok(Kept {
        target: row.get(0)?,
        server: row.get(1)?,
        name: row.get(2)?,
        first: row.get(3)?,
        accepted: row.get(4)?,
        seen: row.get(5)?,
        seen_ns: row.get(6)?,
        decided: by.zip(at),
    })
}
