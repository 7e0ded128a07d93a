//! Which functions only read.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Functions of `pg_catalog` that only read: immutable and stable ones of PostgreSQL 15 (without those that assign a
/// transaction id or read tables by name), and volatile ones without effects. Made with:
/// `SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile IN ('i', 's')
/// AND proname !~ '(_to_xml|_xmlschema)' AND proname NOT IN ('txid_current', 'pg_current_xact_id')
/// AND proname !~ '^(pg_ls_|pg_read_|lo_)'`, and `random clock_timestamp timeofday gen_random_uuid pg_backend_pid
/// pg_sleep setseed unnest generate_series`.
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
