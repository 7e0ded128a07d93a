//! Streaming records to ClickHouse: at least once from here, exactly once there.
//!
//! What is sent is read from the segments, not from memory. A batch is a fixed range of whole group commits; its plan is written
//! down before it is sent and sent again, unchanged and with the same deduplication token, until the server has acknowledged it.
//! Errors that cannot go away by themselves park the cursor and are complained about; nothing is skipped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::ClickHouseConfig;
use crate::model::Digest;

use super::columns::{COLUMNS, Kind};
use super::segment;
use super::sink::{Cursor, SinkError, client, code, read, write};

/// First pause after a failure; it doubles up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long the server may take to read a part of a batch, and to answer it: then it is sent again.
const SEND: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(120);
/// Pause after an error that needs somebody to act.
const PARKED: Duration = Duration::from_secs(30);

/// The batch that is being sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    segment: u64,
    from: u64,
    to: u64,
    token: String,
}

impl Plan {
    /// Whether it was made at `cursor` and not sent to its end: then it is sent again as it is. A plan for the beginning of
    /// the next segment (or of the first) follows too.
    fn follows(&self, cursor: &Cursor) -> bool {
        let within = (self.segment, self.from) == (cursor.segment, cursor.offset);
        within || (self.from == 0 && self.segment > cursor.segment)
    }
}

/// Streams every boot below `dir` that no other agent streams, until it is dropped.
pub async fn ship(dir: PathBuf, config: ClickHouseConfig) {
    let mut pause = FIRST_PAUSE;
    loop {
        match round(&dir, &config).await {
            Ok(true) => pause = FIRST_PAUSE,
            Ok(false) => {
                pause = FIRST_PAUSE;
                tokio::time::sleep(config.batch_age).await;
            }
            Err(error) if needs_somebody(&error) => {
                tracing::error!(%error, url = config.url, "ClickHouse does not take records, and will not by itself: nothing is skipped");
                tokio::time::sleep(PARKED).await;
            }
            Err(error) => {
                tracing::warn!(%error, url = config.url, "ClickHouse did not take records; they wait on this disk");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Sends what there is, then returns; for the end of a run. At most one attempt for each batch.
///
/// # Errors
/// Why something stays behind (the next agent sends it).
pub async fn drain(dir: &Path, config: &ClickHouseConfig) -> Result<(), String> {
    while round(dir, config).await.map_err(|error| error.to_string())? {}
    Ok(())
}

/// One batch of each boot; whether anything was sent.
async fn round(dir: &Path, config: &ClickHouseConfig) -> Result<bool, SinkError> {
    let mut sent = false;
    for boot in segment::boots(dir)? {
        let lock = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(boot.join("ship.lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            sent |= batch(&boot, config).await?;
        }
    }
    Ok(sent)
}

async fn batch(boot: &Path, config: &ClickHouseConfig) -> Result<bool, SinkError> {
    let cursor = Cursor::of(boot)?;
    let plan = match read::<Plan>(&boot.join("shipping.json"))? {
        Some(plan) if plan.follows(&cursor) => Some(plan),
        _ => plan(boot, &cursor, config)?,
    };
    let Some(plan) = plan else {
        return seals(boot, cursor, config).await;
    };
    write(&boot.join("shipping.json"), &plan)?;
    let path = boot.join(segment::file_name(plan.segment, "seg"));
    let lines = segment::decode(&segment::read_range(&path, plan.from, plan.to)?).lines;
    let names: Vec<&str> = COLUMNS.iter().map(|c| c.name).collect();
    let into = format!("records ({})", names.join(", "));
    send(config, &into, plan.token.clone(), rows(lines, config.legacy)?).await?;
    write(
        &boot.join("shipped.json"),
        &Cursor {
            segment: plan.segment,
            offset: plan.to,
            sealed: cursor.sealed,
        },
    )?;
    Ok(true)
}

/// One INSERT, acknowledged.
async fn send(config: &ClickHouseConfig, into: &str, token: String, rows: Vec<u8>) -> Result<(), SinkError> {
    let statement = format!("INSERT INTO {}.{into} FORMAT JSONEachRow", config.database);
    let mut insert = client(config)?
        .insert_formatted_with(statement)
        .with_setting("input_format_skip_unknown_fields", "0")
        .with_timeouts(Some(SEND), Some(ANSWER));
    // A server before 20 knows neither: there what was sent twice is merged, or read with FINAL.
    if !config.legacy {
        insert = insert
            .with_setting("insert_deduplication_token", token)
            .with_setting("async_insert", "0");
    }
    insert.send(rows.into()).await?;
    Ok(insert.end().await?)
}

/// The lines of the log as rows of the table: as they are, but for a server without maps.
fn rows(lines: Vec<u8>, legacy: bool) -> Result<Vec<u8>, SinkError> {
    if !legacy {
        return Ok(lines);
    }
    let mut rows = Vec::with_capacity(lines.len());
    for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line)?;
        for column in COLUMNS.iter().filter(|c| c.kind == Kind::Counts) {
            if let Some(counts) = row.get_mut(column.name) {
                *counts = counts.to_string().into();
            }
        }
        serde_json::to_writer(&mut rows, &row)?;
        rows.push(b'\n');
    }
    Ok(rows)
}

/// The next range: whole group commits of one segment, at most as many records as configured (but at least one commit).
fn plan(boot: &Path, cursor: &Cursor, config: &ClickHouseConfig) -> io::Result<Option<Plan>> {
    for (first, path) in segment::list(boot)?
        .into_iter()
        .filter(|(first, _)| *first >= cursor.segment)
    {
        let from = if first == cursor.segment { cursor.offset } else { 0 };
        let batch = segment::read_commits(&path, from, config.batch_records as usize)?;
        if !batch.is_empty() {
            let to = from + batch.len() as u64;
            let name = boot.file_name().unwrap_or_default().to_string_lossy();
            let content = Digest::of(&batch);
            let token = format!("{name}-{first}-{from}-{to}-{content}");
            return Ok(Some(Plan {
                segment: first,
                from,
                to,
                token,
            }));
        }
    }
    Ok(None)
}

/// Seals of segments that have been sent whole.
async fn seals(boot: &Path, cursor: Cursor, config: &ClickHouseConfig) -> Result<bool, SinkError> {
    let next = segment::list(boot)?
        .into_iter()
        .find(|(first, _)| *first > cursor.sealed);
    let Some((first, path)) = next else {
        return Ok(false);
    };
    let sealed = path.with_extension("seal");
    let whole = first < cursor.segment || fs::metadata(&path)?.len() == cursor.offset;
    if !whole || !sealed.exists() {
        return Ok(false);
    }
    let seal = super::seal::read(&sealed)?;
    let name = boot.file_name().unwrap_or_default().to_string_lossy();
    let row = serde_json::json!({
        "boot": name, "first": first, "statement": seal.statement, "signature": seal.signature, "key": seal.key,
    });
    let token = format!("{name}-{first}-{}", seal.digest());
    send(config, "checkpoints", token, format!("{row}\n").into_bytes()).await?;
    write(
        &boot.join("shipped.json"),
        &Cursor {
            sealed: first,
            ..cursor
        },
    )?;
    Ok(true)
}

/// Wrong tables, columns, users, passwords or rights do not mend themselves (ClickHouse's error codes).
fn needs_somebody(error: &SinkError) -> bool {
    const CODES: [u32; 9] = [16, 47, 60, 81, 117, 192, 193, 497, 516];
    match error {
        SinkError::Password(_) => true,
        SinkError::ClickHouse(error) => code(error).is_some_and(|code| CODES.contains(&code)),
        SinkError::Io(_) | SinkError::Cursor(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_kept_until_it_was_sent() {
        let cursor = |segment, offset| Cursor {
            segment,
            offset,
            sealed: 0,
        };
        let plan = |segment, from| Plan {
            segment,
            from,
            to: from + 10,
            token: String::new(),
        };
        let table = [
            (plan(1, 0), cursor(0, 0), true),
            (plan(1, 10), cursor(1, 10), true),
            (plan(7, 0), cursor(1, 10), true),
            (plan(1, 0), cursor(1, 10), false),
            (plan(1, 10), cursor(1, 20), false),
            (plan(1, 20), cursor(7, 10), false),
        ];
        for (plan, cursor, expected) in table {
            assert_eq!(plan.follows(&cursor), expected, "{plan:?} {cursor:?}");
        }
    }
}
