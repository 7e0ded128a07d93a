//! Which functions only read.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Functions of `pg_catalog` that only read: immutable and stable ones of PostgreSQL 15 (without those that assign a
/// transaction id or read tables by name), and volatile ones without effects. Made with:
/// `SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile IN ('i', 's')
/// AND proname !~ '(_to_xml|_xmlschema)' AND proname NOT IN ('txid_current', 'pg_current_xact_id', 'ts_rewrite')
/// AND proname !~ '^(pg_ls_|pg_read_|lo_)'`, and `random clock_timestamp timeofday gen_random_uuid pg_backend_pid
/// pg_sleep setseed unnest generate_series current_query currval lastval pg_blocking_pids pg_is_in_recovery pg_lock_status
/// pg_partition_ancestors pg_partition_tree pg_database_size pg_indexes_size pg_relation_size pg_table_size
/// pg_tablespace_size pg_total_relation_size`. A name is here only where all functions of that name only read:
/// `ts_rewrite` of two arguments runs a text. A test holds the list against a server (`tests/postgres_oracle.rs`).
static HARMLESS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    include_str!("harmless_functions.txt")
        .lines()
        .filter(|line| !line.is_empty())
        .collect()
});

/// Whether a function only reads. A schema other than `pg_catalog` is somebody's own, whatever its name; so may be an
/// unqualified name that `search_path` puts before `pg_catalog`, which takes a right to create functions there.
pub(super) fn only_reads(schema: Option<&str>, name: &str) -> bool {
    matches!(schema, None | Some("pg_catalog")) && HARMLESS.contains(name)
}

/// Functions of `pg_catalog` whose results are rows of several columns, or of columns that the query names.
const ROWS: [&str; 24] = [
    "aclexplode",
    "json_each",
    "json_each_text",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "pg_available_extensions",
    "pg_get_keywords",
    "pg_identify_object",
    "pg_lock_status",
    "pg_options_to_table",
    "pg_partition_tree",
    "pg_show_all_settings",
    "pg_stat_get_activity",
    "pg_timezone_names",
    "ts_debug",
    "ts_parse",
];

/// Whether a function's results are rows of several columns. All functions but the server's own may be.
pub(super) fn returns_rows(schema: Option<&str>, name: &str) -> bool {
    !only_reads(schema, name) || ROWS.contains(&name)
}

/// Functions of `pg_catalog` that make something readable of a whole row, and can be written as a column of it. Made by
/// trying every function on a table: `SELECT c.FUNCTION FROM t c`.
const ROW_READERS: [&str; 19] = [
    "any_out",
    "anycompatible_out",
    "anycompatiblenonarray_out",
    "anyelement_out",
    "anynonarray_out",
    "array_agg",
    "concat",
    "hash_record",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "quote_literal",
    "quote_nullable",
    "record_out",
    "record_send",
    "row_to_json",
];

/// Whether `r.name` may be made of the whole row `r`.
pub(super) fn reads_row(name: &str) -> bool {
    ROW_READERS.contains(&name) || matches!(name, "to_json" | "to_jsonb")
}

/// Whether the result of a function comes from its arguments only (or from counters and locks), not from tables that
/// no name in the query tells.
pub(super) fn reads_no_tables(schema: Option<&str>, name: &str) -> bool {
    let counts = matches!(
        name,
        "nextval" | "setval" | "set_config" | "pg_notify" | "txid_current" | "pg_current_xact_id"
    );
    let locks = name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_");
    only_reads(schema, name) || (matches!(schema, None | Some("pg_catalog")) && (counts || locks))
}
