//! The HTTP relay against nginx and a small backend, with curl and bare connections; no kernel part.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use interdict_tests::http::SECRET;
use interdict_tests::{HttpRelay, HttpSetting, can_serve_http};
use serde_json::Value;

const POLICIES: &str = r#"
@id("admin-is-closed")
@reason("The admin interface is not for agents.")
forbid (principal, action in Action::"http", resource)
when { context.http.path == "/admin" || context.http.path like "/admin/*" };
@id("payments-are-small")
@reason("Payments over 1000 are made by people.")
forbid (principal, action == Action::"http.write", resource)
when { context.http.path == "/payments" }
unless { context has input && context.input.number.hasTag("amount") && context.input.number.getTag("amount") <= 1000 };
"#;

fn relay(test: &str, tls: bool) -> Option<HttpRelay> {
    let setting = HttpSetting {
        tls,
        policies: POLICIES,
        ..HttpSetting::default()
    };
    can_serve_http(test).then(|| HttpRelay::start(setting).expect("relay"))
}

/// Asserts that `seen` holds every part in order.
fn check(seen: &str, parts: &[&str]) {
    let mut rest = seen;
    for part in parts {
        let at = rest.find(part);
        assert!(at.is_some(), "{part:?} is not (there) in {seen}");
        rest = rest.split_once(part).map_or("", |(_, after)| after);
    }
}

#[test]
fn a_request_is_judged_and_its_answer_masked() {
    for tls in [false, true] {
        let Some(relay) = relay("a_request_is_judged", tls) else {
            return;
        };
        let seen = relay
            .get(
                "/people/7?api_key=s3cret",
                &["--http1.1", "-i", "-H", "Authorization: Bearer wrong"],
            )
            .expect("curl");
        check(
            &seen,
            &[
                "HTTP/1.1 200 OK",
                "x-owner: a***@e***.com",
                "\"email\": \"a***@e***.com\", \"card\": \"**** **** **** 1111\", \"total\": 12.5}",
            ],
        );
        assert!(!seen.to_lowercase().contains("content-md5"), "{seen}");
        let body = r#"{"name":"Ada","password":"hunter2"}"#;
        let json = "Content-Type: application/json";
        let seen = relay
            .get("/people", &["--http1.1", "-i", "-H", json, "-d", body])
            .expect("curl");
        check(&seen, &["200 OK"]);
        let log = relay.target.log().expect("log");
        for request in &log {
            assert_eq!(request["headers"]["authorization"], format!("Bearer {SECRET}"));
        }
        assert_eq!(log.len(), 2);
        assert_eq!(log[0]["line"], "GET /people/7?api_key=s3cret HTTP/1.1");
        assert_eq!(log[1]["body"], body);
        let records = relay.records().expect("records").join("\n");
        for part in [
            "http.read",
            "http.write",
            "/people/7?api_key=[redacted]",
            "pii.email",
            "\"200\"",
        ] {
            assert!(records.contains(part), "{part}: {records}");
        }
        for secret in [SECRET, "s3cret", "hunter2", "ada@example.com", "4111 1111"] {
            assert!(!records.contains(secret), "{secret} is in the records");
        }
    }
}

#[test]
fn a_refusal_is_a_problem_document() {
    let Some(relay) = relay("a_refusal_is", true) else {
        return;
    };
    for (version, line) in [("--http1.1", "HTTP/1.1 403 Forbidden"), ("--http2", "HTTP/2 403")] {
        let seen = relay.get("/admin/%75sers", &[version, "-i"]).expect("curl");
        check(&seen, &[line, "application/problem+json", "no-store", "\r\n\r\n"]);
        let body = seen.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let problem: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(problem["type"], "urn:interdict:denied");
        assert_eq!(problem["detail"], "The admin interface is not for agents.");
        assert_eq!(problem["policies"], serde_json::json!(["admin-is-closed"]));
        assert_eq!(problem["status"], 403);
        let reference = problem["operation"].as_str().expect("a reference");
        assert!(
            relay
                .records()
                .expect("records")
                .iter()
                .any(|r| r.contains(reference))
        );
        // The next request on the same connection is judged by itself.
        let two = [&relay.url("/admin"), version];
        let seen = relay.get("/", &two).expect("curl");
        check(&seen, &["admin-is-closed", "\"id\": 7"]);

        let seen = relay
            .get("/orders/7", &[version, "-i", "-X", "DELETE"])
            .expect("curl");
        check(
            &seen.to_lowercase(),
            &[
                "403",
                "retry-after: 30",
                "pending_approval",
                "prod-http-delete-needs-owner",
                "apr-",
                "owners",
            ],
        );
    }
    let reached = relay.target.log().expect("log");
    assert_eq!(reached.len(), 2, "{reached:?}");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let Some(relay) = relay("what_could_be_read", false) else {
        return;
    };
    let host = format!("Host: localhost:{}", relay.target.plain);
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{host}\r\n\r\n");
    let table = [
        (
            format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            "both",
        ),
        (
            format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{smuggled}"),
            "both",
        ),
        (
            format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"),
            "chunked",
        ),
        (
            format!("Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{smuggled}"),
            "chunked",
        ),
        (
            format!("Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde{smuggled}"),
            "more than one",
        ),
        (
            format!("Content-Length: 5, 5\r\n\r\nabcde{smuggled}"),
            "no number",
        ),
        (format!("X: a\r\n Content-Length: 5\r\n\r\n{smuggled}"), "folded"),
        (
            format!("X: a\nContent-Length: 5\r\n\r\n{smuggled}"),
            "line feed alone",
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefg\r\n0\r\n\r\n{smuggled}"),
            "longer than its size",
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n5;\nabcde\r\n0\r\n\r\n{smuggled}"),
            "line feed alone",
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n{smuggled}"),
            "hexadecimal",
        ),
        (format!("Host: other\r\n\r\n{smuggled}"), "more than one Host"),
        (
            format!("Expect: miracles\r\nConnection: close\r\n\r\n{smuggled}"),
            "100-continue",
        ),
    ];
    for (rest, why) in table {
        let seen = relay
            .ask(format!("POST /first HTTP/1.1\r\n{host}\r\nConnection: close\r\n{rest}").as_bytes())
            .expect("asked");
        check(
            &format!("{rest:?} {seen}"),
            &["HTTP/1.1 4", "application/problem+json", why],
        );
        assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{seen}");
    }
    for (request, status) in [
        (format!("GET /a/../b HTTP/1.1\r\n{host}"), "400"),
        (format!("GET /a%2f..%2f..//b HTTP/1.1\r\n{host}"), "400"),
        (format!("TRACE / HTTP/1.1\r\n{host}"), "405"),
        (format!("CONNECT localhost:80 HTTP/1.1\r\n{host}"), "4"),
        ("GET / HTTP/1.1\r\nHost: elsewhere.example".to_owned(), "421"),
        (
            "GET http://elsewhere.example/ HTTP/1.1\r\nHost: localhost".to_owned(),
            "4",
        ),
        ("GET / HTTP/1.1\r\nX: y".to_owned(), "400"),
        (format!("PRI * HTTP/2.0\r\n{host}"), "4"),
    ] {
        let seen = relay
            .ask(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes())
            .expect("asked");
        check(&seen, &[&format!("HTTP/1.1 {status}")]);
    }
    assert!(
        relay.target.log().expect("log").is_empty(),
        "nothing reached the target"
    );
    let records = relay.records().expect("records").join("\n");
    assert!(records.contains("could be read in two ways"), "{records}");
}

/// Clients that can have a WebSocket over HTTP/2 use HTTP/1.1 where a server does not say that it takes one.
#[test]
fn a_websocket_over_http2_is_not_offered_and_not_carried() {
    let Some(relay) = relay("a_websocket_over_http2", true) else {
        return;
    };
    let authority = relay.url("").replace("https://", "");
    let out = std::process::Command::new(interdict_tests::python())
        .arg(interdict_tests::tools::repository().join("tests/adapters/h2_connect.py"))
        .args([relay.port.to_string(), authority])
        .arg(relay.ca())
        .output()
        .expect("run");
    let (seen, error) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    let mut lines = seen.lines();
    // PROTOCOL_ERROR, for the stream or the connection (RFC 8441, 3).
    let websocket = lines.next().unwrap_or_default();
    assert!(
        websocket.starts_with("False None ") && websocket.ends_with(" 1"),
        "{seen}{error}"
    );
    let tunnel = lines.next().unwrap_or_default();
    assert!(
        tunnel.starts_with("False 405 ") || tunnel.starts_with("False None "),
        "{seen}{error}"
    );
    assert!(relay.target.log().expect("log").is_empty());
}

#[test]
fn the_first_event_is_not_delayed() {
    let Some(relay) = relay("the_first_event", true) else {
        return;
    };
    for version in ["--http1.1", "--http2"] {
        let mut curl = relay
            .curl("/sse", &["-N", version])
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut lines = BufReader::new(curl.stdout.take().expect("output")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        assert_eq!(line(), r#"data: {"first":"a***@e***.com"}"#);
        assert_eq!(line(), "");
        // Only now the target goes on.
        relay.target.release().expect("released");
        assert_eq!(line(), r#"data: {"second":"b***@e***.org"}"#);
        assert!(curl.wait().expect("ended").success());
    }
}

#[test]
fn a_body_waits_for_100_continue() {
    let Some(relay) = relay("a_body_waits", false) else {
        return;
    };
    let mut stream = relay.bare().expect("connected");
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        relay.target.plain
    );
    stream.write_all(head.as_bytes()).expect("head");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").expect("body");
    let mut seen = String::new();
    stream.read_to_string(&mut seen).expect("answer");
    check(&seen, &["HTTP/1.1 200 OK"]);
    assert_eq!(relay.target.log().expect("log")[0]["body"], "hello");
}

#[test]
fn limits_hold_and_connections_are_used_again() {
    let Some(relay) = relay("limits_hold", true) else {
        return;
    };
    let big = tempfile::NamedTempFile::new().expect("file");
    big.as_file().set_len(17 << 20).expect("long");
    let data = format!("@{}", big.path().display());
    for version in ["--http1.1", "--http2"] {
        let seen = relay
            .get("/upload", &[version, "-i", "--data-binary", &data])
            .expect("curl");
        check(&seen, &["413", "larger than 16 MiB"]);
        let long = format!("/{}", "x".repeat(20_000));
        check(
            &relay.get(&long, &[version, "-i"]).expect("curl"),
            &["400", "16 KiB"],
        );
    }
    assert!(relay.target.log().expect("log").is_empty());
    // 12 MiB go through, and what has no body has none.
    big.as_file().set_len(12 << 20).expect("shorter");
    check(
        &relay
            .get("/upload", &["-i", "--data-binary", &data])
            .expect("curl"),
        &["200"],
    );
    let seen = relay.get("/x", &["--http1.1", "-I"]).expect("curl");
    check(&seen, &["HTTP/1.1 200 OK"]);
    let seen = relay.get("/gone", &["--http1.1", "-i"]).expect("curl");
    check(&seen, &["404", r#"{"error":"no a***@e***.com here"}"#]);
    let two = [relay.url("/b"), "-w".into(), "%{num_connects} ".into()];
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    check(&relay.get("/a", &two).expect("curl"), &["1 ", "0 "]);
}

#[test]
fn codings_are_undone_and_other_formats_left_alone() {
    let Some(relay) = relay("codings_are", true) else {
        return;
    };
    let text = "Ada <ada@example.com>, ".repeat(2000);
    relay.target.file("text", text.as_bytes()).expect("file");
    let masked = text.replace("ada@example.com", "a***@e***.com");
    for coding in ["gzip", "deflate", ""] {
        for step in ["0", "1000"] {
            let path = format!("/file/text?type=text/plain&coding={coding}&step={step}");
            let seen = relay.body(&path, &["--compressed"]).expect("curl");
            assert!(seen == masked.as_bytes(), "{path}");
        }
    }
    let seen = relay
        .get("/file/text?type=text/plain&coding=compress", &["-i", "--http1.1"])
        .expect("curl");
    check(&seen, &["502", "withheld", "content coding"]);
    let seen = relay
        .get(
            "/file/text?type=text/plain;charset%3Dutf-16",
            &["-i", "--http1.1"],
        )
        .expect("curl");
    check(&seen, &["502", "withheld", "utf-16"]);
    // Without a type, the first bytes tell.
    assert!(relay.body("/file/text", &[]).expect("curl") == masked.as_bytes());
    let archive: Vec<u8> = (0..200_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let archive = [b"PK\x03\x04\0".as_slice(), &archive].concat();
    relay.target.file("archive", &archive).expect("file");
    assert!(relay.body("/file/archive?step=700", &[]).expect("curl") == archive);
    // Its outcome is recorded before the next operation is.
    relay.body("/", &[]).expect("curl");
    let records = relay.records().expect("records").join("\n");
    assert!(records.contains("200: not looked into"), "{records}");
}

#[test]
fn a_dialect_is_judged_and_refused_in_its_own_words() {
    if !can_serve_http("a_dialect_is") {
        return;
    }
    let policies = r#"@id("no-shell") @reason("No shell.") forbid (principal, action == Action::"mcp.tool.call", resource)
        when { context.mcp.tool == "shell" };"#;
    let setting = HttpSetting {
        protocol: "mcp",
        policies,
        ..HttpSetting::default()
    };
    let relay = HttpRelay::start(setting).expect("relay");
    let call = |tool: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"cmd":"ls"}}}}}}"#
        );
        let json = "Content-Type: application/json";
        relay
            .get("/mcp", &["-i", "--http1.1", "-H", json, "-d", &body])
            .expect("curl")
    };
    check(&call("read"), &["200 OK", "a***@e***.com"]);
    check(
        &call("shell"),
        &["200 OK", r#""id":7"#, "No shell.", r#""isError":true"#],
    );
    assert_eq!(relay.target.log().expect("log").len(), 1);
    let records = relay.records().expect("records").join("\n");
    assert!(
        records.contains("mcp.tool.call") && !records.contains("http.write"),
        "{records}"
    );
}

#[test]
fn values_of_a_body_decide() {
    let Some(relay) = relay("values_of_a_body", true) else {
        return;
    };
    let form = "Content-Type: application/x-www-form-urlencoded";
    let json = "Content-Type: application/json";
    for (header, body, allowed) in [
        (json, r#"{"amount": 1000}"#, true),
        (json, r#"{"amount": 1001}"#, false),
        (json, r#"{"amount": 1, "Amount": 2000}"#, false),
        (json, r#"{"amount": "2000"}"#, false),
        (form, "amount=10", true),
        (form, "amount=10&amount=2000", false),
        (form, r#"{"amount": 1001}"#, false),
        ("Content-Encoding: gzip", r#"{"amount": 1}"#, false),
    ] {
        let seen = relay
            .get("/payments", &["-i", "-H", header, "-d", body])
            .expect("curl");
        let expected = if allowed {
            "HTTP/2 200"
        } else {
            "payments-are-small"
        };
        check(&format!("{body} {seen}"), &[expected]);
    }
    assert_eq!(relay.target.log().expect("log").len(), 2);
}

#[test]
fn the_credential_does_not_come_back() {
    for tls in [false, true] {
        let Some(relay) = relay("the_credential_does", tls) else {
            return;
        };
        let seen = relay.get("/echo", &["-i"]).expect("curl");
        check(
            &seen.to_lowercase(),
            &[
                "200",
                "x-sent: [credential]",
                r#""authorization": "bearer [credential]""#,
            ],
        );
        assert!(!seen.contains(SECRET), "{seen}");
        relay.get("/", &[]).expect("curl");
        let records = relay.records().expect("records").join("\n");
        assert!(records.contains("it sent the credential back"), "{records}");
    }
}

#[test]
fn a_method_that_another_one_hides_counts() {
    let Some(relay) = relay("a_method_that", true) else {
        return;
    };
    let hidden: [&[&str]; 5] = [
        &["-H", "X-HTTP-Method-Override: DELETE", "-d", "x"],
        &["-H", "x-method-override: delete", "-d", "x"],
        &["-d", "_method=delete"],
        &["-d", "{\"_method\": \"DELETE\"}"],
        &["-d", "a=b&_method=patch&_method=delete"],
    ];
    for arguments in hidden {
        let seen = relay.get("/orders/7", arguments).expect("curl");
        check(&seen, &["prod-http-delete-needs-owner"]);
    }
    check(
        &relay.get("/orders/7?_method=DELETE", &["-d", "x"]).expect("curl"),
        &["prod-http-delete-needs-owner"],
    );
    assert!(relay.target.log().expect("log").is_empty());
}

/// W3C Trace Context: whoever traces follows a request through the relay; the target sees what the process sent, unchanged.
#[test]
fn traces_pass_through_untouched() {
    for tls in [false, true] {
        let Some(relay) = relay("traces_pass_through", tls) else {
            return;
        };
        let headers = [
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            ("baggage", "userId=alice,serverNode=DF%2028"),
        ];
        let lines = headers.map(|(name, value)| format!("{name}: {value}"));
        let arguments: Vec<&str> = lines.iter().flat_map(|line| ["-H", line.as_str()]).collect();
        relay.get("/people/7", &arguments).expect("curl");
        let log = relay.target.log().expect("log");
        let seen = log.last().expect("a request");
        for (name, value) in headers {
            assert_eq!(seen["headers"][name], value, "{seen}");
        }
    }
}
