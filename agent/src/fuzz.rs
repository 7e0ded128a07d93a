//! What hostile bytes reach, as functions of bytes: for the fuzzer (`cargo xtask fuzz`). Each panics where a promise is
//! broken: what is cut in two must come out as what came whole, and nothing else may happen than an answer or an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use crate::mask::{Classes, MaskEngine, MaskKey, MaskPlan};
use crate::model::MaskCounts;
use crate::protocol::http::dialect::{Asked, Speaks as _};
use crate::protocol::mcp::McpServer;
use crate::protocol::{dns, http, llm, mcp, postgres};
use crate::{audit, json, policy};

/// A promise, tried with some bytes.
pub type Promise = fn(&[u8]);

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 18] = [
    ("audit", log),
    ("dns", dns::fuzz::messages),
    ("guard-link", crate::guard::link_promise),
    ("http-events", http::fuzz::events),
    ("http-framing", http::fuzz::framing),
    ("http-grpc", http::fuzz::grpc),
    ("http-sent", http::fuzz::sent),
    ("http-text", http::fuzz::text),
    ("http-websocket", http::fuzz::websocket),
    ("json", strict_json),
    ("llm-prompts", llm::fuzz::prompts),
    ("llm-streams", llm::fuzz::streams),
    ("mask", masking),
    ("mcp", mcp_messages),
    ("mcp-schema", tool_schemas),
    ("mcp-state", mcp::fuzz::states),
    ("postgres", postgres::fuzz::frames),
    ("sql", sql),
];

/// Masks everything that is masked by default.
pub(crate) fn plan() -> MaskPlan {
    static ENGINE: LazyLock<Arc<MaskEngine>> = LazyLock::new(|| {
        let Ok(classes) = Classes::shipped() else {
            std::process::abort()
        };
        Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[7; 32])))
    });
    ENGINE.plan(&BTreeSet::new())
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

/// Whatever a server calls the schema of a tool: what is made of it is a schema of policies.
fn tool_schemas(data: &[u8]) {
    let Ok(schema) = serde_json::from_slice(data) else {
        return;
    };
    let tools = BTreeMap::from([("tool".to_owned(), schema)]);
    let source = policy::PolicySource {
        file: "tools.cedarschema".into(),
        text: policy::tools_schema(&BTreeMap::from([("target".to_owned(), tools)])),
    };
    assert!(policy::Engine::load(&[source], &BTreeSet::new()).is_ok());
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

fn log(data: &[u8]) {
    let dir = std::env::temp_dir().join(format!("interdict-fuzz-{}", std::process::id()));
    let boot = dir.join("00000000000000000000000000000001");
    let written =
        std::fs::create_dir_all(&boot).and_then(|()| std::fs::write(boot.join("0000000000000001.seg"), data));
    if written.is_ok() {
        let _verified = audit::verify(&dir, None);
        let _read = audit::read_all(&dir, drop);
    }
}
