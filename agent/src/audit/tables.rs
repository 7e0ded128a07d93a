//! The tables in ClickHouse, made from the columns of a record.

use super::columns::{COLUMNS, Column, Kind};

/// The tables, as `deploy/clickhouse/001-records.sql` has them; for servers before 20, as `deploy/clickhouse/legacy-records.sql` has them.
#[must_use]
pub fn clickhouse_tables(legacy: bool) -> String {
    if legacy { legacy_tables() } else { tables() }
}

fn tables() -> String {
    let mut sql = String::from(
        "-- Interdict's records, as `interdict audit schema` prints them. One INSERT is one fixed range of records with a deduplication\n\
         -- token: a retry after a lost answer changes nothing. Plain MergeTree deduplicates only with a window; give a materialized view's\n\
         -- target one too.\n\
         CREATE DATABASE IF NOT EXISTS interdict;\n\n\
         CREATE TABLE IF NOT EXISTS interdict.records\n(\n",
    );
    for column in COLUMNS {
        sql.push_str(&line(column));
        if column.kind == Kind::Time {
            let name = column.name;
            sql.push_str(&format!(
                "    ts DateTime64(9, 'UTC') MATERIALIZED fromUnixTimestamp64Nano({name}, 'UTC'),\n    \
                 recv DateTime64(3, 'UTC') DEFAULT now64(3),\n"
            ));
        }
    }
    sql.push_str(RECORDS_END);
    sql.push_str(CHECKPOINTS);
    sql
}

/// Such servers know neither deduplication tokens nor maps nor codecs: what was sent twice is there once when it is read with FINAL.
fn legacy_tables() -> String {
    let mut sql = String::from(
        "-- Interdict's records in a server before 20, as `interdict audit schema --legacy` prints them. Read the views: a retry after a\n\
         -- lost answer leaves rows twice in the tables, until they are merged.\n\
         CREATE DATABASE IF NOT EXISTS interdict;\n\n\
         CREATE TABLE IF NOT EXISTS interdict.records\n(\n",
    );
    for Column { name, kind, .. } in COLUMNS {
        sql.push_str(&format!("    {name} {},\n", legacy_type(*kind)));
    }
    sql.push_str(LEGACY_END);
    sql
}

const fn legacy_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "UInt64",
        Kind::SmallNumber => "UInt32",
        Kind::OptionalNumber => "Nullable(UInt32)",
        Kind::Time => "Int64",
        Kind::Flag => "Nullable(UInt8)",
        Kind::Texts | Kind::Words => "Array(String)",
        // Counts are their JSON.
        Kind::Text | Kind::Word | Kind::Counts => "String",
    }
}

const LEGACY_END: &str = "    recv DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(toDateTime(intDiv(ts_ns, 1000000000)))
ORDER BY (host, boot, seq);

CREATE VIEW IF NOT EXISTS interdict.records_once AS SELECT * FROM interdict.records FINAL;

CREATE TABLE IF NOT EXISTS interdict.checkpoints
(
    boot String,
    first UInt64,
    statement String,
    signature String,
    key String,
    recv DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY (boot, first);

CREATE VIEW IF NOT EXISTS interdict.checkpoints_once AS SELECT * FROM interdict.checkpoints FINAL;
";

fn line(column: &Column) -> String {
    let Column {
        name, kind, codec, ..
    } = column;
    let codec = match *codec {
        "" => String::new(),
        codec => format!(" CODEC({codec})"),
    };
    format!("    {name} {}{codec},\n", clickhouse_type(*kind))
}

const fn clickhouse_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "UInt64",
        Kind::SmallNumber => "UInt32",
        Kind::OptionalNumber => "Nullable(UInt32)",
        Kind::Time => "Int64",
        Kind::Text => "String",
        Kind::Word => "LowCardinality(String)",
        Kind::Texts => "Array(String)",
        Kind::Words => "Array(LowCardinality(String))",
        Kind::Flag => "Nullable(Bool)",
        Kind::Counts => "Map(LowCardinality(String), UInt64)",
    }
}

const RECORDS_END: &str = "    INDEX by_operation operation TYPE bloom_filter GRANULARITY 4,
    INDEX by_session session TYPE bloom_filter GRANULARITY 4,
    INDEX by_ticket ticket TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(fromUnixTimestamp64Nano(ts_ns, 'UTC'))
ORDER BY (host, boot, seq)
SETTINGS non_replicated_deduplication_window = 100000;
";

const CHECKPOINTS: &str = "
-- Seals of segments: what proves, away from the host, that nothing was changed on it.
CREATE TABLE IF NOT EXISTS interdict.checkpoints
(
    boot String,
    first UInt64,
    statement String,
    signature String,
    key String,
    recv DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (boot, first)
SETTINGS non_replicated_deduplication_window = 100000;
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::Record;
    use super::*;

    /// Every field with a value, and none left out: a new one does not compile until it stands here.
    fn full() -> Record {
        let text = || "x".to_owned();
        let texts = || vec![text()];
        Record {
            seq: 1,
            v: 1,
            ts_ns: 1,
            kind: "x".into(),
            host: text(),
            boot: text(),
            run: text(),
            workload: text(),
            connection: text(),
            session: text(),
            operation: text(),
            principal: text(),
            principal_name: text(),
            groups: texts(),
            pid: 1,
            process_start_ns: 1,
            uid: Some(1),
            gid: Some(1),
            exe: text(),
            exe_device: 1,
            exe_inode: 1,
            comm: text(),
            cgroup: 1,
            netns: 1,
            target: text(),
            environment: text(),
            protocol: text(),
            original: text(),
            actions: texts(),
            tables: texts(),
            bounded: Some(false),
            text: text(),
            parameters: texts(),
            fingerprint: text(),
            verdict: text(),
            refusal: text(),
            policies: texts(),
            reason: text(),
            ticket: text(),
            bundle: text(),
            status: text(),
            detail: text(),
            rows: 1,
            bytes_up: 1,
            bytes_down: 1,
            took_ns: 1,
            masked: BTreeMap::from([(text(), 1)]),
            actor: text(),
            actor_groups: texts(),
            actor_uid: Some(1),
            times: 1,
            part: "x".into(),
            at_byte: 1,
            encoding: "x".into(),
        }
    }

    #[test]
    fn a_stored_record_has_these_columns_and_no_other() {
        // The writer puts the number first, as the log has it.
        let json = serde_json::to_string(&full()).expect("encoded");
        let json = format!("{{\"seq\":1,{}", json.get(1..).expect("an object"));
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).expect("an object");
        let mut stored: Vec<&str> = row.keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = COLUMNS.iter().map(|c| c.name).collect();
        let places: Vec<Option<usize>> = COLUMNS
            .iter()
            .map(|c| json.find(&format!("\"{}\":", c.name)))
            .collect();
        assert!(places.is_sorted(), "{json}");
        stored.sort_unstable();
        listed.sort_unstable();
        assert_eq!(stored, listed);
        for Column { name, kind, .. } in COLUMNS {
            let value = &row[*name];
            let fits = match kind {
                Kind::Number | Kind::SmallNumber | Kind::OptionalNumber | Kind::Time => value.is_number(),
                Kind::Text | Kind::Word => value.is_string(),
                Kind::Texts | Kind::Words => value.is_array(),
                Kind::Flag => value.is_boolean(),
                Kind::Counts => value.is_object(),
            };
            assert!(fits, "{name} is {value}");
        }
        let read: Record = serde_json::from_str(&json).expect("read");
        assert_eq!(read, full());
    }

    #[test]
    fn what_is_deployed_is_what_is_sent() {
        let deployed = include_str!("../../../deploy/clickhouse/001-records.sql");
        assert_eq!(
            deployed,
            clickhouse_tables(false),
            "write it anew: interdict audit schema > deploy/clickhouse/001-records.sql"
        );
        let deployed = include_str!("../../../deploy/clickhouse/legacy-records.sql");
        assert_eq!(
            deployed,
            clickhouse_tables(true),
            "write it anew: interdict audit schema --legacy > deploy/clickhouse/legacy-records.sql"
        );
    }
}
