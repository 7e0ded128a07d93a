//! What hostile bytes reach, as functions of bytes: for the fuzzer (`cargo xtask fuzz`). Each panics where a promise is
//! broken: what is cut in two must come out as what came whole, and nothing else may happen than an answer or an error.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::mask::{Classes, MaskEngine, MaskKey, MaskPlan};
use crate::model::MaskCounts;
use crate::protocol::http::dialect::{Asked, Speaks as _};
use crate::protocol::mcp::McpServer;
use crate::protocol::{dns, http, llm, mcp, postgres};
use crate::{audit, json, policy, session};

/// A promise, tried with some bytes.
pub type Promise = fn(&[u8]);

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 25] = [
    ("audit", log),
    ("dns", dns::fuzz::messages),
    ("guard-link", crate::guard::link_promise),
    ("http-events", http::fuzz::events),
    ("http-framing", http::fuzz::framing),
    ("http-grpc", http::fuzz::grpc),
    ("http-kept", http::fuzz::kept),
    ("http-sent", http::fuzz::sent),
    ("http-text", http::fuzz::text),
    ("http-uploads", session::fuzz::uploads),
    ("http-websocket", http::fuzz::websocket),
    ("json", strict_json),
    ("llm-prompts", llm::fuzz::prompts),
    ("llm-streams", llm::fuzz::streams),
    ("llm-websocket", llm::fuzz::websockets),
    ("mask", masking),
    ("mcp", mcp_messages),
    ("mcp-schema", policy::fuzz::tools),
    ("mcp-state", mcp::fuzz::states),
    ("mcp-tasks", mcp::fuzz::tasks),
    ("policy-unread", policy::fuzz::unread),
    ("postgres", postgres::fuzz::frames),
    ("postgres-rows", postgres::fuzz::rows),
    ("recordings", session::fuzz::recordings),
    ("sql", sql),
];

static ENGINE: LazyLock<Arc<MaskEngine>> = LazyLock::new(|| {
    let Ok(classes) = Classes::shipped() else {
        std::process::abort()
    };
    Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[7; 32])))
});

/// Masks everything that is masked by default.
pub(crate) fn plan() -> MaskPlan {
    ENGINE.plan(&BTreeSet::new())
}

/// The same for somebody who may see one class.
pub(crate) fn revealing(class: &str) -> MaskPlan {
    ENGINE.plan(&class.parse().into_iter().collect())
}

/// What comes of something that waits for nothing.
pub(crate) fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The first byte says where the rest is cut.
pub(crate) fn cut(data: &[u8]) -> (&[u8], &[u8]) {
    let (at, rest) = data.split_first().unwrap_or((&0, &[]));
    rest.split_at(usize::from(*at) * rest.len() / 256)
}

fn masking(data: &[u8]) {
    let (first, second) = cut(data);
    let masked = |pieces: &[&[u8]]| {
        let (mut stream, mut out) = (plan().stream(), BytesMut::new());
        for piece in pieces {
            stream.push(piece, &mut out);
        }
        let _counts = stream.finish(&mut out);
        out
    };
    assert_eq!(
        masked(&[first, second]),
        masked(&[[first, second].concat().as_slice()])
    );
}

fn strict_json(data: &[u8]) {
    let Ok(value) = json::parse(data) else { return };
    let canonical = json::canonical(&value);
    assert_eq!(json::parse(canonical.as_bytes()).ok(), Some(value.clone()));
    let _facts = json::facts(&value);
}

fn mcp_messages(data: &[u8]) {
    let asked = Asked {
        method: &hyper::Method::POST,
        host: "tools",
        path: "/mcp",
        query: None,
        headers: &hyper::HeaderMap::new(),
    };
    let mut exchange = McpServer::default().exchange();
    if let Err(refusal) = exchange.request(&asked, data, &plan()) {
        assert!(exchange.refusal(&refusal).is_some());
    }
    // The same bytes as an answer, whole and as an event.
    mcp::fuzz::offers(data);
    for kind in ["application/json", "text/event-stream"] {
        let mut exchange = McpServer::default().exchange();
        let list = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let _operations = exchange.request(&asked, list, &plan());
        let mut headers = hyper::HeaderMap::new();
        headers.insert(
            hyper::header::CONTENT_TYPE,
            hyper::header::HeaderValue::from_static(kind),
        );
        let _cut = exchange.response(hyper::StatusCode::OK, &headers);
        let _shown = exchange.response_event(data, &plan(), &mut MaskCounts::default());
    }
}

fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _read = postgres::sql::read(text);
}

fn log_dir() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("interdict-fuzz-{}", std::process::id()))
}

fn log(data: &[u8]) {
    let dir = log_dir();
    let boot = dir.join("00000000000000000000000000000001");
    let written =
        std::fs::create_dir_all(&boot).and_then(|()| std::fs::write(boot.join("0000000000000001.seg"), data));
    if written.is_ok() {
        let _verified = audit::verify(&dir, None);
        let _read = audit::read_all(&dir, drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind of bytes that some promise is about.
    const CORPUS: [&[u8]; 17] = [
        b"",
        b"\x80ada@example.com, 4111 1111 1111 1111\n",
        b"\x07\x40{\"a\":\"\\u0040\",\"n\":11,\"ok\":true,\"l\":[\"x\"],\"t\":\"xx\"}",
        b"{\"n\":11}",
        b"\xff\xfe\x00\xc3\xa9\xed\xa0\x80",
        b"event: x\ndata: {\"a\":1}\n\n: c\n\n",
        b"GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc",
        b"\x40\x00\x805\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\x10\x05\x40helloworld",
        b"\x40\x00\x00\x00\x00\x07\x0a\x05a@b.c",
        b"\x81\x85\x01\x02\x03\x04ijdlm",
        b"Q\x00\x00\x00\x0dSELECT 1\x00",
        b"SELECT a FROM b WHERE c = 'ada@example.com'",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"resultType\":\"task\",\"taskId\":\"7\",\"tools\":[{\"name\":\"a\"}]}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"arguments\":{\"b\":[1,null]}}}",
        b"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}}}",
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"ada@example.com\"}]}",
    ];

    /// What the promise about logs leaves behind.
    fn remove_log() {
        drop(std::fs::remove_dir_all(log_dir()));
    }

    #[test]
    fn every_promise_is_kept_for_a_small_corpus() {
        for (name, promise) in PROMISES {
            for (nth, whole) in CORPUS.iter().enumerate() {
                for cut in (0..=whole.len()).rev().step_by(7) {
                    let data = whole.get(..cut).unwrap_or_default();
                    let kept = std::panic::catch_unwind(|| promise(data));
                    assert!(kept.is_ok(), "{name}: {nth} up to {cut}");
                }
            }
        }
        remove_log();
    }

    /// Bytes that look like nothing, the same every time.
    #[test]
    fn every_promise_is_kept_for_noise() {
        let mut state = 7u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let [high, ..] = state.to_be_bytes();
            high
        };
        for length in [1usize, 3, 17, 200] {
            for _again in 0..4 {
                let data: Vec<u8> = (0..length).map(|_| byte()).collect();
                for (name, promise) in PROMISES {
                    let kept = std::panic::catch_unwind(|| promise(&data));
                    assert!(kept.is_ok(), "{name}: {data:?}");
                }
            }
        }
        remove_log();
    }
}
