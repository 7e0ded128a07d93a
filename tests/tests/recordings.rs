//! What is recorded at the level `full`: what went to the target and what the process was shown, and nothing that it was not.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use interdict_tests::http::SECRET;
use interdict_tests::wire::{bind, describe, execute, parse, sync};
use interdict_tests::{HttpRelay, HttpSetting, Relay, Setting, can_relay, can_serve_http};
use serde_json::Value;

const REVEALS: &str = r#"
@id("alice-sees-mail") @reason("Alice may see addresses.")
permit (principal, action == Action::"reveal", resource in DataClass::"pii");
"#;

fn http(tls: bool, more: &str, policies: &str) -> HttpRelay {
    let setting = HttpSetting {
        tls,
        more,
        policies,
        ..HttpSetting::default()
    };
    HttpRelay::start(setting).expect("relay")
}

/// The records, once `enough` says so: what nobody waits for comes with the next commit.
fn records(read: impl Fn() -> Vec<String>, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let parsed = |record: &String| serde_json::from_str(record).expect("a record");
        let all: Vec<Value> = read().iter().map(parsed).collect();
        if enough(&all) {
            return all;
        }
        assert!(Instant::now() < deadline, "something is missing: {all:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(count: usize) -> impl Fn(&[Value]) -> bool {
    move |all| all.iter().filter(|r| r["kind"] == "outcome").count() >= count
}

fn of_http(relay: &HttpRelay, count: usize) -> Vec<Value> {
    records(|| relay.records().expect("records"), ended(count))
}

/// The content of one part of every operation, put together.
fn content(records: &[Value], part: &str) -> String {
    let mut text = String::new();
    let mut ends = std::collections::HashMap::new();
    for record in records
        .iter()
        .filter(|r| r["kind"] == "content" && r["part"] == part)
    {
        // Each piece begins where the one before it ended.
        let (id, piece) = (
            record["operation"].to_string(),
            record["text"].as_str().unwrap_or_default(),
        );
        let end = ends.entry(id).or_insert(0);
        if record["encoding"].is_null() && part != "answer.head" {
            assert_eq!(record["at_byte"].as_u64().unwrap_or(0), *end, "{record}");
            *end += u64::try_from(piece.len()).expect("small");
        }
        text.push_str(piece);
    }
    text
}

#[test]
fn requests_and_answers_are_recorded_as_they_are_shown() {
    if !can_serve_http("requests_and_answers") {
        return;
    }
    let body = r#"{"mail":"bob@example.org","password":"hunter2","max_tokens":5}"#;
    for (tls, version) in [(false, "--http1.1"), (true, "--http1.1"), (true, "--http2")] {
        let relay = http(tls, "recording = \"full\"\n", "");
        let json = ["-H", "Content-Type: application/json", "-d", body, version];
        let seen = relay.get("/people/7", &json).expect("curl");
        relay.get("/people/7", &["-I", version]).expect("curl");
        let records = of_http(&relay, 2);
        let sent = content(&records, "request");
        assert_eq!(
            sent,
            r#"{"mail":"b***@e***.org","password":"[redacted]","max_tokens":5}"#
        );
        assert_eq!(content(&records, "answer"), seen);
        assert_eq!(content(&records, "answer.head"), "200200");
        let heads = records.iter().filter(|r| r["part"] == "answer.head");
        let fields = heads.map(|r| r["parameters"].to_string()).collect::<String>();
        assert!(fields.contains("x-owner: a***@e***.com"), "{fields}");
        // Everything of an operation is recorded before its outcome, and after its verdict.
        let id = &records.iter().find(|r| r["part"] == "request").expect("content")["operation"];
        let kinds: Vec<&str> = records
            .iter()
            .filter(|r| r["operation"] == *id)
            .filter_map(|r| r["kind"].as_str())
            .collect();
        assert_eq!(kinds, ["operation", "content", "content", "content", "outcome"]);
        // What the target got was the real thing.
        assert_eq!(relay.target.log().expect("log")[0]["body"], body);
        let all = relay.records().expect("records").concat();
        for gone in ["hunter2", "ada@", "bob@", SECRET] {
            assert!(!all.contains(gone), "{gone}: {all}");
        }
    }
}

#[test]
fn without_the_level_nothing_of_it_is_recorded() {
    if !can_serve_http("without_the_level") {
        return;
    }
    let by_policy = r#"@id("all-of-it") @reason("All of it.") @recording("full")
        permit (principal, action == Action::"http.read", resource) when { context.http.path == "/people/8" };"#;
    let relay = http(false, "", by_policy);
    relay.get("/people/7", &[]).expect("curl");
    assert_eq!(content(&of_http(&relay, 1), "answer"), "");
    // A policy can want it.
    let seen = relay.get("/people/8", &[]).expect("curl");
    assert_eq!(content(&of_http(&relay, 2), "answer"), seen);
}

#[test]
fn long_bodies_are_cut_and_the_record_says_how_long_they_are() {
    if !can_serve_http("long_bodies") {
        return;
    }
    let relay = http(false, "recording = \"full\"\nrecording_limit = \"8 KiB\"\n", "");
    let text = "é ada@example.com ".repeat(20_000);
    let masked = text.replace("ada@example.com", "a***@e***.com");
    relay.target.file("long", text.as_bytes()).expect("file");
    relay.target.file("exact", &[b'x'; 8192]).expect("file");
    let path = "/file/long?type=text/plain&step=1000";
    let upload = format!("@{}", relay.target.path("long").display());
    let upload = ["--data-binary", &upload, "-H", "Content-Type: text/plain"];
    assert_eq!(relay.get(path, &upload).expect("curl"), masked);
    relay.get("/file/exact?type=text/plain", &[]).expect("curl");
    let records = of_http(&relay, 2);
    for (part, whole) in [("request", text.len()), ("answer", masked.len())] {
        let kept = content(&records, part);
        let kept = kept.trim_end_matches('x');
        assert!(
            masked.starts_with(kept) && (8190..=8192).contains(&kept.len()),
            "{part}: {}",
            kept.len()
        );
        let rest: Vec<&Value> = records
            .iter()
            .filter(|r| r["part"] == part && r["reason"].is_string())
            .collect();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(rest[0]["reason"], "longer than recording_limit");
        assert_eq!(rest[0]["detail"], format!("{whole} bytes in all"), "{part}");
    }
    let all = relay.records().expect("records").concat();
    assert!(!all.contains("ada@"), "a value that was cut");
}

#[test]
fn what_no_detector_reads_is_recorded_by_its_digest() {
    if !can_serve_http("what_no_detector_reads") {
        return;
    }
    let relay = http(false, "recording = \"full\"\n", "");
    let archive: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
    relay.target.file("archive", &archive).expect("file");
    let path = relay.target.path("archive");
    let upload = format!("@{}", path.display());
    let seen = relay
        .body(
            "/file/archive",
            &["--data-binary", &upload, "-H", "Content-Type: application/zip"],
        )
        .expect("curl");
    assert!(seen == archive);
    let records = of_http(&relay, 1);
    let digest = interdict::model::Digest::of(&archive);
    for part in ["request", "answer"] {
        let all: Vec<&Value> = records.iter().filter(|r| r["part"] == part).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0]["reason"], "no detector reads it");
        assert_eq!(
            all[0]["detail"],
            format!("280000 bytes in all; sha256 of the rest {digest}")
        );
    }
}

#[test]
fn events_are_recorded_as_they_pass() {
    if !can_serve_http("events_are_recorded") {
        return;
    }
    for version in ["--http1.1", "--http2"] {
        let relay = http(true, "recording = \"full\"\n", "");
        let mut curl = relay
            .curl("/sse", &["-N", version])
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut out = BufReader::new(curl.stdout.take().expect("output"));
        let mut line = String::new();
        out.read_line(&mut line).expect("an event");
        assert_eq!(line, "data: {\"first\":\"a***@e***.com\"}\n");
        // While the stream is open.
        let there = |all: &[Value]| content(all, "answer").contains("first");
        let sofar = records(|| relay.records().expect("records"), there);
        assert!(!sofar.iter().any(|r| r["kind"] == "outcome"));
        relay.target.release().expect("released");
        assert!(curl.wait().expect("ended").success());
        let shown = "data: {\"first\":\"a***@e***.com\"}\n\ndata: {\"second\":\"b***@e***.org\"}\n\n";
        assert_eq!(content(&of_http(&relay, 1), "answer"), shown);
    }
}

#[test]
fn what_a_policy_reveals_is_not_in_the_records() {
    if !can_serve_http("what_a_policy_reveals") {
        return;
    }
    let relay = http(false, "recording = \"full\"\n", REVEALS);
    for path in ["/people/7", "/gone"] {
        let seen = relay.get(path, &[]).expect("curl");
        assert!(seen.contains("ada@example.com"), "{seen}");
    }
    let records = of_http(&relay, 2);
    let kept = content(&records, "answer");
    assert!(kept.contains("a***@e***.com") && !kept.contains("ada@"), "{kept}");
    let all = relay.records().expect("records").concat();
    assert!(!all.contains("ada@"), "{all}");
}

fn postgres(more: &'static str, policies: &'static str) -> Relay {
    let setting = Setting {
        environment: "dev",
        more,
        policies,
        ..Setting::default()
    };
    Relay::start(setting).expect("relay")
}

fn of_postgres(relay: &Relay, count: usize) -> Vec<Value> {
    records(|| relay.records().expect("records"), ended(count))
}

#[test]
fn rows_are_recorded_as_they_are_shown() {
    if !can_relay("rows_are_recorded") {
        return;
    }
    let relay = postgres("recording = \"full\"\n", "");
    let mut wire = relay.wire().expect("session");
    let sql = "SELECT id, name, email, NULL AS none FROM customers ORDER BY id LIMIT 2";
    let seen = wire.query(sql).expect("asked");
    assert!(
        seen.contains("[pii.name]") && !seen.contains('@') || seen.contains("***@"),
        "{seen}"
    );
    let prepared = [
        parse("", sql),
        bind("", "", &[], true),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    wire.ask(&prepared.concat(), 1).expect("asked");
    wire.query("COPY (SELECT id, name, email, NULL FROM customers ORDER BY id LIMIT 2) TO STDOUT")
        .expect("asked");
    // The log-in is one too.
    let records = of_postgres(&relay, 4);
    let mut by_operation: Vec<(String, String)> = Vec::new();
    for record in records
        .iter()
        .filter(|r| r["kind"] == "content" && r["part"] == "answer")
    {
        let (id, text) = (
            record["operation"].to_string(),
            record["text"].as_str().expect("text"),
        );
        match by_operation.iter_mut().find(|(known, _)| *known == id) {
            Some((_, all)) => all.push_str(text),
            None => by_operation.push((id, text.to_owned())),
        }
    }
    let shown: Vec<&str> = by_operation.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    let first = shown[0];
    assert!(
        first.starts_with("1\t[pii.name]\t") && first.ends_with("\t\\N\n"),
        "{first}"
    );
    assert_eq!(first.lines().count(), 2);
    // In binary, and as a copy, it is the same text.
    assert_eq!((shown[1], shown[2]), (first, first));
    let names: Vec<&Value> = records
        .iter()
        .filter(|r| r["part"] == "answer.head")
        .map(|r| &r["parameters"])
        .collect();
    let expected = serde_json::json!(["id", "name", "email", "none"]);
    assert_eq!(names, [&expected, &expected]);
    // The outcome comes behind all of it.
    for (id, _) in &by_operation {
        let kinds: Vec<&str> = records
            .iter()
            .filter(|r| r["operation"].as_str().is_some_and(|op| id.contains(op)))
            .filter_map(|r| r["kind"].as_str())
            .collect();
        assert_eq!(
            (kinds.first(), kinds.last()),
            (Some(&"operation"), Some(&"outcome")),
            "{kinds:?}"
        );
    }
}

#[test]
fn rows_that_are_revealed_or_too_many_are_not_recorded_as_such() {
    if !can_relay("rows_that_are_revealed") {
        return;
    }
    let relay = postgres("recording = \"full\"\nrecording_limit = \"1 KiB\"\n", REVEALS);
    let mut wire = relay.wire().expect("session");
    let seen = wire
        .query("SELECT name, email FROM customers ORDER BY id")
        .expect("asked");
    assert!(
        seen.contains('@') && !seen.contains("***") && !seen.contains("[pii.name]"),
        "{seen}"
    );
    wire.query("SELECT repeat('x', 100) FROM generate_series(1, 2000)")
        .expect("asked");
    let records = of_postgres(&relay, 3);
    let kept = content(&records, "answer");
    assert!(kept.contains("[pii.name]\t") && kept.contains("***@"), "{kept}");
    let rest: Vec<&Value> = records
        .iter()
        .filter(|r| r["reason"] == "longer than recording_limit")
        .collect();
    assert!(
        rest.iter().any(|r| r["detail"] == "202000 bytes in all"),
        "{rest:?}"
    );
    let outcome = records
        .iter()
        .rfind(|r| r["kind"] == "outcome")
        .expect("an outcome");
    assert_eq!(outcome["rows"], 2000, "{outcome}");
}
