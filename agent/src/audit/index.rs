//! An index of the log in SQLite: what sessions are listed and searched by, and where their records are in the segments.
//!
//! Made from the segments and never the other way round: it is brought up to date by whoever asks, can be deleted at any time, and
//! verification does not know it. Records are shown from the segments; the index only says where to look. Where its file cannot
//! be written, the same index is made in memory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter,
};

use super::columns::{COLUMNS, Column, Kind};
use super::segment;

/// The file, beside the boots.
const FILE: &str = "index.db";
/// How long one reader waits for another that brings it up to date.
const BUSY: Duration = Duration::from_secs(30);

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The log cannot be read.
    #[error("{path}: {source}")]
    Log {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the log is no record.
    #[error("{path}: a record cannot be read: {source}")]
    Record {
        /// In which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The index itself.
    #[error("the index: {0}")]
    Index(#[from] rusqlite::Error),
}

/// The index of a log, up to date as of its opening.
#[derive(Debug)]
pub struct Index {
    pub(super) dir: PathBuf,
    pub(super) db: Connection,
    in_memory: bool,
}

impl Index {
    /// Opens the index of the log in `dir` and brings it up to date.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        match Self::on_disk(dir) {
            Ok(index) => Ok(index),
            Err(IndexError::Index(error)) => {
                tracing::debug!(%error, "the index cannot be kept; it is made in memory");
                Self::in_memory(dir)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the index anew; how many records it has then.
    ///
    /// # Errors
    /// Where it cannot be written, or the log cannot be read.
    pub fn rebuild(dir: &Path) -> Result<u64, IndexError> {
        remove(dir)?;
        let index = Self::on_disk(dir)?;
        let count: i64 = index
            .db
            .query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// Whether it could not be kept beside the log.
    #[must_use]
    pub const fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    fn on_disk(dir: &Path) -> Result<Self, IndexError> {
        match Self::file(dir) {
            // A file that is no index, or is damaged, is worth nothing.
            Err(IndexError::Index(error)) if is_damaged(&error) => {
                remove(dir)?;
                Self::file(dir)
            }
            other => other,
        }
    }

    fn file(dir: &Path) -> Result<Self, IndexError> {
        let path = dir.join(FILE);
        // A link is not this log's: root reads logs that belong to the agent's user.
        if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            fs::remove_file(&path).map_err(|_kept| rusqlite::Error::InvalidPath(path.clone()))?;
        }
        // As private as the log.
        let made = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        drop(made.map_err(|_readonly| rusqlite::Error::InvalidPath(path.clone()))?);
        let db = Connection::open(&path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // It can be made again: it must be whole, not durable.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        let mut index = Self {
            dir: dir.to_owned(),
            db,
            in_memory: false,
        };
        index.catch_up()?;
        Ok(index)
    }

    fn in_memory(dir: &Path) -> Result<Self, IndexError> {
        let mut index = Self {
            dir: dir.to_owned(),
            db: Connection::open_in_memory()?,
            in_memory: true,
        };
        index.catch_up()?;
        Ok(index)
    }

    /// Takes in what was recorded since, and lets go of what is no longer there.
    fn catch_up(&mut self) -> Result<(), IndexError> {
        let dir = self.dir.clone();
        let change = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        prepare(&change)?;
        change.execute("UPDATE segments SET there = 0", [])?;
        for boot in segment::boots(&dir).map_err(at(&dir))? {
            for (first, path) in segment::list(&boot).map_err(at(&boot))? {
                take_in(&change, &boot, first, &path)?;
            }
        }
        change.execute(
            "DELETE FROM records WHERE segment IN (SELECT id FROM segments WHERE there = 0)",
            [],
        )?;
        change.execute("DELETE FROM segments WHERE there = 0", [])?;
        Ok(change.commit()?)
    }
}

/// The tables of this version of the program; an index of another is begun anew.
fn prepare(change: &Transaction<'_>) -> Result<(), IndexError> {
    let tables = tables();
    change.execute_batch("CREATE TABLE IF NOT EXISTS made_with (tables TEXT NOT NULL)")?;
    let made: Option<String> = change
        .query_row("SELECT tables FROM made_with", [], |row| row.get(0))
        .optional()?;
    if made.as_deref() == Some(&tables) {
        return Ok(());
    }
    change.execute_batch(
        "DROP TABLE IF EXISTS records; DROP TABLE IF EXISTS segments; DELETE FROM made_with",
    )?;
    change.execute_batch(&tables)?;
    change.execute("INSERT INTO made_with VALUES (?)", [&tables])?;
    Ok(())
}

fn tables() -> String {
    let columns: Vec<String> = indexed()
        .map(|Column { name, kind, .. }| format!("{name} {}", sqlite_type(*kind)))
        .collect();
    format!(
        "CREATE TABLE segments (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, first INTEGER NOT NULL, length INTEGER NOT NULL,
            there INTEGER NOT NULL, UNIQUE (boot, first)) STRICT;
        CREATE TABLE records ({}, segment INTEGER NOT NULL, commit_at INTEGER NOT NULL, commit_length INTEGER NOT NULL) STRICT;
        CREATE INDEX by_session ON records (session, ts_ns);
        CREATE INDEX by_segment ON records (segment);
        CREATE INDEX by_operation ON records (operation);
        CREATE INDEX by_ticket ON records (ticket) WHERE ticket <> '';",
        columns.join(", ")
    )
}

fn indexed() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(|column| column.indexed)
}

const fn sqlite_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Number | Kind::SmallNumber | Kind::Time => "INTEGER NOT NULL",
        Kind::OptionalNumber | Kind::Flag => "INTEGER",
        Kind::Text | Kind::Word | Kind::Texts | Kind::Words | Kind::Counts => "TEXT NOT NULL",
    }
}

/// Takes in the whole commits of a segment that the index does not have.
fn take_in(change: &Transaction<'_>, boot: &Path, first: u64, path: &Path) -> Result<(), IndexError> {
    let name = boot.file_name().unwrap_or_default().to_string_lossy();
    let number = first.cast_signed();
    let known: Option<(i64, i64)> = change
        .query_row(
            "SELECT id, length FROM segments WHERE boot = ? AND first = ?",
            params![name, number],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let length = fs::metadata(path).map_err(at(path))?.len().cast_signed();
    let (segment, from) = match known {
        Some((id, taken)) if taken <= length => (id, taken),
        // It was cut back after a crash: begin it anew.
        Some((id, _)) => {
            change.execute("DELETE FROM records WHERE segment = ?", [id])?;
            (id, 0)
        }
        None => {
            change.execute(
                "INSERT INTO segments (boot, first, length, there) VALUES (?, ?, 0, 1)",
                params![name, number],
            )?;
            (change.last_insert_rowid(), 0)
        }
    };
    let to = if from < length {
        from + rows(change, segment, path, from.unsigned_abs())?
    } else {
        from
    };
    change.execute(
        "UPDATE segments SET length = ?, there = 1 WHERE id = ?",
        params![to, segment],
    )?;
    Ok(())
}

/// Adds the records of the whole commits from `from` on; how many bytes they take.
fn rows(change: &Transaction<'_>, segment: i64, path: &Path, from: u64) -> Result<i64, IndexError> {
    let bytes = segment::read_range(path, from, u64::MAX).map_err(at(path))?;
    let names: Vec<&str> = indexed().map(|c| c.name).collect();
    let places = vec!["?"; names.len()];
    let mut insert = change.prepare_cached(&format!(
        "INSERT INTO records ({}, segment, commit_at, commit_length) VALUES ({}, ?, ?, ?)",
        names.join(", "),
        places.join(", ")
    ))?;
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..) {
        let (length, _) = segment::whole_commits(rest, 1);
        if length == 0 {
            break;
        }
        let commit = segment::decode(rest.get(..length).unwrap_or_default());
        let place = [
            Value::Integer(segment),
            Value::Integer((from + taken as u64).cast_signed()),
            Value::Integer((length as u64).cast_signed()),
        ];
        for line in commit.lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let record: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(line).map_err(|source| IndexError::Record {
                    path: path.to_owned(),
                    source,
                })?;
            let values = indexed().map(|column| value(column.kind, record.get(column.name)));
            insert.execute(params_from_iter(values.chain(place.clone())))?;
        }
        taken += length;
    }
    Ok((taken as u64).cast_signed())
}

/// A field as the index keeps it; one that is left out is empty.
fn value(kind: Kind, field: Option<&serde_json::Value>) -> Value {
    let number = || field.and_then(|f| f.as_i64().or_else(|| f.as_u64().map(u64::cast_signed)));
    match kind {
        Kind::Number | Kind::SmallNumber | Kind::Time => Value::Integer(number().unwrap_or(0)),
        Kind::OptionalNumber => number().map_or(Value::Null, Value::Integer),
        Kind::Flag => field
            .and_then(serde_json::Value::as_bool)
            .map_or(Value::Null, |flag| Value::Integer(i64::from(flag))),
        Kind::Text | Kind::Word => Value::Text(
            field
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        ),
        Kind::Texts | Kind::Words | Kind::Counts => {
            Value::Text(field.map(ToString::to_string).unwrap_or_default())
        }
    }
}

fn remove(dir: &Path) -> Result<(), IndexError> {
    for name in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(IndexError::Log { path, source }),
        }
    }
    Ok(())
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> IndexError + use<> {
    let path = path.to_owned();
    move |source| IndexError::Log {
        path: path.clone(),
        source,
    }
}
