//! Statements and what they do.

use proptest::prelude::*;

use crate::model::Action::{self, *};

use super::*;

fn check(text: &str, expected: &[Action], bounded: bool) {
    let script = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let [statement] = script.statements.as_slice() else {
        panic!("{text}: {script:?}")
    };
    let actions: Vec<Action> = statement.facts.actions.iter().copied().collect();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(actions, expected, "{text}");
    assert_eq!(statement.facts.bounded, bounded, "{text}");
}

#[test]
fn reads() {
    for text in [
        "SELECT 1",
        "select * from customers where id = $1",
        "SELECT count(*), lower(email) FROM public.customers GROUP BY 2 ORDER BY 1 LIMIT 3",
        "WITH x AS (SELECT 1 a) SELECT a FROM x JOIN orders o ON o.id = x.a",
        "VALUES (1, 'x'), (2, 'y')",
        "TABLE customers",
        "EXPLAIN UPDATE t SET a = 1",
        "SELECT pg_catalog.upper('x'), now(), current_user, coalesce(a, b) FROM t",
        "SELECT x.* FROM generate_series(1, 3) x",
    ] {
        check(text, &[SqlSelect], true);
    }
}

#[test]
fn writes() {
    check("INSERT INTO t VALUES (1)", &[SqlSelect, SqlInsert], true);
    check(
        "INSERT INTO t(a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2",
        &[SqlSelect, SqlInsert, SqlUpdate],
        true,
    );
    check("UPDATE t SET a = 1 WHERE id = 7", &[SqlUpdate], true);
    check("DELETE FROM t WHERE id IN (1, 2)", &[SqlDelete], true);
    check(
        "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
        &[SqlSelect, SqlDeleteAll],
        false,
    );
    check("SELECT a INTO b FROM c", &[SqlSelect, SqlCreate], true);
    check("SELECT * FROM t FOR UPDATE", &[SqlSelect, SqlMaintenance], true);
    check("EXPLAIN ANALYZE DELETE FROM t", &[SqlSelect, SqlDeleteAll], false);
    check(
        "EXPLAIN (ANALYZE) DELETE FROM t",
        &[SqlSelect, SqlDeleteAll],
        false,
    );
    check("EXPLAIN (ANALYZE off) DELETE FROM t", &[SqlSelect], true);
    check("SELECT nextval('s')", &[SqlSelect, SqlExecute], true);
    check("SELECT my.lower('x')", &[SqlSelect, SqlExecute], true);
    check(
        "SELECT pg_read_file('/etc/passwd')",
        &[SqlSelect, SqlExecute],
        true,
    );
    check(
        "SELECT table_to_xml('customers', true, true, '')",
        &[SqlSelect, SqlExecute],
        true,
    );
    check(
        "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
        &[SqlMerge],
        true,
    );
}

/// PostgreSQL reads `(x).f` and, of a function's result, `r.f` as `f(x)`; operators are functions; and one function of
/// two arguments runs its second.
#[test]
fn calls_that_do_not_look_like_calls() {
    for text in [
        "SELECT ('s'::regclass).nextval",
        "SELECT ('/etc/passwd'::text).pg_read_file",
        "SELECT (SELECT 's'::regclass).nextval",
        "SELECT r.nextval FROM to_regclass('s') r",
        "SELECT r.pg_read_file FROM lower('/etc/passwd') r",
        "SELECT lower.pg_read_file FROM lower('/etc/passwd')",
        "SELECT r.my_function FROM lower('x') r",
        "SELECT coalesce.my_function FROM coalesce('x')",
        "SELECT upper(r.pg_ls_dir) FROM (SELECT 1) r",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT lo_unlink(1)')",
        "SELECT 1 OPERATOR(public.+) 2",
        "SELECT a <=> b FROM t",
        "SELECT a FROM t ORDER BY a USING <<<>>>",
        "SELECT a FROM t WHERE a <<<>>> ANY (SELECT b FROM u)",
        "COPY (SELECT ('s'::regclass).nextval) TO STDOUT",
    ] {
        let actions = read(text).expect(text).statements.remove(0).facts.actions;
        assert!(actions.contains(&SqlExecute), "{text}: {actions:?}");
    }
    for text in [
        "SELECT t.name, e.key, e.value FROM t, jsonb_each(t.data) e WHERE e.value @> '1'",
        "SELECT e.value ->> 'a' FROM t, jsonb_array_elements(t.data) e",
        "SELECT g.day FROM generate_series(1, 3) AS g(day) ORDER BY g.day DESC",
        "SELECT g.g, g.ordinality FROM generate_series(1, 3) WITH ORDINALITY g",
        "SELECT x.a FROM json_to_record('{}') AS x(a int, b text)",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), json_to_record('{}') AS (a int))",
        "SELECT a FROM t WHERE b BETWEEN 1 AND 2 AND c NOT LIKE 'x' AND d IS DISTINCT FROM 3 OR e OPERATOR(pg_catalog.=) 4",
        "SELECT pg_size_pretty(pg_total_relation_size('t'))",
        "SELECT a FROM t ORDER BY b USING <",
    ] {
        check(text, &[SqlSelect], true);
    }
}

#[test]
fn code_and_grants_inside_definitions() {
    for (text, expected) in [
        (
            "CREATE SCHEMA s CREATE TABLE t(a int) GRANT ALL ON t TO PUBLIC",
            &[SqlCreate, SqlAdmin][..],
        ),
        (
            "ALTER TABLE t ADD COLUMN a text DEFAULT pg_read_file('/etc/passwd')",
            &[SqlAlter, SqlExecute],
        ),
        (
            "ALTER TABLE t ALTER COLUMN a TYPE text USING mine(a)",
            &[SqlAlter, SqlExecute],
        ),
        ("CREATE TABLE t (a int CHECK (mine(a)))", &[SqlCreate, SqlExecute]),
        (
            "CREATE TABLE t (a bigint DEFAULT nextval('s'), b timestamptz DEFAULT now(), c int CHECK (c > 0), UNIQUE (b))",
            &[SqlCreate],
        ),
        ("CREATE INDEX i ON t (mine(a))", &[SqlCreate, SqlExecute]),
        ("CREATE INDEX i ON t (lower(a)) WHERE b > 1", &[SqlCreate]),
        (
            "CREATE DOMAIN d AS int CHECK (mine(VALUE))",
            &[SqlCreate, SqlExecute],
        ),
        ("COPY t FROM STDIN WHERE mine(a)", &[SqlCopyIn, SqlExecute]),
    ] {
        check(text, expected, true);
    }
}

#[test]
fn unbounded_conditions() {
    for condition in [
        "",
        " WHERE true",
        " WHERE 1 = 1",
        " WHERE id = id",
        " WHERE id = 1 OR true",
        " WHERE id IS NOT NULL",
        " WHERE id > 0",
        " WHERE id >= -1",
        " WHERE id <> 0",
        " WHERE name LIKE '%'",
        " WHERE NOT false",
        " WHERE $1",
        " WHERE 'a' = 'a'",
        " WHERE EXISTS (SELECT 1)",
        " WHERE id IN (SELECT id FROM t)",
        " WHERE 0 < id",
        " WHERE id = 1 OR id <> 1",
        " WHERE random() < 2",
    ] {
        check(
            &format!("UPDATE t SET a = 1{condition}"),
            &actions_of_update(condition),
            false,
        );
    }
    for condition in [
        " WHERE id = 1",
        " WHERE id = $1 AND true",
        " WHERE id BETWEEN 5 AND 9",
        " WHERE name LIKE 'a%'",
        " WHERE a IS NULL",
        " WHERE created < now()",
        " WHERE id = 1 OR id = 2",
        " WHERE id = ANY ($1)",
        " WHERE id IN (SELECT id FROM u WHERE x = 3)",
        " WHERE CURRENT OF c",
        " WHERE id > 1000",
    ] {
        let mut expected = actions_of_update(condition);
        expected.retain(|action| *action != SqlUpdateAll);
        expected.push(SqlUpdate);
        check(&format!("UPDATE t SET a = 1{condition}"), &expected, true);
    }
}

fn actions_of_update(condition: &str) -> Vec<Action> {
    if condition.contains("SELECT") {
        vec![SqlUpdateAll, SqlSelect]
    } else {
        vec![SqlUpdateAll]
    }
}

#[test]
fn everything_else() {
    check("DROP TABLE a, b.c", &[SqlDrop], true);
    check("DROP DATABASE x", &[SqlDrop, SqlAdmin], true);
    check("TRUNCATE t", &[SqlTruncate], false);
    check("CREATE TABLE t(a int)", &[SqlCreate], true);
    check("CREATE TABLE t AS SELECT * FROM u", &[SqlCreate, SqlSelect], true);
    check("ALTER TABLE t ADD COLUMN a int", &[SqlAlter], true);
    check("ALTER TABLE t DROP COLUMN a", &[SqlAlter, SqlDrop], true);
    check("ALTER TABLE t OWNER TO x", &[SqlAlter, SqlAdmin], true);
    check(
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        &[SqlAlter, SqlAdmin],
        true,
    );
    check("GRANT ALL ON t TO x", &[SqlAdmin], true);
    check("COPY t TO STDOUT", &[SqlCopyOut], true);
    check("COPY (SELECT * FROM t) TO STDOUT", &[SqlCopyOut, SqlSelect], true);
    check(
        "COPY (DELETE FROM t RETURNING *) TO STDOUT",
        &[SqlCopyOut, SqlDeleteAll],
        false,
    );
    check("COPY t FROM STDIN", &[SqlCopyIn], true);
    check("COPY t FROM '/etc/passwd'", &[SqlServerFile], true);
    check("COPY t TO PROGRAM 'sh'", &[SqlServerFile], true);
    check("DO 'begin end'", &[SqlExecute], true);
    check("CALL p()", &[SqlExecute], true);
    check("BEGIN", &[SqlTransaction], true);
    check("SET work_mem = '1MB'", &[SqlSession], true);
    check(
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        &[SqlSession],
        true,
    );
    check("SET ROLE postgres", &[SqlAdmin], true);
    check("SET SESSION AUTHORIZATION postgres", &[SqlAdmin], true);
    check("SET session_replication_role = replica", &[SqlAdmin], true);
    check("VACUUM t", &[SqlMaintenance], true);
    check("PREPARE p AS DELETE FROM t", &[SqlSession, SqlDeleteAll], false);
    check("EXECUTE p(1)", &[SqlSession], true);
    check("DECLARE c CURSOR FOR SELECT * FROM t", &[SqlSelect], true);
}

#[test]
fn scripts_have_all_their_statements_and_nothing_is_guessed() {
    assert_eq!(read("").map(|s| s.statements.len()), Ok(0));
    assert_eq!(read(" ; -- nothing\n").map(|s| s.statements.len()), Ok(0));
    assert_eq!(
        read("SELECT 1; DROP TABLE t; SELECT 2").map(|s| s.statements.len()),
        Ok(3)
    );
    for text in [
        "SELEC 1",
        "SELECT 1;;DROP",
        "select 'abc",
        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn hostile_texts_are_refused_and_do_no_harm() {
    let deep = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let minus = format!("SELECT {}1", "- ".repeat(100_000));
    let not = format!("SELECT {}true", "NOT ".repeat(100_000));
    let nul = "SELECT '\0'";
    let long = format!("SELECT '{}'", "x".repeat(MAX_TEXT));
    for text in [deep.as_str(), &minus, &not, nul, &long] {
        assert!(read(text).is_err());
    }
    let wide = format!("SELECT 1{}", " + 1".repeat(20_000));
    let _read_or_refused = read(&wide);
}

#[test]
fn lineage_follows_aliases() {
    let behind = |text: &str, position: usize| -> Vec<String> {
        let outputs = read(text).expect(text).statements.remove(0).outputs;
        outputs.behind(position).iter().cloned().collect()
    };
    assert_eq!(behind("SELECT id, upper(email) FROM customers", 1), ["email"]);
    assert_eq!(
        behind("SELECT x || '' FROM (SELECT email AS x FROM customers) s", 0),
        ["email", "x"]
    );
    assert!(behind("SELECT s.*, y || '' FROM (SELECT card y FROM c) s", 1).contains(&"card".to_owned()));
    assert!(behind("SELECT 1 UNION SELECT email FROM customers", 0).contains(&"email".to_owned()));
    let rows = |text: &str| read(text).expect(text).statements.remove(0).outputs.whole_rows;
    assert!(rows("SELECT row_to_json(c) FROM customers c"));
    assert!(rows("SELECT a || '' FROM (SELECT email FROM customers) s(a)"));
    assert!(!rows("SELECT upper(email) FROM customers c"));
}

#[test]
fn lineage_is_not_lost_where_no_name_is_written() {
    let outputs = |text: &str| read(text).expect(text).statements.remove(0).outputs;
    for text in [
        "SELECT row_to_json(c.*) FROM customers c",
        "SELECT ROW(c.*) FROM customers c",
        "SELECT c.row_to_json FROM customers c",
        "SELECT * FROM customers UNION SELECT * FROM customers",
        "TABLE customers EXCEPT TABLE others",
        "WITH RECURSIVE r AS (SELECT * FROM customers UNION SELECT * FROM r) SELECT * FROM r",
        "SELECT * FROM customers NATURAL FULL JOIN others",
        "SELECT (SELECT * FROM names LIMIT 1)",
        "SELECT ARRAY(TABLE names)",
        "SELECT query_to_xml('TABLE customers', true, true, '')",
        "SELECT * FROM mine()",
    ] {
        assert!(outputs(text).whole_rows, "{text}");
    }
    for text in [
        "SELECT q.upper FROM (SELECT upper(email) FROM customers) q",
        "SELECT q.x FROM (SELECT 'a' AS x UNION ALL SELECT email FROM customers) q",
        "WITH q AS (SELECT email || '' FROM customers) SELECT \"?column?\" FROM q",
        "SELECT column1 FROM (VALUES ((SELECT email FROM customers LIMIT 1))) v",
        "SELECT l.l FROM customers c, lower(c.email) l",
        "SELECT x.a FROM customers c, json_to_record(json_build_object('a', c.email)) x(a text)",
        "SELECT x.a FROM customers c, XMLTABLE('/a' PASSING (c.email::xml) COLUMNS a text PATH '.') x",
        "SELECT * FROM customers a FULL JOIN customers b USING (email)",
    ] {
        let outputs = outputs(text);
        assert!(outputs.behind(0).contains("email"), "{text}: {outputs:?}");
    }
    for text in [
        "SELECT count(*) FROM customers WHERE email LIKE 'a%'",
        "SELECT count(*) FROM (SELECT email FROM customers) q",
        "SELECT id, total * 2, (SELECT count(c.id) FROM customers c WHERE c.email = 'x') FROM orders",
        "SELECT 1 WHERE EXISTS (SELECT * FROM customers WHERE email = 'x')",
        "SELECT nextval('s') FROM customers WHERE email = 'x'",
    ] {
        let outputs = outputs(text);
        let shown = outputs
            .positions
            .iter()
            .take(2)
            .any(|names| names.contains("email"));
        assert!(
            !shown && !outputs.whole_rows && !outputs.positions.is_empty(),
            "{text}: {outputs:?}"
        );
    }
}

/// What is known of a copy's rows. A header that is believed and does not come would show the first row by content only.
#[test]
fn rows_of_a_copy() {
    use CopyFormat::{Csv, Other, Text};
    for (options, format, header) in [
        ("", Text, false),
        ("CSV", Csv, false),
        ("CSV HEADER", Csv, true),
        ("(FORMAT csv, HEADER)", Csv, true),
        ("(FORMAT csv, HEADER true)", Csv, true),
        ("(FORMAT csv, HEADER 1)", Csv, true),
        ("(FORMAT csv, HEADER false)", Csv, false),
        ("(FORMAT csv, HEADER off)", Csv, false),
        ("(FORMAT csv, HEADER 0)", Csv, false),
        ("(HEADER match)", Text, false),
        ("(FORMAT binary)", Other, false),
        ("(FORMAT csv, DELIMITER ';')", Other, false),
        ("(NULL 'x')", Other, false),
        ("(FORMAT csv, FORCE_QUOTE *)", Other, false),
        ("(ENCODING 'LATIN1')", Other, false),
    ] {
        let text = format!("COPY t (a, b) TO STDOUT {options}");
        let script = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let Some(SessionEffect::CopyOut(copy)) = script.statements.first().map(|s| &s.effect) else {
            panic!("{text}: {script:?}")
        };
        assert_eq!((copy.format, copy.header), (format, header), "{text}");
        let names = |all: &[&str]| {
            all.iter()
                .map(|name| BTreeSet::from([(*name).to_owned()]))
                .collect()
        };
        assert_eq!(copy.behind, Some(names(&["a", "b"])), "{text}");
    }
    for unknown in [
        "t",
        "(SELECT * FROM t)",
        "(TABLE t)",
        "(SELECT a FROM t UNION SELECT a FROM t)",
    ] {
        let text = format!("COPY {unknown} TO STDOUT");
        let script = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let effect = script.statements.first().map(|s| &s.effect);
        let known = matches!(effect, Some(SessionEffect::CopyOut(copy)) if copy.behind.is_some());
        assert!(!known, "{text}: {effect:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_texts_never_panic(text in ".{0,200}") {
        let _read_or_refused = read(&text);
    }

    #[test]
    fn damaged_statements_never_panic(cut in 0usize..90, insert in ".{0,4}") {
        let text = "WITH x AS (SELECT a, 'b' FROM t WHERE c = ANY($1)) UPDATE u SET d = x.a FROM x WHERE u.id = x.a";
        let cut = cut.min(text.len());
        let (head, tail) = text.split_at(cut);
        let _read_or_refused = read(&format!("{head}{insert}{tail}"));
    }
}
