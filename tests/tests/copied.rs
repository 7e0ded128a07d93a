//! `COPY … TO` from a database with declared columns: every field is masked as its column is.

use interdict_tests::world::world;

#[test]
fn copies_are_masked_by_column() {
    let Some(w) = world("copies_are_masked_by_column", "") else {
        return;
    };
    w.database
        .direct(
            "shop",
            "UPDATE customers SET name = E'Ada\\tLove,\"lace' WHERE id = 1; \
             CREATE VIEW callers AS SELECT id, upper(name) AS caller FROM customers",
        )
        .expect("set up");
    for (sql, expected) in [
        (
            "COPY customers (id, name, email) TO STDOUT",
            "2\t[pii.name]\ta***@e***.org\n1\t[pii.name]\ta***@e***.com",
        ),
        (
            "COPY (SELECT name AS x, id FROM customers ORDER BY id) TO STDOUT (FORMAT csv, HEADER)",
            "x,id\n\"[pii.name]\",1\n\"[pii.name]\",2",
        ),
        (
            "COPY (SELECT id, lower(n) FROM (SELECT id, name || '!' AS n FROM customers) s ORDER BY id) TO STDOUT CSV",
            "1,\"[pii.name]\"\n2,\"[pii.name]\"",
        ),
        (
            "COPY (SELECT id, caller FROM callers ORDER BY id) TO STDOUT",
            "1\t[pii.name]\n2\t[pii.name]",
        ),
        (
            "COPY (SELECT who FROM people ORDER BY id LIMIT 1) TO STDOUT",
            "[pii.name]",
        ),
        ("COPY orders (id, total) TO STDOUT (FORMAT csv)", "1,10\n2,20"),
    ] {
        let seen = w.agent.psql(Some(&w.alice), sql).expect("run");
        assert_eq!(seen.status, 0, "{sql}: {}", seen.err);
        assert!(seen.out.trim().starts_with(expected), "{sql}: {}", seen.out);
    }
    for sql in [
        "COPY customers TO STDOUT",
        "COPY (SELECT * FROM customers) TO STDOUT",
        "COPY (SELECT c FROM customers c) TO STDOUT",
        "COPY (SELECT x FROM customers AS c(a, x)) TO STDOUT",
        "COPY (SELECT row_to_json(c) FROM customers c) TO STDOUT",
        "COPY (SELECT name FROM customers UNION SELECT name FROM customers) TO STDOUT",
        "COPY (TABLE customers) TO STDOUT",
        "COPY (UPDATE customers SET id = id WHERE id = 1 RETURNING name) TO STDOUT",
        "COPY customers (id, name) TO STDOUT (DELIMITER ';')",
        "COPY customers (id, name) TO STDOUT (FORMAT binary)",
        "BEGIN; CREATE VIEW v9 AS SELECT name AS z9 FROM customers; COPY (SELECT z9 FROM v9) TO STDOUT",
    ] {
        let seen = w.agent.psql(Some(&w.alice), sql).expect("run");
        assert!(seen.status != 0, "{sql}: {}", seen.out);
        let all = format!("{}{}", seen.out, seen.err);
        assert!(!all.contains("Ada") && !all.contains("Alan"), "{sql}: {all}");
    }
    w.agent.verify().expect("verified");
}
