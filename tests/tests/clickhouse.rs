//! Records in ClickHouse, exactly once, whatever happens on the way. The engine is ClickHouse's own (chdb) behind a small
//! HTTP adapter with faults on demand: a current server is not to be had from a package registry.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interdict_tests::{Agent, Ended, Oidc, Postgres, can_govern, python, tools::repository};
use serde_json::Value;

/// A running adapter; it can be stopped and started again with what it has.
struct ClickHouse {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl ClickHouse {
    fn start(dir: &Path) -> Self {
        let dir = dir.join("clickhouse");
        let (child, port) = Self::spawn(&dir, 0);
        Self { child, dir, port }
    }

    fn spawn(dir: &Path, port: u16) -> (Child, u16) {
        let mut command = Command::new(python());
        command
            .arg(repository().join("tests/adapters/chdb_http.py"))
            .arg(dir);
        command
            .arg(repository().join("deploy/clickhouse/001-records.sql"))
            .arg(port.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the adapter");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("a port");
        (child, line.trim().parse().expect("a port"))
    }

    /// Ends it in the middle of whatever it does.
    fn kill(&mut self) {
        self.child.kill().expect("ended");
        self.child.wait().expect("ended");
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.dir, self.port).0;
        self.only_insert();
    }

    /// The grants of `002-access.sql`, as a server would answer for them.
    fn only_insert(&self) {
        self.get("/rights?of=interdict&only=INSERT");
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the adapter");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
            .split("\r\n\r\n")
            .nth(1)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    fn fault(&self, kind: &str, times: u32) {
        self.get(&format!("/fault?kind={kind}&times={times}"));
    }

    fn query(&self, sql: &str) -> String {
        let escaped: String = sql
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        self.get(&format!("/count?query={escaped}"))
    }

    fn count(&self, what: &str) -> String {
        self.query(&format!("SELECT {what} FROM interdict.records"))
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

struct World {
    clickhouse: ClickHouse,
    _database: Postgres,
    _issuer: Oidc,
    agent: Agent,
    alice: PathBuf,
    dir: tempfile::TempDir,
}

fn world(test: &str) -> Option<World> {
    if !can_govern(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let database = Postgres::start(dir.path()).expect("PostgreSQL");
    let issuer = Oidc::start().expect("issuer");
    let clickhouse = ClickHouse::start(dir.path());
    clickhouse.only_insert();
    let more = format!(
        "[audit.clickhouse]\nurl = \"http://127.0.0.1:{}\"\nuser = \"interdict\"\nbatch_records = 40\nbatch_age = \"50ms\"\n",
        clickhouse.port
    );
    let agent = Agent::new(dir.path(), &database, &issuer, &more).expect("agent");
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    Some(World {
        clickhouse,
        _database: database,
        _issuer: issuer,
        agent,
        alice,
        dir,
    })
}

impl World {
    /// Runs until everything is there, and verifies it.
    fn drained(&self) {
        let deadline = Instant::now() + Duration::from_secs(60) + outage();
        loop {
            let idle = self.agent.run(None, &["sleep", "1"]).expect("run");
            assert_eq!(idle.status, 0, "{}", idle.err);
            let local = self.agent.records().expect("records").len().to_string();
            if self.clickhouse.count("count()") == local {
                return;
            }
            assert!(Instant::now() < deadline, "records stay behind");
        }
    }

    fn verify_sink(&self) -> (Ended, Value) {
        let config = self.dir.path().join("agent/interdict.toml");
        let config = config.display().to_string();
        let words = [
            "audit",
            "verify-sink",
            "--config",
            &config,
            "--user",
            "auditor",
            "--json",
        ];
        let seen = self.agent.interdict(&words).expect("run");
        let told = serde_json::from_str(&seen.out).unwrap_or_default();
        (seen, told)
    }
}

/// How long the server is away: a minute by the clock in a full run.
fn outage() -> Duration {
    if std::env::var_os("INTERDICT_FULL").is_some_and(|full| full == "1") {
        Duration::from_secs(60)
    } else {
        Duration::from_secs(4)
    }
}

#[test]
fn every_record_is_there_exactly_once() {
    let Some(mut w) = world("every_record_is_there_exactly_once") else {
        return;
    };
    // Load that goes on through everything that follows.
    let stop = w.dir.path().join("stop");
    let script = format!(
        "while [ ! -e {} ]; do echo 'SELECT email, card FROM customers;'; sleep 0.01; done | psql -X -q -v ON_ERROR_STOP=1 >/dev/null",
        stop.display()
    );
    let load = w.agent.start(Some(&w.alice), &["sh", "-ec", &script]);
    let load = load.expect("started");
    let there = |w: &World| w.clickhouse.count("count()").parse::<u64>().expect("a number");
    wait_for("the first records", || (there(&w) > 20).then_some(()));
    // The server commits and the answer is lost; then it says that it cannot; then it is gone in the middle of its work.
    w.clickhouse.fault("drop", 5);
    let before = there(&w);
    wait_for("more records", || (there(&w) > before + 50).then_some(()));
    w.clickhouse.fault("refuse", 5);
    let before = there(&w);
    wait_for("more records", || (there(&w) > before + 20).then_some(()));
    w.clickhouse.kill();
    let recorded = w.agent.records().expect("records").len();
    let away = Instant::now();
    while away.elapsed() < outage() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let meanwhile = w.agent.records().expect("records").len();
    assert!(
        meanwhile > recorded + 50,
        "the load went on: {recorded} to {meanwhile}"
    );
    w.clickhouse.start_again();
    w.clickhouse.fault("drop", 3);
    std::fs::write(&stop, "").expect("stopped");
    let ended = load.wait_with_output().expect("ended");
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    w.drained();

    let local = w.agent.records().expect("records");
    assert_eq!(w.clickhouse.count("count()"), local.len().to_string());
    assert_eq!(w.clickhouse.count("uniqExact(boot,seq)"), local.len().to_string());
    let alices = local.iter().filter(|r| r["principal"] == "corp/alice").count();
    assert_eq!(
        w.clickhouse.count("countIf(principal='corp/alice')"),
        alices.to_string()
    );
    let masked = local
        .iter()
        .filter_map(|r| r["masked"]["pci.card"].as_u64())
        .sum::<u64>();
    assert_eq!(w.clickhouse.count("sum(masked['pci.card'])"), masked.to_string());
    let (seen, told) = w.verify_sink();
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    assert_eq!(told["records"], local.len());
    assert_eq!(told["rights_checked"], true);
    assert!(told["seals"].as_u64().is_some_and(|seals| seals > 0), "{told}");
}

#[test]
fn what_was_changed_there_is_found() {
    let Some(w) = world("what_was_changed_there_is_found") else {
        return;
    };
    let sql = "SELECT name, 'it''s ünïcode\t\\' FROM customers WHERE id = 1";
    let words = ["psql", "-X", "-q", "-c", sql, "-c", "DROP TABLE orders"];
    w.agent.run(Some(&w.alice), &words).expect("run");
    w.drained();
    let (seen, told) = w.verify_sink();
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    assert_eq!(told["findings"], Value::Array(Vec::new()));
    let boot = w.clickhouse.count("argMin(boot, ts_ns)");
    let select = format!("SELECT max(seq) FROM interdict.records WHERE boot = '{boot}'");
    let last = w.clickhouse.query(&select);
    let changes = [
        format!("ALTER TABLE interdict.records UPDATE verdict = 'allowed' WHERE boot = '{boot}' AND verdict = 'refused' SETTINGS mutations_sync = 2"),
        format!("ALTER TABLE interdict.records DELETE WHERE boot = '{boot}' AND seq = 2 SETTINGS mutations_sync = 2"),
        format!("INSERT INTO interdict.records SELECT * FROM interdict.records WHERE boot = '{boot}' AND seq = {last}"),
        "ALTER TABLE interdict.checkpoints UPDATE signature = 'other' WHERE first = 1 SETTINGS mutations_sync = 2".to_owned(),
    ];
    for change in &changes {
        w.clickhouse.query(change);
    }
    w.clickhouse
        .get("/rights?of=interdict&only=INSERT,SELECT,TRUNCATE");
    let (seen, told) = w.verify_sink();
    assert_eq!(seen.status, 1, "{}{}", seen.out, seen.err);
    let found = told["findings"].to_string();
    for part in [
        "record 2 is missing",
        "is not as the log has it",
        &format!("record {last} is there 2 times"),
        "its seal is not as the log has it",
        "interdict can read it",
        "interdict has TRUNCATE on it",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}
