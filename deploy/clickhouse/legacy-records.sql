-- Interdict's records in a server before 20, as `interdict audit schema --legacy` prints them. Read the views: a retry after a
-- lost answer leaves rows twice in the tables, until they are merged.
CREATE DATABASE IF NOT EXISTS interdict;

CREATE TABLE IF NOT EXISTS interdict.records
(
    seq UInt64,
    v UInt32,
    ts_ns Int64,
    kind String,
    host String,
    boot String,
    run String,
    workload String,
    connection String,
    session String,
    operation String,
    principal String,
    principal_name String,
    groups Array(String),
    pid UInt64,
    process_start_ns UInt64,
    uid Nullable(UInt32),
    gid Nullable(UInt32),
    exe String,
    exe_device UInt64,
    exe_inode UInt64,
    comm String,
    cgroup UInt64,
    netns UInt64,
    target String,
    environment String,
    protocol String,
    original String,
    actions Array(String),
    tables Array(String),
    bounded Nullable(UInt8),
    text String,
    parameters Array(String),
    fingerprint String,
    verdict String,
    refusal String,
    policies Array(String),
    reason String,
    ticket String,
    bundle String,
    status String,
    detail String,
    rows UInt64,
    bytes_up UInt64,
    bytes_down UInt64,
    took_ns UInt64,
    masked String,
    actor String,
    actor_groups Array(String),
    actor_uid Nullable(UInt32),
    times UInt64,
    part String,
    at_byte UInt64,
    encoding String,
    recv DateTime DEFAULT now()
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
