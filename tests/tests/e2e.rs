//! End to end: real clients, a real database, a real issuer, the agent around a command.
#![expect(
    clippy::expect_used,
    clippy::string_slice,
    reason = "in a test, that is the failure"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use interdict_tests::world::{kinds, world};
use interdict_tests::{python, tool};
use serde_json::Value;

#[test]
fn reads_are_masked_whatever_the_alias() {
    let Some(w) = world("reads_are_masked", "") else {
        return;
    };
    let sql = "SELECT name AS x, upper(name), email e, card, phone, notes FROM customers WHERE id = 1";
    let seen = w.agent.psql(Some(&w.alice), sql).expect("run");
    assert_eq!(seen.status, 0, "{}", seen.err);
    let row = "[pii.name]|[pii.name]|a***@e***.com|**** **** **** 1111|+* ***-***-****|{\"iban\": \"******************5432\"}";
    assert_eq!(seen.out.trim(), row);
    let other = [
        ("SELECT c FROM customers c WHERE id = 1", "Lovelace"),
        ("SELECT row_to_json(c) FROM customers c", "Lovelace"),
        ("SELECT who FROM people", "Ada"),
        ("SELECT y FROM (SELECT name || '!' AS y FROM customers) s", "Ada"),
        ("SELECT string_agg(name, ',') FROM customers", "Ada"),
        ("SELECT x FROM customers AS c(a, x)", "Ada"),
        (
            "INSERT INTO customers VALUES (3, 'Grace Hopper', 'ada@example.com') RETURNING name",
            "Hopper",
        ),
        (
            "INSERT INTO customers VALUES (4, 'x', 'ada@example.com')",
            "ada@example.com",
        ),
        ("SELECT name::int FROM customers", "Lovelace"),
    ];
    for (sql, secret) in other {
        let seen = w.agent.psql(Some(&w.alice), sql).expect("run");
        assert!(
            !seen.out.contains(secret) && !seen.err.contains(secret),
            "{sql}\n{}{}",
            seen.out,
            seen.err
        );
    }
    // A process beside it sees the database as it is, and is not recorded.
    assert!(
        w.database
            .direct("shop", "SELECT name FROM customers WHERE id = 1")
            .expect("direct")
            .contains("Ada")
    );
    let records = w.agent.records().expect("records");
    let first = kinds(&records, "operation")
        .find(|r| r["actions"][0] == "sql.select")
        .expect("recorded");
    assert_eq!(first["principal"], "corp/alice");
    assert_eq!(first["original"], format!("127.0.0.1:{}", w.database.port));
    assert!(
        first["exe"].as_str().is_some_and(|exe| exe.contains("psql")),
        "{first}"
    );
    assert!(first["pid"].as_u64().is_some_and(|pid| pid > 1));
    let text: String = records.iter().map(ToString::to_string).collect();
    for secret in ["Lovelace", "4111 1111", "ada@example.com", "the-real-secret"] {
        assert!(!text.contains(secret), "{secret} is in the records");
    }
    let masked = kinds(&records, "outcome").any(|r| r["masked"]["pci.card"] == 1 && r["rows"] == 1);
    assert!(masked, "what was masked is counted");
    w.agent.verify().expect("verified");
}

#[test]
fn what_is_forbidden_does_not_happen() {
    let Some(w) = world("what_is_forbidden", "") else {
        return;
    };
    let denied = w.agent.psql(Some(&w.alice), "DROP TABLE orders").expect("run");
    assert_ne!(denied.status, 0);
    for part in ["42501", "prod-no-drop", "DROP and TRUNCATE are not done"] {
        assert!(denied.err.contains(part), "{}", denied.err);
    }
    // In a script, and after a write in a transaction: nothing of it stays.
    for sql in [
        "INSERT INTO orders VALUES (1000, 1, 1); DROP TABLE orders",
        "BEGIN; INSERT INTO orders VALUES (1001, 1, 1); DROP TABLE orders; COMMIT",
        "SELECT pg_terminate_backend(1)",
        "COPY customers TO STDOUT",
        "SET standard_conforming_strings = off",
        "SELEC 1",
    ] {
        let denied = w.agent.psql(Some(&w.alice), sql).expect("run");
        assert_ne!(denied.status, 0, "{sql}: {}", denied.out);
    }
    let steps = "BEGIN;\nINSERT INTO orders VALUES (1002, 1, 1);\nDROP TABLE orders;\nCOMMIT;\n";
    let mut psql = w
        .agent
        .start(Some(&w.alice), &["psql", "-X", "-q"])
        .expect("started");
    psql.stdin
        .take()
        .expect("stdin")
        .write_all(steps.as_bytes())
        .expect("written");
    psql.wait().expect("ended");
    // A workload without an identity may read only.
    assert_ne!(
        w.agent
            .psql(None, "INSERT INTO orders VALUES (1003, 1, 1)")
            .expect("run")
            .status,
        0
    );
    assert_eq!(w.agent.psql(None, "SELECT 1").expect("run").out.trim(), "1");
    assert_eq!(
        w.database
            .direct("shop", "SELECT count(*) FROM orders")
            .expect("direct"),
        "100"
    );
    let log = w.database.log().expect("log");
    assert!(!log.contains("DROP TABLE"), "it reached the server:\n{log}");
    let records = w.agent.records().expect("records");
    assert!(
        kinds(&records, "operation").any(|r| r["verdict"] == "refused" && r["policies"][0] == "prod-no-drop")
    );
}

#[test]
fn what_needs_consent_waits_for_it() {
    let Some(w) = world("what_needs_consent", "[approval]\nhold = \"20s\"\n") else {
        return;
    };
    let sql = "UPDATE orders SET total = total + 1";
    let held = w
        .agent
        .start(Some(&w.alice), &["psql", "-X", "-At", "-c", sql])
        .expect("started");
    let dora = w.dora.display().to_string();
    let ticket = wait_for("a request", || {
        let listed = w
            .agent
            .interdict(&["approvals", "list", "--json", "--token-file", &dora])
            .expect("listed");
        let request: Value = serde_json::from_str(listed.out.lines().next()?).ok()?;
        (request["state"] == "open").then(|| request["ticket"].as_str().map(str::to_owned))?
    });
    // Never one's own, and never without a token.
    let alice = w.alice.display().to_string();
    let own = w
        .agent
        .interdict(&["approvals", "approve", &ticket, "--token-file", &alice])
        .expect("asked");
    assert!(
        own.status == 1 && own.err.contains("your own request"),
        "{}",
        own.err
    );
    assert_eq!(
        w.agent
            .interdict(&["approvals", "approve", &ticket])
            .expect("asked")
            .status,
        1
    );
    let approved = w
        .agent
        .interdict(&["approvals", "approve", &ticket, "--token-file", &dora])
        .expect("asked");
    assert_eq!(approved.status, 0, "{}", approved.err);
    let done = held.wait_with_output().expect("ended");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(
        w.database
            .direct("shop", "SELECT sum(total) FROM orders")
            .expect("direct"),
        "50600"
    );
    let records = w.agent.records().expect("records");
    for step in [
        "approval.requested",
        "approval.rejected",
        "approval.approved",
        "approval.used",
    ] {
        assert!(
            kinds(&records, step).any(|r| r["ticket"] == ticket.as_str()),
            "{step}"
        );
    }
    let gone =
        kinds(&records, "operation").find(|r| r["verdict"] == "allowed" && r["ticket"] == ticket.as_str());
    assert!(gone.is_some(), "the consent is in the record of what it allowed");
    w.agent.verify().expect("verified");
}

#[test]
fn a_ticket_is_good_for_the_same_statement_once_and_survives_the_agent() {
    let Some(w) = world("a_ticket", "[approval]\nhold = \"0s\"\n") else {
        return;
    };
    let sql = "DELETE FROM orders";
    let first = w.agent.psql(Some(&w.alice), sql).expect("run");
    let at = first.err.find("apr-").expect("a ticket");
    let ticket = &first.err[at..at + 10];
    // The agent that asked is gone: another one decides.
    let idle = w.agent.start(Some(&w.alice), &["sleep", "60"]).expect("started");
    let dora = w.dora.display().to_string();
    wait_for("the approval", || {
        let approved = w
            .agent
            .interdict(&["approvals", "approve", ticket, "--token-file", &dora])
            .expect("asked");
        (approved.status == 0).then_some(())
    });
    let other = w
        .agent
        .psql(Some(&w.alice), "DELETE FROM customers")
        .expect("run");
    assert_ne!(other.status, 0, "another statement needs its own");
    let again = w.agent.psql(Some(&w.alice), sql).expect("run");
    assert_eq!(again.status, 0, "{}", again.err);
    assert_eq!(
        w.database
            .direct("shop", "SELECT count(*) FROM orders")
            .expect("direct"),
        "0"
    );
    assert_ne!(w.agent.psql(Some(&w.alice), sql).expect("run").status, 0, "once");
    end(idle);
}

#[test]
fn drivers_work_unchanged() {
    let Some(w) = world("drivers_work_unchanged", "") else {
        return;
    };
    let agent = w.agent.as_caller();
    let script = r#"
import psycopg
with psycopg.connect("sslmode=verify-full") as c:
    cur = c.execute("SELECT id, name, card FROM customers WHERE id = %s", (1,), prepare=True)
    print(cur.fetchall())
    cur = c.cursor(binary=True)
    print(cur.execute("SELECT name, id::int8 * 4111111111111111 AS n, email FROM customers WHERE id = %s", (1,)).fetchall())
    c.rollback()
    try:
        with c.pipeline():
            c.execute("INSERT INTO orders VALUES (2000, 1, 1)")
            c.execute("DROP TABLE orders")
            c.execute("INSERT INTO orders VALUES (2001, 1, 1)")
    except psycopg.errors.InsufficientPrivilege as e:
        print("denied", e.sqlstate)
    c.rollback()
    print(c.execute("SELECT count(*) FROM orders").fetchone())
"#;
    let python = python().display().to_string();
    let seen = agent.run(Some(&w.alice), &[&python, "-c", script]).expect("run");
    let expected = "[(1, '[pii.name]', '**** **** **** 1111')]\n[('[pii.name]', None, 'a***@e***.com')]\ndenied 42501\n(100,)\n";
    assert_eq!(seen.out, expected, "{}", seen.err);
    let script = "const {Client} = require(process.argv[1]);
        (async () => { const c = new Client({ssl: {}}); await c.connect();
        console.log((await c.query('SELECT name, email FROM customers WHERE id = $1', [2])).rows[0]);
        await c.query('DROP TABLE orders').catch(e => console.log(e.code)); await c.end(); })();";
    let pg = tool("node/node_modules/pg").display().to_string();
    let seen = agent
        .run(Some(&w.alice), &["node", "-e", script, &pg])
        .expect("run");
    assert_eq!(
        seen.out, "{ name: '[pii.name]', email: 'a***@e***.org' }\n42501\n",
        "{}",
        seen.err
    );
    w.database.direct("shop", "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, abalance int); INSERT INTO pgbench_accounts SELECT g, 0 FROM generate_series(1, 1000) g").expect("direct");
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("select.sql");
    std::fs::write(
        &file,
        "\\set aid random(1, 1000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n",
    )
    .expect("written");
    for mode in ["simple", "extended", "prepared"] {
        let file = file.display().to_string();
        let seen = agent
            .run(
                Some(&w.alice),
                &["pgbench", "-n", "-M", mode, "-c", "4", "-t", "50", "-f", &file],
            )
            .expect("run");
        assert!(
            seen.out.contains("transactions actually processed: 200/200"),
            "{mode}: {}{}",
            seen.out,
            seen.err
        );
    }
}

#[test]
fn nothing_else_is_reached() {
    let Some(w) = world("nothing_else_is_reached", "") else {
        return;
    };
    let agent = w.agent.as_caller();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let six = std::net::TcpListener::bind("[::1]:0").expect("listener");
    let ports = (
        listener.local_addr().expect("address").port(),
        six.local_addr().expect("address").port(),
    );
    let script = format!(
        r#"
import socket, errno
def attempt(name, f):
    try:
        print(name, f() or "open")
    except OSError as e:
        code = errno.errorcode.get(e.errno, e.errno)
        # What the kernel itself denies before the hook (ping sockets, by default) is denied too.
        print(name, "denied" if code in ("EPERM", "EACCES") else code)
def talk(family, address, kind=socket.SOCK_STREAM, proto=0):
    s = socket.socket(family, kind, proto)
    s.settimeout(10)
    s.connect(address)
    s.send(b"x")
    return s.recv(1).decode() or "closed"
attempt("tcp4", lambda: talk(socket.AF_INET, ("127.0.0.1", {0})))
attempt("tcp6", lambda: talk(socket.AF_INET6, ("::1", {1})))
attempt("mapped", lambda: talk(socket.AF_INET6, ("::ffff:127.0.0.1", {0})))
attempt("udp", lambda: talk(socket.AF_INET, ("127.0.0.1", 9), socket.SOCK_DGRAM))
attempt("udp sendto", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)) and None)
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and None)
attempt("ping", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1) and None)
attempt("mptcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) and None)
"#,
        ports.0, ports.1
    );
    let python = python().display().to_string();
    let seen = agent.run(Some(&w.alice), &[&python, "-c", &script]).expect("run");
    let expected = "tcp4 ECONNRESET\ntcp6 ECONNRESET\nmapped ECONNRESET\nudp denied\nudp sendto denied\nraw denied\nping denied\nmptcp denied\n";
    assert_eq!(seen.out, expected, "{}", seen.err);
    listener.set_nonblocking(true).expect("non-blocking");
    assert!(listener.accept().is_err(), "nobody came through");
    let records = agent.records().expect("records");
    let meant: Vec<&Value> = kinds(&records, "operation")
        .filter(|r| r["actions"][0] == "connect")
        .map(|r| &r["original"])
        .collect();
    let (four, six) = (format!("127.0.0.1:{}", ports.0), format!("[::1]:{}", ports.1));
    assert_eq!(
        meant,
        [&Value::from(four.clone()), &Value::from(six), &Value::from(four)]
    );
    let denied: Vec<&Value> = kinds(&records, "kernel.denied").map(|r| &r["detail"]).collect();
    assert!(
        denied.len() >= 4 && denied.iter().take(2).eq(&["connect", "sendmsg"]),
        "{denied:?}"
    );
    assert!(
        denied.iter().skip(2).all(|hook| **hook == "sock_create"),
        "{denied:?}"
    );
}

#[test]
fn the_command_is_the_users_own() {
    let Some(w) = world("the_command_is_the_users_own", "") else {
        return;
    };
    assert_eq!(w.agent.run(None, &["sh", "-c", "exit 7"]).expect("run").status, 7);
    assert_eq!(w.agent.run(None, &["no-such-command"]).expect("run").status, 127);
    assert_eq!(w.agent.run(None, &["/etc/passwd"]).expect("run").status, 126);
    let id = w
        .agent
        .run(
            None,
            &[
                "sh",
                "-c",
                "id -un; id -u; grep NoNewPrivs /proc/self/status; ls /proc/self/fd",
            ],
        )
        .expect("run");
    assert_eq!(
        id.out, "nobody\n65534\nNoNewPrivs:\t1\n0\n1\n2\n3\n",
        "{}",
        id.err
    );
    let mut echo = w.agent.start(None, &["cat"]).expect("started");
    echo.stdin
        .take()
        .expect("stdin")
        .write_all(b"{\"jsonrpc\":\"2.0\"}\n")
        .expect("written");
    assert_eq!(
        echo.wait_with_output().expect("ended").stdout,
        b"{\"jsonrpc\":\"2.0\"}\n"
    );
    // Signals are forwarded; children that are left are waited for.
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = w.agent.start(None, &["sh", "-c", script]).expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    signal(child.id(), "TERM");
    assert_eq!(lines.next().expect("a line").expect("text"), "caught");
    assert_eq!(child.wait().expect("ended").code(), Some(9));
    let begun = Instant::now();
    assert_eq!(
        w.agent
            .run(None, &["sh", "-c", "sleep 2 & exit 0"])
            .expect("run")
            .status,
        0
    );
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "the agent ends with the last process"
    );
}

#[test]
fn an_identity_ends_with_its_token() {
    let Some(w) = world("an_identity_ends", "") else {
        return;
    };
    let mut config =
        std::fs::read_to_string(w.agent.state().with_file_name("interdict.toml")).expect("config");
    config = config.replace(
        "audience = [\"interdict\"]",
        "audience = [\"interdict\"]\nskew = \"0s\"",
    );
    std::fs::write(w.agent.state().with_file_name("interdict.toml"), config).expect("written");
    let short = w
        .agent
        .token("short", &w.issuer.token("alice", &[], 3))
        .expect("token");
    let mut psql = w
        .agent
        .start(Some(&short), &["psql", "-X", "-At"])
        .expect("started");
    let mut typed = psql.stdin.take().expect("stdin");
    let mut shown = BufReader::new(psql.stdout.take().expect("stdout")).lines();
    typed.write_all(b"SELECT 'before';\n").expect("written");
    assert_eq!(shown.next().expect("a line").expect("text"), "before");
    wait_for("the end of the token", || {
        let records = w.agent.records().expect("records");
        let ended = kinds(&records, "identity.ended").next().is_some();
        ended.then_some(())
    });
    let records = w.agent.records().expect("records");
    assert!(
        kinds(&records, "identity.ended")
            .all(|r| r["reason"].as_str().is_some_and(|t| t.contains("corp/alice")))
    );
    typed.write_all(b"SELECT 'after';\n").expect("written");
    drop(typed);
    let rest = psql.wait_with_output().expect("ended");
    let err = String::from_utf8_lossy(&rest.stderr).into_owned();
    assert!(
        err.contains("ended at") && err.contains("Put a new one into"),
        "{err}"
    );
    assert!(shown.next().is_none());
    let expired = w.agent.psql(Some(&short), "SELECT 1").expect("run");
    assert!(
        expired.status == 1 && expired.err.contains("has ended"),
        "{}",
        expired.err
    );
}

#[test]
fn a_statement_can_be_cancelled() {
    let Some(w) = world("a_statement_can_be_cancelled", "[approval]\nhold = \"60s\"\n") else {
        return;
    };
    for sql in ["SELECT pg_sleep(60)", "DELETE FROM orders"] {
        let begun = Instant::now();
        let child = w
            .agent
            .start(Some(&w.alice), &["psql", "-X", "-At", "-c", sql])
            .expect("started");
        wait_for("the statement", || {
            let records = w.agent.records().ok()?;
            kinds(&records, "operation")
                .any(|r| r["text"] == sql)
                .then_some(())
        });
        signal(child.id(), "INT");
        let seen = child.wait_with_output().expect("ended");
        let err = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(err.to_lowercase().contains("cancel"), "{sql}: {err}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{sql}");
    }
    assert_eq!(
        w.database
            .direct("shop", "SELECT count(*) FROM orders")
            .expect("direct"),
        "100"
    );
}

/// Looks until there is something to see, at most half a minute.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
}

/// Ends a governed command that would go on.
fn end(mut child: std::process::Child) {
    signal(child.id(), "TERM");
    child.wait().expect("ended");
}
