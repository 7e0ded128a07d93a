//! Watching an agent at work: `interdict status`, `interdict top` in a terminal, health and figures over HTTP, the journal.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use interdict_tests::tools::{binary, repository};
use interdict_tests::world::{World, world};
use interdict_tests::{can_govern, python};
use serde_json::Value;

/// An agent in whose psql a customer was read and a table could not be dropped; it ends with its input.
struct Watched {
    world: World,
    psql: Child,
}

impl Watched {
    fn start(test: &str) -> Option<Self> {
        let world = world(test, "[telemetry]\nlisten = \"unix:telemetry.sock\"\n")?;
        let psql = world.agent.start(Some(&world.alice), &["psql", "-X", "-At"]);
        let mut psql = psql.expect("psql");
        let input = psql.stdin.as_mut().expect("a pipe");
        input
            .write_all(b"SELECT email FROM customers LIMIT 1;\nDROP TABLE orders;\nSELECT 'done';\n")
            .expect("written");
        let mut lines = BufReader::new(psql.stdout.as_mut().expect("a pipe")).lines();
        assert!(
            lines.any(|line| line.is_ok_and(|line| line == "done")),
            "psql ended"
        );
        Some(Self { world, psql })
    }

    fn socket(&self) -> String {
        format!("/run/interdict/run-{}.sock", self.psql.id())
    }

    fn telemetry(&self) -> PathBuf {
        self.world.agent.state().with_file_name("telemetry.sock")
    }

    /// The body of an answer, and its status.
    fn ask(&self, path: &str) -> (String, String) {
        let out = Command::new("curl")
            .args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(self.telemetry())
            .arg(format!("http://agent{path}"))
            .output()
            .expect("curl");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (body.to_owned(), status.to_owned())
    }

    fn end(mut self) {
        drop(self.psql.stdin.take());
        let status = self.psql.wait().expect("ended");
        assert!(status.success(), "{status}");
        assert!(!self.telemetry().exists(), "the socket stayed");
        drop(self.world);
    }
}

#[test]
fn an_agent_at_work_can_be_watched() {
    let Some(watched) = Watched::start("an_agent_at_work_can_be_watched") else {
        return;
    };
    // For programs.
    let out = Command::new(binary())
        .args(["status", "--json", "--socket", &watched.socket()])
        .output()
        .expect("status");
    let seen: Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
    let agent = &seen["agents"][0];
    assert_eq!(agent["pid"], watched.psql.id(), "{seen}");
    let figures = &agent["figures"];
    assert_eq!(
        (figures["sessions"].as_u64(), figures["refused"].as_u64()),
        (Some(1), Some(1)),
        "{seen}"
    );
    assert!(
        figures["masked"].as_u64() >= Some(1) && figures["allowed"].as_u64() >= Some(1),
        "{seen}"
    );
    assert!(figures["clickhouse_lag_seconds"].is_null(), "{seen}");
    // For people.
    let out = Command::new(binary())
        .args(["status", "--socket", &watched.socket()])
        .output()
        .expect("status");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.starts_with("PID") && text.contains("alice"), "{text}");
    // Looking at what would go is free, and says that nothing does while it works.
    let out = Command::new(binary())
        .args(["uninstall", "--dry-run"])
        .output()
        .expect("uninstall");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains("without --force or --let-go nothing goes"),
        "{text}"
    );
    // For probes and Prometheus.
    assert_eq!(watched.ask("/healthz"), ("ok\n".into(), "200".into()));
    assert_eq!(watched.ask("/readyz"), ("ready\n".into(), "200".into()));
    let (figures, status) = watched.ask("/metrics");
    let refused = "interdict_operations_total{run=";
    assert!(status == "200" && figures.contains(refused), "{figures}");
    watched.end();
}

#[test]
fn top_shows_an_agent_in_a_terminal_and_gives_it_back() {
    let test = "top_shows_an_agent_in_a_terminal_and_gives_it_back";
    let there = Command::new(python()).args(["-c", "import pyte"]).status();
    if !there.is_ok_and(|status| status.success()) {
        let _closed = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: `cargo xtask setup` installs pyte"
        );
        return;
    }
    let Some(watched) = Watched::start(test) else {
        return;
    };
    let out = Command::new(python())
        .arg(repository().join("tests/adapters/terminal.py"))
        .args([
            "20",
            "q",
            "1 agent",
            "alice",
            "refused 1",
            "0 wait for approval",
            "--",
        ])
        .arg(binary())
        .args(["top", "--interval", "200ms", "--socket", &watched.socket()])
        .output()
        .expect("python");
    let screen = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{}\n{screen}", out.status);
    assert!(screen.trim_end().ends_with("given back"), "{screen}");
    let row = screen
        .lines()
        .find(|line| line.trim_start().starts_with(&watched.psql.id().to_string()));
    let cells: Vec<&str> = row.expect("a row of the agent").split_whitespace().collect();
    assert_eq!((cells.get(1), cells.get(5)), (Some(&"1"), Some(&"1")), "{screen}");
    // Without a terminal it says what to use.
    let out = Command::new(binary())
        .args(["top", "--socket", &watched.socket()])
        .stdin(Stdio::null())
        .output()
        .expect("top");
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("status --json"));
    watched.end();
}

#[test]
fn nobody_to_watch_is_said() {
    for word in ["status", "metrics"] {
        let out = Command::new(binary())
            .args([word, "--socket", "/nonexistent/run-1.sock"])
            .output()
            .expect("interdict");
        assert_eq!(out.status.code(), Some(3), "{word}");
    }
}

/// Where standard error is the journal, log lines are entries with their fields, and nothing is written to the stream.
#[test]
fn the_journal_gets_fields() {
    if !can_govern("the_journal_gets_fields") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let out = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && exec \"$@\"",
            "sh",
        ])
        .arg(python())
        .arg(repository().join("tests/adapters/journal.py"))
        .arg(binary())
        .args(["run", "--state-dir"])
        .arg(dir.path())
        .args(["--", "true"])
        .env_remove("SUDO_UID")
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    let entries: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let warned = entries.iter().find(|entry| {
        let message = entry["MESSAGE"].as_str().unwrap_or_default();
        message.contains("root can undo the guard")
    });
    let warned = warned.expect(&text);
    assert_eq!(
        (warned["PRIORITY"].as_str(), warned["SYSLOG_IDENTIFIER"].as_str()),
        (Some("4"), Some("interdict"))
    );
    let last = entries.last().expect("the end");
    assert_eq!(
        (last["status"].as_i64(), last["stderr"].as_str()),
        (Some(0), Some("")),
        "{text}"
    );
}
