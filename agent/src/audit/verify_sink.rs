//! Comparing ClickHouse with the log: every record and seal that was sent is there once and unaltered, and the agent's own user can
//! do nothing there but insert.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clickhouse::Client;
use serde_json::{Map, Value};

use crate::config::{ClickHouseConfig, SecretSourceConfig};
use crate::model::Digest;

use super::sink::{Cursor, SinkError, client, client_as, code};
use super::verify::Finding;
use super::{digests, seal, segment};

/// ClickHouse's code for missing rights.
const ACCESS_DENIED: u32 = 497;
/// What the agent's user must not be able to do with the tables, beside reading them.
const MUST_NOT: [&str; 6] = [
    "ALTER UPDATE",
    "ALTER DELETE",
    "ALTER TABLE",
    "TRUNCATE",
    "DROP TABLE",
    "OPTIMIZE",
];
/// Differences that are named one by one, for each segment.
const MAX_NAMED: usize = 20;

/// Who may read there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auditor {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Option<SecretSourceConfig>,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkVerification {
    /// Agents whose records were compared.
    pub boots: u64,
    /// Records that are there as the log has them.
    pub records: u64,
    /// Seals that are there as the log has them.
    pub seals: u64,
    /// Records that ClickHouse has not acknowledged yet.
    pub unsent_records: u64,
    /// Whether the server could be asked what the agent's user may do.
    pub rights_checked: bool,
    /// What is wrong; empty where nothing is.
    pub findings: Vec<Finding>,
}

impl SinkVerification {
    fn wrong(&mut self, place: &str, what: impl Into<String>) {
        self.findings.push(Finding {
            file: place.to_owned(),
            what: what.into(),
        });
    }
}

/// Compares what ClickHouse has with the log in `dir`, reading there as `auditor`.
///
/// # Errors
/// Where the log or ClickHouse cannot be read.
pub async fn verify_sink(
    dir: &Path,
    config: &ClickHouseConfig,
    auditor: &Auditor,
) -> Result<SinkVerification, String> {
    let compared = async {
        let reader = client_as(&config.url, &auditor.user, auditor.password.as_ref())?;
        let mut seen = SinkVerification::default();
        for boot in segment::boots(dir)? {
            seen.boots += 1;
            records(&reader, config, &boot, &mut seen).await?;
            seals(&reader, config, &boot, &mut seen).await?;
        }
        // Before 20 there are no grants.
        if !config.legacy {
            rights(config, &mut seen).await?;
        }
        Ok(seen)
    };
    compared.await.map_err(|error: SinkError| error.to_string())
}

/// The records of a boot, segment by segment, up to where they were sent.
async fn records(
    reader: &Client,
    config: &ClickHouseConfig,
    boot: &Path,
    seen: &mut SinkVerification,
) -> Result<(), SinkError> {
    let cursor = Cursor::of(boot)?;
    let name = boot.file_name().unwrap_or_default().to_string_lossy();
    for (first, path) in segment::list(boot)? {
        let bytes = fs::read(&path)?;
        let sent = usize::try_from(cursor.sent(first, bytes.len() as u64)).unwrap_or(bytes.len());
        let (there, waits) = bytes.split_at_checked(sent).unwrap_or((&bytes, &[]));
        seen.unsent_records += lines(&segment::decode(waits).lines).count() as u64;
        let mut local = BTreeMap::new();
        for (number, line) in (first..).zip(lines(&segment::decode(there).lines)) {
            let record: Map<String, Value> = serde_json::from_slice(line)?;
            local.insert(number, digests::of_record(&record, config.legacy));
        }
        let Some((last, _)) = local.last_key_value() else {
            continue;
        };
        let rows = format!(
            "{} WHERE boot = '{name}' AND seq BETWEEN {first} AND {last}",
            table(config, "records")
        );
        let whole = format!(
            "SELECT count(), hex(SHA256(arrayStringConcat(arrayMap(x -> x.2, arraySort(groupArray((seq, {}))))))) \
             FROM {rows}",
            digests::sql_of_row(config.legacy)
        );
        let expected = format!("{}\t{}", local.len(), digests::of_all(local.values()));
        if ask(reader, &whole).await?.trim().to_lowercase() == expected {
            seen.records += local.len() as u64;
            continue;
        }
        differences(reader, config, (&rows, &format!("{name}/{first}")), &local, seen).await?;
    }
    Ok(())
}

/// Names what differs in a segment.
async fn differences(
    reader: &Client,
    config: &ClickHouseConfig,
    (rows, place): (&str, &str),
    local: &BTreeMap<u64, Digest>,
    seen: &mut SinkVerification,
) -> Result<(), SinkError> {
    let each = format!(
        "SELECT seq, lower({}) FROM {rows} ORDER BY seq",
        digests::sql_of_row(config.legacy)
    );
    let mut remote: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in ask(reader, &each).await?.lines() {
        if let Some((seq, digest)) = line.split_once('\t')
            && let Ok(seq) = seq.parse()
        {
            remote.entry(seq).or_default().push(digest.to_owned());
        }
    }
    let mut wrong = Vec::new();
    for (seq, digest) in local {
        match remote.get(seq).map(Vec::as_slice) {
            Some([one]) if *one == digest.to_string() => seen.records += 1,
            Some([_]) => wrong.push(format!("record {seq} is not as the log has it")),
            Some(more) => wrong.push(format!("record {seq} is there {} times", more.len())),
            None => wrong.push(format!("record {seq} is missing")),
        }
    }
    let more = wrong.len().saturating_sub(MAX_NAMED);
    for what in wrong.into_iter().take(MAX_NAMED) {
        seen.wrong(place, what);
    }
    if more > 0 {
        seen.wrong(place, format!("and {more} records more"));
    }
    Ok(())
}

/// The seals of a boot that were sent.
async fn seals(
    reader: &Client,
    config: &ClickHouseConfig,
    boot: &Path,
    seen: &mut SinkVerification,
) -> Result<(), SinkError> {
    let sent = Cursor::of(boot)?.sealed;
    let name = boot.file_name().unwrap_or_default().to_string_lossy();
    for (first, path) in segment::list(boot)?
        .into_iter()
        .filter(|(first, _)| *first <= sent)
    {
        let place = format!("{name}/{first}");
        let Ok(local) = seal::read(&path.with_extension("seal")) else {
            seen.wrong(&place, "its seal was sent, and the log has it no more");
            continue;
        };
        let found = ask(
            reader,
            &format!(
                "SELECT hex(statement), signature, key FROM {} WHERE boot = '{name}' AND first = {first}",
                table(config, "checkpoints")
            ),
        )
        .await?;
        let statement = data_encoding::HEXUPPER.encode(local.statement.as_bytes());
        let expected = format!("{statement}\t{}\t{}", local.signature, local.key);
        match found.trim().lines().collect::<Vec<_>>()[..] {
            [one] if one == expected => seen.seals += 1,
            [] => seen.wrong(&place, "its seal is missing"),
            [_] => seen.wrong(&place, "its seal is not as the log has it"),
            _ => seen.wrong(&place, "its seal is there more than once"),
        }
    }
    Ok(())
}

/// What the agent's own user may do: insert, and nothing else. Reading is tried; the rest is asked for, because trying it
/// would do it.
async fn rights(config: &ClickHouseConfig, seen: &mut SinkVerification) -> Result<(), SinkError> {
    let agent = client(config)?;
    for table in ["records", "checkpoints"] {
        let table = format!("{}.{table}", config.database);
        match ask(&agent, &format!("SELECT 1 FROM {table} LIMIT 1")).await {
            Ok(_) => seen.wrong(
                &table,
                format!("{} can read it: take SELECT from that user", config.user),
            ),
            Err(SinkError::ClickHouse(error)) if code(&error) == Some(ACCESS_DENIED) => {}
            Err(error) => return Err(error),
        }
        let granted = async |right: &str| {
            let answer = ask(&agent, &format!("CHECK GRANT {right} ON {table}")).await;
            answer.map(|answer| answer.trim() == "1")
        };
        match granted("INSERT").await {
            Ok(true) => seen.rights_checked = true,
            Ok(false) => seen.wrong(&table, format!("{} cannot insert into it", config.user)),
            // A server before 24.11 cannot be asked.
            Err(SinkError::ClickHouse(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        for right in MUST_NOT {
            if granted(right).await? {
                seen.wrong(
                    &table,
                    format!("{} has {right} on it: take it from that user", config.user),
                );
            }
        }
    }
    Ok(())
}

/// A table as it is read: before 20, rows that were sent twice count once.
fn table(config: &ClickHouseConfig, name: &str) -> String {
    let last = if config.legacy { " FINAL" } else { "" };
    format!("{}.{name}{last}", config.database)
}

async fn ask(client: &Client, sql: &str) -> Result<String, SinkError> {
    let bytes = client
        .query_raw(sql)
        .fetch_bytes("TabSeparated")?
        .collect()
        .await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty())
}
