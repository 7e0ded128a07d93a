-- Interdict's records, as `interdict audit schema` prints them. One INSERT is one fixed range of records with a deduplication
-- token: a retry after a lost answer changes nothing. Plain MergeTree deduplicates only with a window; give a materialized view's
-- target one too.
CREATE DATABASE IF NOT EXISTS interdict;

CREATE TABLE IF NOT EXISTS interdict.records
(
    seq UInt64 CODEC(Delta, ZSTD(1)),
    v UInt32,
    ts_ns Int64 CODEC(Delta, ZSTD(1)),
    ts DateTime64(9, 'UTC') MATERIALIZED fromUnixTimestamp64Nano(ts_ns, 'UTC'),
    recv DateTime64(3, 'UTC') DEFAULT now64(3),
    kind LowCardinality(String),
    host LowCardinality(String),
    boot String,
    run String,
    workload LowCardinality(String),
    connection String,
    session String,
    operation String,
    principal LowCardinality(String),
    principal_name LowCardinality(String),
    groups Array(LowCardinality(String)),
    pid UInt64,
    process_start_ns UInt64,
    uid Nullable(UInt32),
    gid Nullable(UInt32),
    exe LowCardinality(String),
    exe_device UInt64,
    exe_inode UInt64,
    comm LowCardinality(String),
    cgroup UInt64,
    netns UInt64,
    target LowCardinality(String),
    environment LowCardinality(String),
    protocol LowCardinality(String),
    original LowCardinality(String),
    actions Array(LowCardinality(String)),
    tables Array(String),
    bounded Nullable(Bool),
    text String CODEC(ZSTD(1)),
    parameters Array(String),
    fingerprint String,
    verdict LowCardinality(String),
    refusal LowCardinality(String),
    policies Array(LowCardinality(String)),
    reason String CODEC(ZSTD(1)),
    ticket String,
    bundle LowCardinality(String),
    status LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    rows UInt64,
    bytes_up UInt64,
    bytes_down UInt64,
    took_ns UInt64,
    masked Map(LowCardinality(String), UInt64),
    actor LowCardinality(String),
    actor_groups Array(LowCardinality(String)),
    actor_uid Nullable(UInt32),
    times UInt64,
    part LowCardinality(String),
    at_byte UInt64,
    encoding LowCardinality(String),
    INDEX by_operation operation TYPE bloom_filter GRANULARITY 4,
    INDEX by_session session TYPE bloom_filter GRANULARITY 4,
    INDEX by_ticket ticket TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(fromUnixTimestamp64Nano(ts_ns, 'UTC'))
ORDER BY (host, boot, seq)
SETTINGS non_replicated_deduplication_window = 100000;

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
