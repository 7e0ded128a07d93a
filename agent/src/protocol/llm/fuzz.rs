//! What hostile bytes reach here: prompts that are masked, and streams whose texts come in pieces.

use std::sync::LazyLock;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fuzz::{cut, plan};
use crate::json::parse;
use crate::model::{Alias, MaskCounts, PromptDuty, PromptMask};
use crate::protocol::http::dialect::{Asked, Dialect, Speaks as _};

use super::ModelApi;
use super::prompt;

/// Every class that is found without words of somebody's own.
const CLASSES: [&str; 8] = [
    "pii.email",
    "pii.phone",
    "pii.ssn",
    "pii.ip",
    "pci.card",
    "fin.iban",
    "secret.key",
    "secret.token",
];

/// One for all: its values have the same aliases every time.
static API: LazyLock<ModelApi> = LazyLock::new(ModelApi::default);

static DUTY: LazyLock<PromptDuty> = LazyLock::new(|| {
    let mut mask = PromptMask::default();
    for class in CLASSES.iter().filter_map(|name| name.parse().ok()) {
        mask.0.insert(class, Alias::Reversible);
    }
    PromptDuty { mask, counted: true }
});

fn asked(exchange: &mut dyn Dialect, path: &str, body: &[u8]) -> bool {
    let asked = Asked {
        method: &Method::POST,
        host: "models",
        path,
        query: None,
        headers: &HeaderMap::new(),
    };
    exchange.asks("fuzz");
    exchange.request(&asked, body, &plan()).is_ok()
}

/// A prompt that goes out is JSON, and has nothing in it that is to be masked; its echo is JSON.
pub(crate) fn prompts(data: &[u8]) {
    let mut exchange = API.exchange();
    if !asked(exchange.as_mut(), "/v1/chat/completions", data) {
        return;
    }
    let Some(Ok(Some(changed))) = exchange.obliged().map(|mut obliged| obliged.permitted(&DUTY)) else {
        return;
    };
    let body = String::from_utf8_lossy(&changed.body).into_owned();
    assert!(parse(body.as_bytes()).is_ok(), "{body}");
    let (_, left) = prompt::masked("", &body, &plan());
    assert!(
        !CLASSES.iter().any(|class| left.contains(*class)),
        "{left:?}: {body}"
    );
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    exchange.response(StatusCode::OK, &headers);
    exchange.response_event(body.as_bytes(), &plan(), &mut MaskCounts::default());
}

/// What a stream's text becomes does not depend on how it was cut; no event does harm.
pub(crate) fn streams(data: &[u8]) {
    /// Longer texts are only slower: what is held back is shorter.
    const LONGEST: usize = 1024;
    let data = data.get(..LONGEST).unwrap_or(data);
    let text = String::from_utf8_lossy(data);
    let (first, second) = cut(text.as_bytes());
    let (first, second) = (String::from_utf8_lossy(first), String::from_utf8_lossy(second));
    let whole = format!("{first}{second}");
    assert_eq!(joined(&[&first, &second]), joined(&[&whole]));
    let mut exchange = API.exchange();
    exchange.response_event(data, &plan(), &mut MaskCounts::default());
    exchange.response_event(
        format!("data: {text}\n\n").as_bytes(),
        &plan(),
        &mut MaskCounts::default(),
    );
    exchange.response_end(&plan(), &mut MaskCounts::default());
}

fn joined(pieces: &[&str]) -> String {
    let mut exchange = API.exchange();
    let prompt = json!({"messages": [{"content": "ada@example.com"}]}).to_string();
    asked(exchange.as_mut(), "/v1/messages", prompt.as_bytes());
    drop(exchange.obliged().map(|mut obliged| obliged.permitted(&DUTY)));
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
    exchange.response(StatusCode::OK, &headers);
    let (mut out, mut counts) = (Vec::new(), MaskCounts::default());
    for piece in pieces {
        let event = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}});
        out.extend(exchange.response_event(format!("data: {event}\n\n").as_bytes(), &plan(), &mut counts));
    }
    out.extend(exchange.response_end(&plan(), &mut counts));
    let out = String::from_utf8_lossy(&out).into_owned();
    let events = out
        .lines()
        .filter_map(|line| parse(line.strip_prefix("data: ")?.as_bytes()).ok());
    let text = |event: Value| {
        event
            .pointer("/delta/text")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    events.filter_map(text).collect()
}
