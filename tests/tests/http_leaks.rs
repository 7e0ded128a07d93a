//! Seeded canaries through the HTTP relay in every form that an answer can take: none reaches the process, and
//! everything else does, byte by byte.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::Write;
use std::process::{Command, Stdio};

use interdict_tests::{HttpRelay, HttpSetting, can_serve_http};

/// What must not come through.
const CANARIES: [&str; 9] = [
    "ada.lovelace@example.com",
    "4111 1111 1111 1111",
    "5555555555554444",
    "GB82WEST12345698765432",
    "+44 20 7946 0958",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "078-05-1120",
];
/// What must: none of it is anything's value.
const WORDS: [&str; 12] = [
    "order",
    "total 12.50",
    "a < b",
    "caf\u{e9}",
    "2026-01-01",
    "tab",
    "id 17",
    "(x)",
    "\u{1f600}",
    "0.5%",
    "email",
    "x: y",
];

/// A small generator (Knuth's MMIX): the same text for the same seed.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % n
    }

    /// Texts and canaries in turn.
    fn pieces(&mut self) -> Vec<String> {
        let mut pieces = Vec::new();
        for _ in 0..24 {
            let words: Vec<&str> = (0..=self.below(5))
                .map(|_| WORDS[self.below(WORDS.len())])
                .collect();
            pieces.push(words.join(" "));
            pieces.push(CANARIES[self.below(CANARIES.len())].to_owned());
        }
        pieces
    }
}

/// A body in a format, and the parts of it that must come through, in order.
fn body(format: &str, pieces: &[String]) -> (String, Vec<String>) {
    let (mut text, mut kept) = (String::new(), Vec::new());
    for pair in pieces.chunks(2) {
        let [words, canary] = pair else { continue };
        let ssn = if canary.contains('-') { "ssn " } else { "" };
        let (before, after) = match format {
            "json" => (
                format!("{{\"note\": \"{words}\", \"value\": \"{ssn}"),
                "\"}\n".to_owned(),
            ),
            "html" => (
                format!("<p>{}</p> <b>{ssn}", words.replace('<', "&lt;")),
                "</b>\n".to_owned(),
            ),
            "sse" => (
                format!("event: e\nid: {words}\ndata: {{\"note\": \"{words}\", \"value\": \"{ssn}"),
                "\"}\n\n".to_owned(),
            ),
            _ => (format!("{words} | {ssn}"), " |\r\n".to_owned()),
        };
        text.push_str(&before);
        text.push_str(canary);
        text.push_str(&after);
        kept.extend([before, after]);
    }
    (text, kept)
}

const FORMATS: [(&str, &str); 5] = [
    ("json", "application/x-ndjson"),
    ("html", "text/html;charset=utf-8"),
    ("text", "text/plain"),
    ("sse", "text/event-stream"),
    ("unnamed", "application/octet-stream"),
];

/// The form of a file: the coding and the file that is in it already.
fn encoded(coding: &str, text: &str) -> Vec<u8> {
    match coding {
        "zstd" => zstd::stream::encode_all(text.as_bytes(), 3).expect("encoded"),
        "br" => {
            let script =
                "process.stdout.write(require('zlib').brotliCompressSync(require('fs').readFileSync(0)))";
            let mut node = Command::new("node")
                .args(["-e", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("node");
            let mut input = node.stdin.take().expect("input");
            input.write_all(text.as_bytes()).expect("written");
            drop(input);
            node.wait_with_output().expect("ended").stdout
        }
        _ => text.as_bytes().to_vec(),
    }
}

fn in_order(seen: &str, kept: &[String]) -> bool {
    let mut rest = seen;
    for part in kept {
        match rest.split_once(part.as_str()) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn no_canary_comes_through_and_everything_else_does() {
    if !can_serve_http("no_canary") {
        return;
    }
    let relay = HttpRelay::start(HttpSetting::default()).expect("relay");
    for seed in 0..2 {
        let pieces = Seeded(seed).pieces();
        for (format, media_type) in FORMATS {
            let (text, kept) = body(format, &pieces);
            let mut first: Option<Vec<u8>> = None;
            for coding in ["", "gzip", "deflate", "br", "zstd"] {
                let name = format!("{format}-{seed}-{coding}");
                relay.target.file(&name, &encoded(coding, &text)).expect("file");
                for step in ["0", "1", "4000"] {
                    for version in ["--http1.1", "--http2"] {
                        let media_type = media_type.replace(';', "%3B");
                        let path = format!("/file/{name}?type={media_type}&coding={coding}&step={step}");
                        // Whatever the client would decode is decoded already.
                        let seen = relay
                            .body(&path, &[version, "-H", "Accept-Encoding: br"])
                            .expect("curl");
                        let shown = String::from_utf8_lossy(&seen);
                        for canary in CANARIES {
                            assert!(!shown.contains(canary), "{path}: {canary}\n{shown}");
                        }
                        match &first {
                            None => {
                                assert!(in_order(&shown, &kept), "{path}\n{shown}\n{text}");
                                first = Some(seen);
                            }
                            Some(first) => assert!(*first == seen, "{path} {version}\n{shown}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn escapes_hide_nothing() {
    if !can_serve_http("escapes_hide") {
        return;
    }
    let relay = HttpRelay::start(HttpSetting::default()).expect("relay");
    let table = [
        ("application/json", r#"["\u0061da\u0040example\u002Ecom"]"#),
        ("application/json", r#"{"card":4111111111111111}"#),
        ("application/vnd.api+json", r#"{"ssn":"\u003078-05-1120"}"#),
        (
            "text/event-stream",
            "data: {\"mail\":\ndata: \"ada\\u0040example.com\"}\n\n",
        ),
        (
            "text/event-stream",
            "id: ada@example.com\n: ada@example.com\ndata: x\n\n",
        ),
        ("text/html", "<p>ada&#64;example&#x2e;com</p>"),
        ("application/x-www-form-urlencoded", "mail=ada%40example.com"),
        ("text/plain", r#" {"mail":"ada\u0040example.com"}"#),
        ("image/png", "ada@example.com"),
        ("", "ada@example.com"),
    ];
    for (at, (media_type, text)) in table.into_iter().enumerate() {
        relay.target.file(&at.to_string(), text.as_bytes()).expect("file");
        for step in ["0", "1"] {
            let media_type = media_type.replace('+', "%2B");
            let path = format!("/file/{at}?type={media_type}&step={step}");
            let seen = relay.body(&path, &[]).expect("curl");
            let shown = String::from_utf8_lossy(&seen);
            for canary in [
                "ada@",
                "example",
                "4111111111111111",
                "078-05",
                "\\u0040",
                "&#64;",
                "%40",
                "78-05-1120",
            ] {
                assert!(!shown.contains(canary), "{path}: {shown}");
            }
        }
    }
}
