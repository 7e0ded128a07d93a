//! What hostile bytes reach here: prompts that are masked, streams whose texts come in pieces, and both in WebSockets.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fuzz::{cut, plan};
use crate::json::parse;
use crate::model::{Alias, MaskCounts, PromptDuty, PromptMask};
use crate::protocol::http::conversation::{Conversation, Question, Turn};
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

/// In a WebSocket: what the process says is sent without anything in it that is to be masked, or refused in JSON; what a text of
/// the target becomes does not depend on how it was cut, nor on another stream; no message does harm, and each is over once.
pub(crate) fn websockets(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, second) = cut(text.as_bytes());
    let (first, second) = (String::from_utf8_lossy(first), String::from_utf8_lossy(second));
    let whole = format!("{first}{second}");
    assert_eq!(spoken(&[&first, &second]), spoken(&[&whole]));
    let Some(mut talk) = conversation() else { return };
    said(talk.as_mut(), 1, &create("a", &text));
    for (turn, message) in (2..).zip([data, text.as_bytes()]) {
        said(talk.as_mut(), turn, message);
    }
    let mut over: Vec<Turn> = Vec::new();
    for message in [data, text.as_bytes(), first.as_bytes(), second.as_bytes()] {
        let Ok(turn) = talk.whose(message) else { continue };
        let shown = talk.shown(turn, message, &plan(), &mut MaskCounts::default());
        for message in shown.into_iter().flatten() {
            assert!(parse(&message).is_ok(), "{message:?}");
        }
        over.extend(talk.over().into_iter().map(|over| over.turn));
    }
    let all = over.len();
    over.sort_unstable();
    over.dedup();
    assert_eq!(over.len(), all, "{over:?}");
}

fn conversation() -> Option<Box<dyn Conversation>> {
    let mut exchange = ModelApi::default().exchange();
    exchange.asks("fuzz");
    let headers = HeaderMap::new();
    exchange.converses(&Asked {
        method: &Method::GET,
        host: "models",
        path: "/v1/responses",
        query: None,
        headers: &headers,
    })
}

fn create(stream: &str, input: &str) -> Vec<u8> {
    let event = json!({"type": "response.create", "stream_id": stream, "model": "m", "input": input});
    event.to_string().into_bytes()
}

/// A message of the process.
fn said(talk: &mut dyn Conversation, turn: Turn, message: &[u8]) {
    let message = Bytes::copy_from_slice(message);
    talk.received(turn, &message);
    let permitted = match talk.asked(turn, &message, &plan()) {
        Ok(Question { mut obliged, .. }) => obliged.permitted(&DUTY),
        Err(refusal) => Err(refusal),
    };
    match permitted {
        Ok(changed) => {
            let body = changed.map_or(message, |changed| changed.body);
            let body = String::from_utf8_lossy(&body).into_owned();
            let (_, left) = prompt::masked("", &body, &plan());
            assert!(
                !CLASSES.iter().any(|class| left.contains(*class)),
                "{left:?}: {body}"
            );
            talk.sent(turn);
        }
        Err(refusal) => {
            let told = talk.refused(turn, &refusal);
            assert!(parse(&told).is_ok(), "{told:?}");
        }
    }
}

/// What a text becomes while another stream says something else.
fn spoken(pieces: &[&str]) -> String {
    let Some(mut talk) = conversation() else {
        return String::new();
    };
    said(talk.as_mut(), 1, &create("a", "ada@example.com"));
    said(talk.as_mut(), 2, &create("b", "x"));
    let mut out = String::new();
    let mut hear = |event: Value| {
        let event = event.to_string();
        let turn = talk.whose(event.as_bytes()).unwrap_or_default();
        let shown = talk.shown(turn, event.as_bytes(), &plan(), &mut MaskCounts::default());
        for message in shown.into_iter().flatten() {
            let event = parse(&message).unwrap_or_default();
            if event["stream_id"] == "a" {
                out.push_str(event["delta"].as_str().unwrap_or_default());
            }
        }
    };
    let text = |kind: &str, stream: &str, piece: &str| json!({"type": format!("response.output_text.{kind}"), "item_id": "i", "delta": piece, "stream_id": stream});
    for piece in pieces {
        hear(text("delta", "a", piece));
        hear(text("delta", "b", "4111 11"));
    }
    hear(json!({"type": "response.completed", "response": {"id": "r"}, "stream_id": "a"}));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_once_holds() {
        // The letter of an escape was taken for the first digit of an address.
        streams(b"\xe7+t\n::2:::\xff\xa6\xa6@88.8rr\x0c88888rr\x0c888:::\x05");
    }
}
