//! Uploads that nobody reads before they are sent: `uploads = "stream"`.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use interdict::model::Digester;
use interdict_tests::{Agent, HttpRelay, HttpSetting, HttpTarget, Oidc, can_govern, can_serve_http};
use serde_json::Value;

const STREAM: &str = "[target.http]\nmax_body = \"4 KiB\"\nuploads = \"stream\"\nmax_upload = \"256 MiB\"\n";

const POLICIES: &str = r#"
@id("payments-are-small") @reason("Payments over 1000 are made by people.")
forbid (principal, action == Action::"http.write", resource)
when { context.http.path == "/payments" && context has input && context.input.number.hasTag("amount") &&
       context.input.number.getTag("amount") > 1000 };
@id("nothing-there") @reason("Nothing is stored there.")
forbid (principal, action in Action::"http", resource) when { context.http.path like "/sink/closed*" };
@id("read-before") @reason("What goes there is read before.")
forbid (principal, action in Action::"http", resource) when { context.http.path like "/sink/read*" && !context.http.body_read };
"#;

fn relay(tls: bool, more: &str) -> HttpRelay {
    let setting = HttpSetting {
        tls,
        more,
        policies: POLICIES,
        ..HttpSetting::default()
    };
    HttpRelay::start(setting).expect("relay")
}

/// Makes a file of so many bytes; its digest.
fn file(path: &Path, bytes: usize) -> String {
    let mut file = File::create(path).expect("file");
    let (mut digest, mut left, mut counter) = (Digester::default(), bytes, 0_u64);
    while left > 0 {
        let block: Vec<u8> = (0..8192_u64)
            .flat_map(|n| (n * 7 + counter).to_le_bytes())
            .collect();
        let some = block.get(..left.min(block.len())).expect("short");
        file.write_all(some).expect("written");
        digest.update(some);
        left -= some.len();
        counter += 1;
    }
    digest.finish().to_string()
}

/// The records, once there are as many outcomes.
fn records(relay: &HttpRelay, outcomes: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let all = relay.records().expect("records");
        let all: Vec<Value> = all
            .iter()
            .map(|r| serde_json::from_str(r).expect("a record"))
            .collect();
        if all.iter().filter(|r| r["kind"] == "outcome").count() >= outcomes {
            return all;
        }
        assert!(Instant::now() < deadline, "no outcome: {all:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number")
        / 1024
}

#[test]
fn large_uploads_pass_unread_in_bounded_memory() {
    if !can_serve_http("large_uploads") {
        return;
    }
    const LARGE: usize = 200 << 20;
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("large");
    let digest = file(&path, LARGE);
    let path = path.display().to_string();
    for (tls, version) in [(false, "--http1.1"), (true, "--http2")] {
        let relay = relay(tls, STREAM);
        let before = peak();
        let seen = relay
            .get("/sink/large", &["-T", &path, version, "-w", " %{http_code}"])
            .expect("curl");
        assert_eq!(seen, "stored 201");
        assert!(peak() - before < 64, "{} MiB more than {before}", peak() - before);
        let reached = relay.target.log().expect("log");
        assert_eq!(
            (&reached[0]["length"], &reached[0]["sha256"]),
            (&LARGE.into(), &Value::from(digest.as_str()))
        );
        let records = records(&relay, 1);
        let outcome = records
            .iter()
            .find(|r| r["kind"] == "outcome")
            .expect("an outcome");
        assert_eq!(outcome["bytes_up"], LARGE);
        assert_eq!(
            outcome["detail"],
            format!("201; upload sent: {LARGE} bytes, sha256 {digest}")
        );
        let operation = records
            .iter()
            .find(|r| r["kind"] == "operation")
            .expect("an operation");
        let text = operation["text"].as_str().expect("text");
        assert!(
            text.ends_with("/sink/large\n\n(209715200 bytes, sent unread)"),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_longer_than_before_is_read_as_before() {
    if !can_serve_http("what_is_no_longer") {
        return;
    }
    let relay = relay(false, STREAM);
    let pay = |amount: u32, kind: &str, bytes: usize| {
        let body = format!("{{\"amount\": {amount}, \"x\": \"{}\"}}", "x".repeat(bytes));
        let kind = format!("Content-Type: application/{kind}");
        relay
            .get("/payments", &["-H", &kind, "-d", &body, "-w", " %{http_code}"])
            .expect("curl")
    };
    assert!(pay(7, "json", 10).ends_with(" 200"));
    let refused = pay(7000, "json", 10);
    assert!(refused.contains("payments-are-small"), "{refused}");
    // A forbid that could not be evaluated without the values forbids.
    let refused = pay(7, "octet-stream", 10_000);
    assert!(
        refused.contains("payments-are-small") && refused.contains("not read before"),
        "{refused}"
    );
    assert_eq!(relay.target.log().expect("log").len(), 1);
}

#[test]
fn what_depends_on_an_unread_body_is_refused() {
    if !can_serve_http("what_depends_on") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("some");
    file(&path, 3 << 20);
    let path = path.display().to_string();
    let data = format!("@{path}");
    for (tls, version) in [(false, "--http1.1"), (true, "--http1.1"), (true, "--http2")] {
        let relay = relay(tls, STREAM);
        let send = |to: &str, more: &[&str]| {
            let all = [&[version, "-w", " %{http_code} %{size_upload}"], more].concat();
            relay.get(to, &all).expect("curl")
        };
        let closed = send("/sink/closed", &["-T", &path]);
        assert!(
            closed.contains("Nothing is stored there") && closed.contains(" 403 "),
            "{version}: {closed}"
        );
        let read = send("/sink/read", &["-T", &path]);
        assert!(
            read.contains("read-before") && read.contains(" 403 "),
            "{version}: {read}"
        );
        // Consent is for what is sent.
        let delete = send("/sink/x", &["-X", "DELETE", "-T", &path]);
        assert!(
            delete.contains("needs consent") && delete.contains(" 403 "),
            "{version}: {delete}"
        );
        // A form can have another method in it, which would be a DELETE.
        let form = send("/sink/x", &["--data-binary", &data]);
        assert!(form.contains("needs consent"), "{version}: {form}");
        let archive = send(
            "/sink/x",
            &["--data-binary", &data, "-H", "Content-Type: application/zip"],
        );
        assert!(archive.starts_with("stored 201 3145728"), "{version}: {archive}");
        // Nothing is sent to who waits for a word.
        if version == "--http1.1" {
            let waits = send("/sink/closed", &["-T", &path, "-H", "Expect: 100-continue"]);
            assert!(waits.ends_with(" 403 0"), "{waits}");
            let goes = send("/sink/open", &["-T", &path, "-H", "Expect: 100-continue"]);
            assert!(goes.ends_with("stored 201 3145728"), "{goes}");
        }
        let reached = relay.target.log().expect("log").len();
        assert_eq!(reached, if version == "--http1.1" { 2 } else { 1 });
    }
}

#[test]
fn uploads_of_unknown_length_are_bounded_and_ends_are_told_apart() {
    if !can_serve_http("uploads_of_unknown_length") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    let digest = file(&small, 2 << 20);
    file(&large, 4 << 20);
    for (tls, version) in [(false, "--http1.1"), (true, "--http2")] {
        let relay = relay(tls, &STREAM.replace("256", "3"));
        let send = |path: &Path| {
            let stdin = File::open(path).expect("file");
            let out = relay
                .curl("/sink/x", &["-T", "-", version, "-w", " %{http_code}"])
                .stdin(stdin)
                .output()
                .expect("curl");
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        assert_eq!(send(&small), "stored 201", "{version}");
        let seen = send(&large);
        assert!(
            seen.contains("larger than 3145728 bytes") && seen.ends_with(" 413"),
            "{version}: {seen}"
        );
        // Where the length is announced it does not begin.
        let path = large.display().to_string();
        let seen = relay
            .get("/sink/x", &["-T", &path, version, "-w", " %{http_code}"])
            .expect("curl");
        assert!(
            seen.contains("max_upload") && seen.ends_with(" 413"),
            "{version}: {seen}"
        );
        // A process that goes away in the middle.
        let mut curl = relay
            .curl("/sink/x", &["-T", "-", version])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("curl");
        let mut stdin = curl.stdin.take().expect("its input");
        stdin.write_all(&[7; 100_000]).expect("written");
        let judged = |all: &[Value]| all.iter().filter(|r| r["verdict"] == "allowed").count() == 3;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !judged(&records(&relay, 2)) {
            assert!(Instant::now() < deadline, "it does not begin");
        }
        curl.kill().expect("ended");
        curl.wait().expect("ended");
        let records = records(&relay, 3);
        let outcomes: Vec<&Value> = records.iter().filter(|r| r["kind"] == "outcome").collect();
        assert_eq!(
            outcomes[0]["detail"],
            format!("201; upload sent: 2097152 bytes, sha256 {digest}")
        );
        assert_eq!(outcomes[1]["status"], "failed", "{outcomes:?}");
        assert!(
            outcomes[1]["detail"].to_string().contains("upload sent in part"),
            "{outcomes:?}"
        );
        assert!(
            matches!(outcomes[2]["status"].as_str(), Some("failed" | "abandoned")),
            "{outcomes:?}"
        );
        // The target never took half of one for a whole.
        let lengths: Vec<Value> = relay
            .target
            .log()
            .expect("log")
            .iter()
            .map(|r| r["length"].clone())
            .collect();
        assert!(
            tls || lengths.iter().all(|length| *length == 2 << 20),
            "{lengths:?}"
        );
    }
}

#[test]
fn git_pushes_what_is_larger_than_is_read() {
    if !can_govern("git_pushes") || !can_serve_http("git_pushes") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = HttpTarget::start(dir.path()).expect("target");
    let issuer = Oidc::start().expect("issuer");
    let shell = |script: &str| {
        let out = std::process::Command::new("/bin/sh")
            .args(["-ec", script])
            .current_dir(dir.path())
            .output()
            .expect("sh");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    shell(
        "git init -q --bare http/git/repo.git; git -C http/git/repo.git config http.receivepack true; git init -q repo; cd repo; \
         git config user.email ada@example.com; git config user.name Ada; head -c 3000000 /dev/urandom > blob; git add blob; \
         git commit -qm one; cd ..; chmod -R a+rwX repo http/git",
    );
    let config = format!(
        "[[target]]\nname = \"git\"\nprotocol = \"http\"\naddresses = [\"localhost:{}\"]\nca_file = \"{}\"\n\
         [target.http]\nmax_body = \"64 KiB\"\nuploads = \"stream\"\n",
        target.tls,
        target.ca().display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let repo = dir.path().join("repo").display().to_string();
    let url = format!("https://localhost:{}/git/repo.git", target.tls);
    let push = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        &repo,
        "push",
        "-q",
        &url,
        "HEAD:refs/heads/main",
    ];
    let seen = agent.run(Some(&alice), &push).expect("run");
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    let heads = shell("git -C repo rev-parse HEAD; git -C http/git/repo.git rev-parse main");
    let heads: Vec<&str> = heads.lines().collect();
    assert_eq!(heads[0], heads[1]);
    let records = agent.records().expect("records");
    let noted = |r: &Value| {
        r["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("200; upload sent: 3"))
    };
    assert!(records.iter().any(noted), "{records:#?}");
}
