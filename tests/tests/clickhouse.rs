//! Records in ClickHouse, exactly once, whatever happens on the way. The engine is ClickHouse's own (chdb) behind a small
//! HTTP adapter with faults on demand: a current server is not to be had from a package registry.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interdict_tests::{Agent, Oidc, Postgres, can_govern, python, tools::repository};

/// A running adapter.
struct ClickHouse {
    child: Child,
    port: u16,
}

impl ClickHouse {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(python());
        command
            .arg(repository().join("tests/adapters/chdb_http.py"))
            .arg(dir.join("clickhouse"));
        command.arg(repository().join("deploy/clickhouse/001-records.sql"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the adapter");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("a port");
        Self {
            child,
            port: line.trim().parse().expect("a port"),
        }
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

    fn count(&self, what: &str) -> String {
        self.get(&format!("/count?query=SELECT+{what}+FROM+interdict.records"))
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn every_record_is_there_exactly_once() {
    if !can_govern("every_record_is_there_exactly_once") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let database = Postgres::start(dir.path()).expect("PostgreSQL");
    let issuer = Oidc::start().expect("issuer");
    let clickhouse = ClickHouse::start(dir.path());
    let more = format!(
        "[audit.clickhouse]\nurl = \"http://127.0.0.1:{}\"\nbatch_records = 7\nbatch_age = \"50ms\"\n",
        clickhouse.port
    );
    let agent = Agent::new(dir.path(), &database, &issuer, &more).expect("agent");
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let load = || {
        let sql = "SELECT email, card FROM customers".to_owned();
        let mut words = vec!["psql".to_owned(), "-X".into(), "-q".into()];
        for _ in 0..30 {
            words.extend(["-c".to_owned(), sql.clone()]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let seen = agent.run(Some(&alice), &words).expect("run");
        assert_eq!(seen.status, 0, "{}", seen.err);
    };
    load();
    // The server commits and the answer is lost; then it is away for a while, longer than the run.
    clickhouse.fault("drop", 3);
    load();
    clickhouse.fault("refuse", 1_000_000);
    load();
    clickhouse.fault("none", 0);
    load();
    let expected = agent.records().expect("records").len().to_string();
    let deadline = Instant::now() + Duration::from_secs(30);
    while clickhouse.count("count()") != expected && Instant::now() < deadline {
        let idle = agent.run(None, &["sleep", "1"]).expect("run");
        assert_eq!(idle.status, 0);
        let now = agent.records().expect("records").len().to_string();
        if clickhouse.count("count()") == now {
            break;
        }
    }
    let local = agent.records().expect("records");
    assert_eq!(clickhouse.count("count()"), local.len().to_string());
    assert_eq!(clickhouse.count("uniqExact(boot,seq)"), local.len().to_string());
    let alices = local.iter().filter(|r| r["principal"] == "corp/alice").count();
    assert_eq!(
        clickhouse.count("countIf(principal='corp/alice')"),
        alices.to_string()
    );
    let masked = local
        .iter()
        .filter_map(|r| r["masked"]["pci.card"].as_u64())
        .sum::<u64>();
    assert_eq!(clickhouse.count("sum(masked['pci.card'])"), masked.to_string());
    assert_ne!(
        clickhouse.get("/count?query=SELECT+count()+FROM+interdict.checkpoints"),
        "0"
    );
}
