//! PostgreSQL's own regression statements, and PostgreSQL as the judge: what is called a read leaves no trace.
#![expect(clippy::expect_used, clippy::panic, reason = "in a test, that is the failure")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use interdict::protocol::postgres::sql::read;
use interdict_tests::oracle::Counts;
use interdict_tests::psql::statements;
use interdict_tests::{Oracle, Postgres, Wire, can_relay};

/// Owns the database, may make roles, and is no superuser: what it may not do, no test does.
const ROLE: &str = "judge";
const DATABASE: &str = "regression";

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/regress")
}

struct Judged {
    postgres: Postgres,
    _dir: tempfile::TempDir,
}

fn server(test: &str) -> Option<Judged> {
    if !can_relay(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("directory");
    let postgres = Postgres::start(dir.path()).expect("server");
    postgres
        .direct("postgres", &format!("CREATE ROLE {ROLE} LOGIN CREATEROLE"))
        .expect("role");
    postgres
        .direct("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {ROLE}"))
        .expect("database");
    for setting in [
        "statement_timeout = '2s'",
        "log_statement = none",
        "log_min_messages = fatal",
    ] {
        postgres
            .direct("postgres", &format!("ALTER SYSTEM SET {setting}"))
            .expect("setting");
    }
    postgres.trust(ROLE).expect("trust");
    Some(Judged { postgres, _dir: dir })
}

fn session(postgres: &Postgres) -> Oracle {
    let parameters = [("user", ROLE), ("database", DATABASE)];
    Oracle::new(Wire::connect(postgres.port, &parameters).expect("session"))
}

fn add(sum: &mut Counts, one: Counts) {
    let Counts {
        statements,
        reads,
        proven,
        control,
        writes,
        ddl,
        code,
        invalid,
        unknown,
    } = one;
    sum.statements += statements;
    sum.reads += reads;
    sum.proven += proven;
    sum.control += control;
    sum.writes += writes;
    sum.ddl += ddl;
    sum.code += code;
    sum.invalid += invalid;
    sum.unknown += unknown;
}

/// The sample, or another set that is named: say all of a PostgreSQL source tree's `src/test/regress/sql`.
fn scripts() -> (Vec<PathBuf>, bool) {
    let other = std::env::var_os("INTERDICT_REGRESS_SQL").map(PathBuf::from);
    let all = other.is_some();
    let sql = other.unwrap_or_else(|| fixtures().join("sql"));
    let mut files: Vec<PathBuf> = fs::read_dir(sql)
        .expect("fixtures")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .collect();
    files.sort();
    files.insert(0, fixtures().join("setup.sql"));
    (files, all)
}

#[test]
fn what_is_called_a_read_leaves_no_trace() {
    let Some(judged) = server("what_is_called_a_read") else {
        return;
    };
    let (files, all) = scripts();
    let (mut counts, mut failures, mut refused) = (Counts::default(), Vec::new(), Vec::new());
    for file in files {
        let name = file.file_stem().expect("name").to_string_lossy().into_owned();
        let script = fs::read(&file).expect("script");
        let mut oracle = session(&judged.postgres);
        for statement in statements(&String::from_utf8_lossy(&script)) {
            if oracle.judge(&name, &statement).is_err() {
                // The script ended its own session.
                let seen = std::mem::replace(&mut oracle, session(&judged.postgres));
                collect(seen, &mut counts, &mut failures, &mut refused);
            }
        }
        collect(oracle, &mut counts, &mut failures, &mut refused);
    }
    let mut out = std::io::stderr();
    writeln!(out, "{counts:#?}").expect("stderr");
    if all {
        writeln!(out, "refused though valid:\n{}", refused.join("\n")).expect("stderr");
    }
    assert!(
        failures.is_empty(),
        "{} writes called reads:\n{}",
        failures.len(),
        failures.join("\n")
    );
    if !all {
        assert!(
            counts.unknown <= UNKNOWN,
            "refused though valid:\n{}",
            refused.join("\n")
        );
        assert!(
            counts.proven >= PROVEN,
            "the oracle judged too little: {counts:?}"
        );
    }
}

fn collect(oracle: Oracle, counts: &mut Counts, failures: &mut Vec<String>, refused: &mut Vec<String>) {
    add(counts, oracle.counts);
    failures.extend(oracle.failures);
    refused.extend(oracle.refused);
}

/// What the sample holds may be refused at most, and must be proven at least.
const UNKNOWN: usize = 46;
const PROVEN: usize = 2_500;

/// A judge that sees nothing proves nothing: each of these leaves another trace.
#[test]
fn the_oracle_sees_writes() {
    let Some(judged) = server("the_oracle_sees") else {
        return;
    };
    for transaction in ["", "BEGIN"] {
        let mut oracle = session(&judged.postgres);
        let setup = "CREATE TABLE IF NOT EXISTS t(a int); CREATE SEQUENCE IF NOT EXISTS s; CREATE TEMP TABLE u(a int)";
        oracle.ask(setup).expect("asked");
        for text in TRACES {
            assert!(changes(text), "called a read: {text}");
            oracle.ask(transaction).expect("asked");
            let judged = oracle.reads(text).expect("asked");
            assert!(
                judged.is_err(),
                "the oracle saw nothing: {text} in {transaction:?}"
            );
            let read = oracle.reads("SELECT count(*) FROM t, u").expect("asked");
            assert_eq!(read, Ok(()), "after {text} in {transaction:?}");
            oracle.ask("ROLLBACK").expect("asked");
        }
        let proven = oracle.counts.proven;
        assert!(
            proven >= TRACES.len(),
            "reads that followed did not run: {proven}"
        );
    }
}

/// Whether the classifier says that a text changes something.
fn changes(text: &str) -> bool {
    let script = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    script
        .statements
        .iter()
        .any(|s| s.facts.actions.iter().any(|a| a.changes()))
}

const TRACES: [&str; 12] = [
    "INSERT INTO t VALUES (1)",
    "SELECT nextval('s')",
    "SELECT ('s'::regclass).nextval",
    "SELECT r.nextval FROM to_regclass('s') r",
    "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, nextval(''s'')::text::tsquery')",
    "CREATE TABLE v(a int)",
    "SELECT * FROM t FOR UPDATE",
    "SELECT lo_create(0)",
    "SELECT pg_advisory_xact_lock(1)",
    "INSERT INTO u VALUES (1)",
    "SELECT set_config('work_mem', '1MB', false)",
    "SELECT pg_current_xact_id()",
];

/// Every function of the list is the server's, and no function of that name is volatile but these, which leave nothing.
#[test]
fn functions_called_reads_are_not_volatile() {
    let Some(judged) = server("functions_called_reads") else {
        return;
    };
    let names = "SELECT DISTINCT proname, bool_or(provolatile = 'v') FROM pg_proc \
         WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1 ORDER BY 1";
    let answer = judged.postgres.direct(DATABASE, names).expect("asked");
    let mut volatile = Vec::new();
    let mut reads = 0;
    for line in answer.lines() {
        let (name, is_volatile) = line.split_once('|').expect("two columns");
        let changes = changes(&format!("SELECT pg_catalog.\"{name}\"(1)"));
        reads += usize::from(!changes);
        if is_volatile == "t" && !changes {
            volatile.push(name);
        }
    }
    assert_eq!(volatile, HARMLESS, "volatile functions called reads");
    assert!(reads > 2_000, "{reads}");
}

/// Volatile without leaving anything: clocks, dice, counters that are only looked at, sizes.
const HARMLESS: [&str; 20] = [
    "clock_timestamp",
    "current_query",
    "currval",
    "gen_random_uuid",
    "lastval",
    "pg_blocking_pids",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_lock_status",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "setseed",
    "timeofday",
];
