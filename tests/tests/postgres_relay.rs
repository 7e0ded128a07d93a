//! The PostgreSQL relay against a real server, message by message and with real clients; no kernel part.
#![expect(clippy::expect_used, clippy::panic, reason = "in a test, that is the failure")]

use interdict_tests::wire::{bind, close, describe, execute, message, parse, query, sync};
use interdict_tests::{Relay, Setting, Wire, can_relay};

fn relay(test: &str, setting: Setting<'_>) -> Option<Relay> {
    can_relay(test).then(|| Relay::start(setting).expect("relay"))
}

fn dev() -> Setting<'static> {
    Setting {
        environment: "dev",
        ..Setting::default()
    }
}

fn orders(relay: &Relay) -> String {
    let count = "SELECT count(*) FROM orders";
    relay.database.direct("shop", count).expect("direct")
}

/// Asserts that `seen` holds every part in order.
fn check(seen: &str, parts: &[&str]) {
    let mut rest = seen;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("{part:?} is not (there) in {seen}");
        };
        rest = after;
    }
}

#[test]
fn texts_mean_to_the_server_what_they_mean_here() {
    let Some(relay) = relay("texts_mean", Setting::default()) else {
        return;
    };
    // With backslash escapes, the second string ends before the semicolon.
    let smuggled = r"SELECT '\', ' ; DELETE FROM orders; --'";
    for setting in [
        ("options", "-c standard_conforming_strings=off"),
        ("options", "-cstandard-conforming-strings=off"),
        ("options", "--standard_conforming_strings=off"),
        ("standard_conforming_strings", "off"),
        ("options", "-c client_encoding=SJIS"),
        ("client_encoding", "SJIS"),
        ("replication", "database"),
        ("session_preload_libraries", "x"),
    ] {
        let parameters = [("user", "anybody"), ("database", "shop"), setting];
        let refused = Wire::connect(relay.port, &parameters)
            .map(|_| ())
            .expect_err("refused");
        check(&refused.to_string(), &["FATAL", "0A000", "not"]);
    }
    let mut wire = relay.wire().expect("session");
    check(
        &wire.query(smuggled).expect("asked"),
        &["D[\\| ; DELETE FROM orders; --]"],
    );
    for sql in [
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'SJIS'",
        "SET NAMES 'SJIS'",
    ] {
        check(&wire.query(sql).expect("asked"), &["ERROR", "0A000"]);
    }
    assert_eq!(orders(&relay), "100");
    // The server's own defaults do not decide either.
    let off = "ALTER ROLE owner SET standard_conforming_strings = off";
    relay.database.direct("shop", off).expect("direct");
    let mut wire = relay.wire().expect("session");
    let reset = "RESET ALL";
    for sql in [smuggled, reset, smuggled] {
        // Whether the reset is allowed or not, the text is read as it was judged.
        wire.query(sql).expect("asked");
    }
    assert_eq!(orders(&relay), "100");
}

#[test]
fn a_name_means_what_the_server_has_under_it() {
    let Some(relay) = relay("a_name_means", Setting::default()) else {
        return;
    };
    let run_x = || [bind("", "x", &[], false), execute("", 0), sync()].concat();
    let with_drop = || {
        let mut wire = relay.wire().expect("session");
        wire.ask(&[parse("x", "DROP TABLE orders"), sync()].concat(), 1)
            .expect("prepared");
        wire.ask(&[parse("ok", "SELECT $1::int"), sync()].concat(), 1)
            .expect("prepared");
        wire
    };
    let denied = ["E[SERROR", "42501", "prod-no-drop", "ZI"];

    // The second definition fails; what is executed is the first. Without waiting for the answer, and with.
    let again = [parse("x", "SELECT 1"), sync()].concat();
    let seen = with_drop()
        .ask(&[again.clone(), run_x()].concat(), 2)
        .expect("asked");
    check(&seen, &[&["42P05", "ZI"][..], &denied].concat());
    let mut wire = with_drop();
    check(&wire.ask(&again, 1).expect("asked"), &["42P05"]);
    check(&wire.ask(&run_x(), 1).expect("asked"), &denied);

    // PREPARE of the same name, in each of the protocol's ways.
    let prepare = "PREPARE x AS SELECT 1";
    let extended = [
        parse("", prepare),
        bind("", "", &[], false),
        execute("", 0),
        sync(),
    ]
    .concat();
    for again in [query(prepare), extended] {
        let seen = with_drop()
            .ask(&[again, query("EXECUTE x")].concat(), 2)
            .expect("asked");
        check(&seen, &[&["42P05"][..], &denied].concat());
    }

    // An error before it: the server skips the second definition, and the Close before it.
    let skipped = [
        bind("", "ok", &["no number"], false),
        close(b'S', "x"),
        parse("x", "SELECT 1"),
        sync(),
        run_x(),
    ];
    let seen = with_drop().ask(&skipped.concat(), 2).expect("asked");
    check(&seen, &[&["22P02", "ZI"][..], &denied].concat());

    // Names behind names.
    let mut wire = with_drop();
    wire.ask(&[parse("y", "EXECUTE x"), sync()].concat(), 1)
        .expect("prepared");
    check(&wire.query("EXECUTE y").expect("asked"), &denied);
    check(&wire.query("EXPLAIN ANALYZE EXECUTE x").expect("asked"), &denied);
    check(&wire.query("EXECUTE nobody_knows").expect("asked"), &["0A000"]);

    // What is closed is gone, and a name may be given anew.
    let anew = [close(b'S', "x"), parse("x", "SELECT 41 + 1"), sync(), run_x()].concat();
    check(
        &with_drop().ask(&anew, 2).expect("asked"),
        &["31ZI", "2", "D[42]"],
    );
    let mut wire = with_drop();
    check(&wire.query("DEALLOCATE x").expect("asked"), &["DEALLOCATE"]);
    check(
        &wire.ask(&[again, run_x()].concat(), 2).expect("asked"),
        &["1ZI", "2", "D[1]"],
    );
    assert_eq!(orders(&relay), "100");
}

#[test]
fn fetching_runs_what_the_portal_holds() {
    let Some(relay) = relay("fetching_runs", Setting::default()) else {
        return;
    };
    let mut wire = relay.wire().expect("session");
    wire.query("BEGIN").expect("begun");
    let bound = [
        parse("s", "DELETE FROM orders RETURNING id"),
        bind("p", "s", &[], false),
        sync(),
    ];
    check(&wire.ask(&bound.concat(), 1).expect("bound"), &["12ZT"]);
    check(
        &wire.query("FETCH ALL FROM p").expect("asked"),
        &["42501", "apr-", "ZE"],
    );
    check(&wire.query("COMMIT").expect("asked"), &["ROLLBACK"]);
    check(
        &wire.query("FETCH ALL FROM nobody_knows").expect("asked"),
        &["42501", "code-needs-dba"],
    );
    assert_eq!(orders(&relay), "100");
}

#[test]
fn protected_columns_stay_masked_whatever_carries_them() {
    let Some(relay) = relay("protected_columns", dev()) else {
        return;
    };
    relay
        .database
        .direct("shop", "CREATE SCHEMA old CREATE TABLE customers (name text); INSERT INTO old.customers VALUES ('old'); CREATE VIEW harmless AS SELECT card AS n FROM customers; ANALYZE customers")
        .expect("direct");
    let scripts: [(&[&str], &str); 12] = [
        (
            &[
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT name || '' FROM customers",
                "FETCH ALL FROM c",
            ],
            "D[[pii.name]]",
        ),
        (
            &["PREPARE p AS SELECT name || '' FROM customers", "EXECUTE p"],
            "D[[pii.name]]",
        ),
        (
            &[
                "CREATE TEMP VIEW v AS SELECT name AS n, id FROM customers",
                "SELECT n, id FROM v",
            ],
            "D[[pii.name]|1]",
        ),
        (
            &[
                "BEGIN",
                "CREATE VIEW w AS SELECT name AS n, id FROM customers",
                "SELECT n, id FROM w",
            ],
            "D[[pii.name]|1]",
        ),
        // In one script nothing can be asked between: all of a new relation is masked.
        (
            &["CREATE TEMP VIEW v AS SELECT name AS n, id FROM customers; SELECT n, id FROM v"],
            "D[[pii.name]|NULL]",
        ),
        (
            &["CREATE OR REPLACE VIEW harmless AS SELECT name AS n FROM customers; SELECT n FROM harmless"],
            "D[[pii.name]]",
        ),
        (
            &["SELECT timezone(name, now()) FROM customers"],
            "time zone \"[masked]\" not recognized",
        ),
        (&["SELECT name::int FROM customers"], "integer: \"[masked]\""),
        (
            &["SELECT histogram_bounds FROM pg_stats WHERE tablename = 'customers' AND attname = 'name'"],
            "D[NULL]",
        ),
        (
            &["SELECT id + 1, who || '!' FROM people ORDER BY id LIMIT 1"],
            "D[2|[pii.name]]",
        ),
        (&["COPY customers TO STDOUT"], "0A000"),
        (&["SELECT id, name FROM old.customers", "SELECT 7"], "D[7]"),
    ];
    for (script, expected) in scripts {
        let mut wire = relay.wire().expect("session");
        let mut seen = String::new();
        for sql in script {
            seen.push_str(&wire.query(sql).expect("asked"));
        }
        assert!(
            !seen.contains("Lovelace") && !seen.contains("Turing"),
            "{script:?}: {seen}"
        );
        assert!(seen.contains(expected), "{script:?}: {seen}");
    }
    // A statement that is planned anew over another table of the same name.
    let mut wire = relay.wire().expect("session");
    wire.query("SET search_path = old").expect("set");
    let prepared = [
        parse("s", "SELECT name FROM customers"),
        describe(b'S', "s"),
        sync(),
    ]
    .concat();
    check(&wire.ask(&prepared, 1).expect("prepared"), &["1tTZI"]);
    let run = [bind("", "s", &[], false), execute("", 0), sync()].concat();
    check(&wire.ask(&run, 1).expect("asked"), &["2D[old]"]);
    wire.query("SET search_path = public").expect("set");
    check(
        &wire.ask(&run, 1).expect("asked"),
        &["2D[[pii.name]]D[[pii.name]]"],
    );
    // A table that somebody else has made since: known at once, and not masked.
    let mut wire = relay.wire().expect("session");
    relay
        .database
        .direct("shop", "CREATE TABLE fresh AS SELECT 1 AS id")
        .expect("direct");
    check(&wire.query("SELECT id FROM fresh").expect("asked"), &["TD[1]"]);
    let view = "CREATE VIEW other AS SELECT name AS n FROM customers";
    relay.database.direct("shop", view).expect("direct");
    check(
        &wire.query("SELECT n FROM other").expect("asked"),
        &["TD[[pii.name]]"],
    );
}

#[test]
fn drivers_of_every_kind_are_understood() {
    let Some(relay) = relay("drivers_of_every_kind", Setting::default()) else {
        return;
    };
    let mut wire = relay.wire().expect("session");
    let ask = |wire: &mut Wire, frames: &[Vec<u8>]| wire.ask(&frames.concat(), 1).expect("asked");
    // Prepared and described at once; executed with and without a description; after an error still there.
    let seen = ask(
        &mut wire,
        &[parse("s", "SELECT $1::int + 1"), describe(b'S', "s"), sync()],
    );
    check(&seen, &["1tTZI"]);
    let run = |value: &str| [bind("", "s", &[value], false), execute("", 0), sync()];
    let described = [
        bind("", "s", &["7"], false),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    check(&ask(&mut wire, &described), &["2TD[8]"]);
    check(&ask(&mut wire, &run("x")), &["22P02"]);
    check(&ask(&mut wire, &run("8")), &["2D[9]"]);
    // All in one; several in one batch; a portal in parts.
    let all = [
        parse("t", "SELECT 1"),
        describe(b'S', "t"),
        bind("", "t", &[], false),
        execute("", 0),
        sync(),
    ];
    check(&ask(&mut wire, &all), &["1tT2D[1]"]);
    let several = [
        parse("a", "SELECT 1"),
        parse("b", "SELECT 2"),
        bind("pa", "a", &[], false),
        bind("pb", "b", &[], false),
        execute("pb", 0),
        execute("pa", 0),
        close(b'S', "a"),
        close(b'S', "b"),
        sync(),
    ];
    check(&ask(&mut wire, &several), &["1122D[2]", "D[1]", "33ZI"]);
    let parts = [
        parse("", "SELECT generate_series(1, 3)"),
        bind("", "", &[], false),
        describe(b'P', ""),
        execute("", 2),
        execute("", 2),
        sync(),
    ];
    check(&ask(&mut wire, &parts), &["12TD[1]D[2]sD[3]C"]);
    // Long frames, both ways.
    let big = "x".repeat(3 * 1024 * 1024);
    let long = [
        parse("", "SELECT length($1::text), $1::text"),
        bind("", "", &[&big], false),
        execute("", 0),
        sync(),
    ];
    check(&ask(&mut wire, &long), &["12D[3145728|xxx"]);
    check(&wire.query("").expect("asked"), &["IZI"]);
    check(
        &wire.query("SELECT 1; SELECT 2").expect("asked"),
        &["D[1]", "D[2]", "ZI"],
    );
    check(&ask(&mut wire, &[message(b'F', &[0; 8]), sync()]), &["0A000"]);
}

#[test]
fn data_is_copied_in() {
    let Some(relay) = relay("data_is_copied_in", Setting::default()) else {
        return;
    };
    let mut wire = relay.wire().expect("session");
    let copy = [
        parse("", "COPY orders FROM STDIN"),
        bind("", "", &[], false),
        execute("", 0),
    ]
    .concat();
    let row = |id: u32| message(b'd', format!("{id}\t1\t1\n").as_bytes());
    let done = message(b'c', b"");
    // Clients that sync before the data, after it, and both; that wait for the server, and do not.
    let ways = [
        (vec![copy.clone(), sync()], vec![row(2001), done.clone(), sync()]),
        (vec![copy.clone()], vec![row(2002), done.clone(), sync()]),
        (
            vec![query("COPY orders FROM STDIN")],
            vec![row(2003), done.clone()],
        ),
        (vec![], vec![copy.clone(), row(2004), done.clone(), sync()]),
        (
            vec![],
            vec![query("COPY orders FROM STDIN"), row(2005), done.clone()],
        ),
    ];
    for (first, then) in ways {
        if !first.is_empty() {
            wire.send(&[first.concat(), message(b'H', &[])].concat())
                .expect("sent");
            while wire.message().expect("message").0 != b'G' {}
        }
        let seen = wire.ask(&then.concat(), 1).expect("asked");
        check(&seen, &["C[COPY 1]", "ZI"]);
        check(&wire.query("SELECT 1").expect("asked"), &["D[1]", "ZI"]);
    }
    // An error in the data, and the process gives up.
    wire.send(&query("COPY orders FROM STDIN")).expect("sent");
    let wrong = [message(b'd', b"no number\n"), done].concat();
    check(&wire.ask(&wrong, 1).expect("asked"), &["22P02", "ZI"]);
    wire.send(&query("COPY orders FROM STDIN")).expect("sent");
    check(
        &wire.ask(&message(b'f', b"enough\0"), 1).expect("asked"),
        &["57014", "ZI"],
    );
    check(&wire.query("SELECT 1").expect("asked"), &["D[1]", "ZI"]);
    assert_eq!(orders(&relay), "105");
}

#[test]
fn no_way_of_naming_whole_rows_shows_a_declared_column() {
    let Some(relay) = relay("no_way_of_naming", dev()) else {
        return;
    };
    let one = "CREATE VIEW people_names AS SELECT name FROM customers";
    relay.database.direct("shop", one).expect("direct");
    let mut seen = String::new();
    for sql in [
        "SELECT row_to_json(c.*) FROM customers c",
        "SELECT concat(c.*) FROM customers c",
        "SELECT ROW(c.*) FROM customers c",
        "SELECT c.row_to_json FROM customers c",
        "SELECT c.to_jsonb FROM customers c",
        "SELECT (c).concat FROM customers c",
        "SELECT * FROM customers UNION ALL SELECT * FROM customers",
        "TABLE customers UNION TABLE customers",
        "SELECT * FROM (SELECT * FROM customers EXCEPT SELECT * FROM customers WHERE false) q",
        "WITH RECURSIVE r AS (SELECT * FROM customers UNION SELECT * FROM r) SELECT * FROM r",
        "SELECT * FROM customers a FULL JOIN customers b USING (name)",
        "SELECT * FROM customers a NATURAL FULL JOIN customers b",
        "SELECT x.x FROM customers c, LATERAL json_to_record(row_to_json(c.*)) AS x(x text, name text)",
        "SELECT x.name FROM customers c, LATERAL json_to_record(row_to_json(c)) AS x(name text)",
        "SELECT (SELECT * FROM (SELECT name FROM customers LIMIT 1) c)",
        "SELECT ARRAY(SELECT s.* FROM (SELECT c.name FROM customers c) s)",
        "SELECT (SELECT c FROM customers c LIMIT 1)::text",
        "SELECT (SELECT ROW(c.*) FROM customers c LIMIT 1)::text",
        "SELECT json_agg(c.*) FROM customers c",
        "SELECT max(q.r::text) FROM (SELECT ROW(c.*) r FROM customers c) q",
        "SELECT q.upper FROM (SELECT upper(name) FROM customers) q",
        "SELECT q.x FROM (SELECT 'a' AS x UNION ALL SELECT name FROM customers) q",
        "WITH q AS (SELECT name || '' FROM customers) SELECT \"?column?\" FROM q",
        "SELECT column1 FROM (VALUES ((SELECT name FROM customers LIMIT 1))) v",
        "SELECT l.l FROM customers c, lower(c.name) l",
        "SELECT u.u FROM unnest(ARRAY(SELECT name FROM customers)) u",
        "SELECT x.a FROM customers c, json_to_record(json_build_object('a', c.name)) x(a text)",
        "SELECT (SELECT * FROM people_names LIMIT 1) || ''",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, plainto_tsquery(''simple'', name) FROM customers WHERE id = 1')",
    ] {
        let mut wire = relay.wire().expect("session");
        let answer = wire.query(sql).expect("asked");
        let shown = ["lovelace", "turing"];
        if shown
            .iter()
            .any(|name| answer.to_ascii_lowercase().contains(name))
        {
            seen.push_str(&format!("{sql}: {answer}\n"));
        }
    }
    assert_eq!(seen, "");
}
