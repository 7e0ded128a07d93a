//! Distributed traces: an instrumented client, the agent and a target in one trace, read by OpenTelemetry's own schema.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interdict_tests::service::{Cgroups, Manager};
use interdict_tests::tools::{can_trace, repository};
use interdict_tests::world::{World, kinds, world};
use interdict_tests::{Agent, HttpTarget, Oidc, can_govern, can_serve_http, tool};
use rustix::process::Signal;
use serde_json::Value;

fn otel() -> PathBuf {
    tool("otel/venv/bin/python")
}

/// OpenTelemetry's own schema behind an HTTP server.
struct Collector {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        // What is gone already needs no stopping.
        drop((self.child.kill(), self.child.wait()));
    }
}

impl Collector {
    fn start(dir: &Path) -> Self {
        std::fs::write(dir.join("mood"), "ok").expect("written");
        std::fs::write(dir.join("headers"), "Authorization: Bearer of-the-collector\n").expect("written");
        let mut child = Command::new(otel())
            .arg(repository().join("tests/adapters/otlp_collector.py"))
            .args([dir.join("spans"), dir.join("mood")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("collector");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its port");
        Self {
            child,
            port: line.trim().parse().expect("a port"),
            dir: dir.to_owned(),
        }
    }

    fn config(&self) -> String {
        format!(
            "[telemetry.traces]\nendpoint = \"http://127.0.0.1:{}\"\nheaders_file = \"{}\"\n",
            self.port,
            self.dir.join("headers").display()
        )
    }

    /// What was taken until now.
    fn spans(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("spans")).unwrap_or_default();
        let read = |line: &str| serde_json::from_str(line).expect("a span");
        text.lines().map(read).collect()
    }
}

fn with_attribute<'a>(spans: &'a [Value], name: &str, value: &str) -> Option<&'a Value> {
    spans.iter().find(|span| span["attributes"][name] == value)
}

/// An HTTP target and an agent that sends spans to a collector, whose configuration ends with `more`.
struct Http {
    // In the order of dropping: the servers before their directory.
    target: HttpTarget,
    agent: Agent,
    alice: PathBuf,
    _dir: tempfile::TempDir,
}

fn http(test: &str, traces: impl FnOnce(&Path) -> String) -> Option<Http> {
    if !can_govern(test) || !can_serve_http(test) || !can_trace(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = HttpTarget::start(dir.path()).expect("target");
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[approval]\nhold = \"0s\"\n[[target]]\nname = \"api\"\nprotocol = \"http\"\nenvironment = \"prod\"\n\
         addresses = [\"localhost:{}\"]\nca_file = \"{}\"\n{}",
        target.tls,
        target.ca().display(),
        traces(dir.path())
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    Some(Http {
        target,
        agent,
        alice,
        _dir: dir,
    })
}

/// One request: the client's span, the agent's and what the target heard fit together.
fn fits(call: &Value, asked: &Value, spans: &[Value]) {
    let mine = spans
        .iter()
        .find(|span| span["parent"] == call["span"])
        .expect("a span whose parent is the client's");
    assert_eq!(mine["trace"], call["trace"]);
    let told = format!(
        "00-{}-{}-",
        call["trace"].as_str().expect("text"),
        mine["span"].as_str().expect("text")
    );
    let seen = asked["headers"]["traceparent"].as_str().unwrap_or_default();
    assert!(seen.starts_with(&told), "{seen} is not {told}");
    let about = &mine["attributes"];
    assert_eq!(about["http.request.method"], "GET");
    assert_eq!(about["http.response.status_code"], 200);
    assert_eq!(about["server.address"], "localhost");
    assert_eq!(about["user.id"], "corp/alice");
    assert_eq!(about["interdict.verdict"], "allowed");
    assert!(
        about["interdict.policy.ids"]
            .as_array()
            .is_some_and(|ids| !ids.is_empty())
    );
    assert_eq!(
        (&mine["name"], &mine["kind"]),
        (&Value::from("GET"), &Value::from(3))
    );
    assert_eq!(mine["error"], false);
    // What is remote, and sampled.
    assert_eq!(mine["flags"].as_u64().map(|flags| flags & 0x301), Some(0x301));
    // The session is linked, and a span of its own.
    let session = &mine["links"][0];
    assert!(
        spans
            .iter()
            .any(|s| s["trace"] == session[0] && s["span"] == session[1] && s["parent"] == ""),
        "{spans:?}"
    );
    assert_eq!(mine["resource"]["service.name"], "interdict");
    // The record has the same reference.
    let id = about["interdict.operation.id"]
        .as_str()
        .expect("text")
        .replace('-', "");
    assert!(id.ends_with(mine["span"].as_str().expect("text")));
}

/// The client's span is the parent of the agent's, which is the parent that the target is told; and nothing is in it that a
/// record would not show.
#[test]
fn client_agent_and_target_stand_in_one_trace() {
    let mut collector = None;
    let Some(w) = http("client_agent_and_target", |dir| {
        collector.insert(Collector::start(dir)).config()
    }) else {
        return;
    };
    let collector = collector.expect("started");
    let url = format!("https://localhost:{}", w.target.tls);
    let python = otel().display().to_string();
    let client = repository()
        .join("tests/adapters/otel_client.py")
        .display()
        .to_string();
    let secret = format!("{url}/people/ada@example.com?token=s3cret-s3cret");
    let run = |sampled: &str, urls: &[&str]| {
        let command = [&[python.as_str(), &client, sampled], urls].concat();
        let seen = w.agent.run(Some(&w.alice), &command).expect("run");
        assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
        let read = |line: &str| serde_json::from_str::<Value>(line).expect("a line");
        seen.out.lines().map(read).collect::<Vec<_>>()
    };
    let called = run("on", &[&secret, &format!("{url}/people/7")]);
    let spans = collector.spans();
    let asked = w.target.log().expect("log");
    for (call, asked) in called.iter().zip(&asked) {
        fits(call, asked, &spans);
    }
    for span in &spans {
        let raw = span["raw"].as_str().expect("text");
        assert!(
            !raw.contains("ada@example.com") && !raw.contains("s3cret"),
            "{raw}"
        );
    }
    // Who does not keep its trace is told to everybody: no span of the agent's, and the process's own words go on.
    let before = collector.spans().len();
    run("off", &[&format!("{url}/people/7")]);
    let asked = w.target.log().expect("log");
    let last = asked.last().and_then(|a| a["headers"]["traceparent"].as_str());
    // The lowest bit of the flags; the next one only says that the trace's id is random.
    let unsampled = |parent: &str| parent.ends_with("-00") || parent.ends_with("-02");
    assert!(last.is_some_and(unsampled), "{last:?}");
    let later = collector.spans();
    let calls = later
        .iter()
        .skip(before)
        .filter(|span| span["kind"] == 3 && span["name"] == "GET");
    assert_eq!(calls.count(), 0, "{later:?}");
    // Without a trace of the process's there is one that begins here, and the target hears of none.
    let seen = w.agent.run(
        Some(&w.alice),
        &["curl", "-sS", "-X", "DELETE", &format!("{url}/people/7")],
    );
    assert!(seen.expect("run").out.contains("pending_approval"));
    let spans = collector.spans();
    let held = with_attribute(&spans, "http.request.method", "DELETE").expect("a span");
    assert_eq!(
        (&held["parent"], &held["error"]),
        (&Value::from(""), &Value::from(true))
    );
    assert_eq!(held["attributes"]["error.type"], "pending_approval");
    assert_eq!(held["events"][0], "held for approval");
    assert!(held["attributes"]["interdict.approval.ticket"].is_string());
}

/// Statements of SQL, each by its kind and table; what is refused is an error.
#[test]
fn statements_are_spans_of_their_own() {
    if !can_trace("statements_are_spans") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let collector = Collector::start(dir.path());
    let Some(w) = world("statements_are_spans", &collector.config()) else {
        return;
    };
    let World { agent, alice, .. } = &w;
    let sql = "select * from customers where email = 'grace@example.com'";
    assert_eq!(agent.psql(Some(alice), sql).expect("psql").status, 0);
    let refused = agent.psql(Some(alice), "drop table customers").expect("psql");
    assert_ne!(refused.status, 0);
    let spans = collector.spans();
    let read = spans
        .iter()
        .find(|s| s["name"] == "SELECT customers")
        .expect("a span");
    let about = &read["attributes"];
    assert_eq!(about["db.system.name"], "postgresql");
    assert_eq!(about["db.operation.name"], "SELECT");
    assert_eq!(about["db.collection.name"], "customers");
    assert!(about["db.response.returned_rows"].is_number());
    let dropped = with_attribute(&spans, "db.operation.name", "DROP TABLE")
        .or_else(|| with_attribute(&spans, "db.operation.name", "DROP"))
        .expect("a span of what was refused");
    assert_eq!(dropped["error"], true);
    assert_ne!(dropped["attributes"]["interdict.verdict"], "allowed");
    for span in &spans {
        assert!(!span["raw"].as_str().expect("text").contains("grace@example.com"));
    }
    // Each judged operation has one.
    let records = agent.records().expect("records");
    for record in kinds(&records, "operation").filter(|r| r["verdict"] != "held") {
        let id = record["operation"].as_str().expect("a reference");
        assert!(
            with_attribute(&spans, "interdict.operation.id", id).is_some(),
            "{record}"
        );
    }
}

/// A collector that is away, refuses, or never answers delays nothing and loses no operation; `doctor` says it.
#[test]
fn a_collector_that_is_away_costs_no_operation() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let Some(w) = http("a_collector_that_is_away", |_dir| {
        format!("[telemetry.traces]\nendpoint = \"http://127.0.0.1:{port}\"\n")
    }) else {
        return;
    };
    let url = format!("https://localhost:{}/people/[1-200]", w.target.tls);
    let began = Instant::now();
    let seen = w
        .agent
        .run(
            Some(&w.alice),
            &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\n", &url],
        )
        .expect("run");
    assert_eq!(
        seen.out.lines().filter(|line| *line == "200").count(),
        200,
        "{}",
        seen.err
    );
    // Nobody accepts or answers: what waits for it is the end of the run, for two seconds.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let records = w.agent.records().expect("records");
    assert_eq!(
        kinds(&records, "outcome")
            .filter(|r| r["status"] == "completed")
            .count(),
        200
    );
    drop(silent);
    let config = w.agent.config().display().to_string();
    let told = w
        .agent
        .interdict(&["doctor", "--json", "--config", &config])
        .expect("doctor");
    let checks: Value = serde_json::from_str(&told.out).expect("JSON");
    let checks = checks["checks"]
        .as_array()
        .or_else(|| checks.as_array())
        .expect("checks");
    let check = checks
        .iter()
        .find(|check| check["area"] == "telemetry")
        .expect("a check");
    assert_eq!(check["state"], "limited", "{check}");
}

/// The spans of a service name its workloads, and the last ones are sent when it stops.
#[test]
fn a_service_names_its_workloads() {
    if !can_trace("a_service_names_its_workloads") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let collector = Collector::start(dir.path());
    let cgroups = Cgroups::make().expect("cgroups");
    let more = format!(
        "{}[[workload]]\nname = \"box\"\ncgroup = \"{}\"\n",
        collector.config(),
        cgroups.path("box")
    );
    let Some(w) = world("a_service_names_its_workloads", &more) else {
        return;
    };
    let mut manager = Manager::new(&w.agent.config()).expect("manager");
    manager.start().expect("ready");
    cgroups.add("box").expect("made");
    manager.wait_for_log("box\" processes=").expect("governed");
    let mut client = cgroups.command("box", &["psql", "-X", "-At", "-c", "TABLE orders"]);
    client
        .envs([
            ("PGHOST", "localhost"),
            ("PGUSER", "x"),
            ("PGPASSWORD", "x"),
            ("PGDATABASE", "shop"),
        ])
        .env("PGPORT", w.database.port.to_string())
        .env("PGSSLROOTCERT", w.agent.state().join("ca/bundle.pem"));
    assert!(client.output().expect("ran").status.success());
    manager.signal(Signal::TERM).expect("sent");
    assert_eq!(manager.wait().expect("ended"), 0);
    let spans = collector.spans();
    let read = spans
        .iter()
        .find(|span| span["attributes"]["db.collection.name"] == "orders")
        .expect("a span");
    assert_eq!(read["attributes"]["interdict.workload"], "box");
    assert_eq!(read["attributes"]["user.id"], "workload/box");
}
