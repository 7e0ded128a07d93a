//! What hostile bytes of a server reach, and what bytes of a process do to a task, for the fuzzer.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::fuzz::{cut, now, plan};
use crate::model::{Action, Digest, MaskCounts, Offer, Refusal, RefusalKind, Timestamp};
use crate::protocol::http::dialect::{Asked, Dialect as _};
use crate::protocol::http::later::Shelf as _;
use crate::session::{AgentSpeech, Answer};

use super::McpServer;
use super::call::Call;
use super::message::Message;
use super::offers::{Looks, Sifted, sift};
use super::polled::ours;
use super::state;
use super::tasks::{Original, Step, Tasks, Turn};

/// Keeps every other entry, and every other request.
struct EveryOther(u32);

impl Looks for EveryOther {
    fn keeps(&mut self, _offer: &Offer, _entry: &Map<String, Value>) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn passes(&mut self, _method: &str, _params: Option<&Value>, _id: Option<&Value>) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn hears(&mut self, _uri: &str) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(2)
    }

    fn edits(&mut self, _message: &mut Value) -> bool {
        false
    }
}

struct Everything;

impl Looks for Everything {
    fn keeps(&mut self, _offer: &Offer, _entry: &Map<String, Value>) -> bool {
        true
    }

    fn passes(&mut self, _method: &str, _params: Option<&Value>, _id: Option<&Value>) -> bool {
        true
    }

    fn hears(&mut self, _uri: &str) -> bool {
        true
    }

    fn edits(&mut self, _message: &mut Value) -> bool {
        false
    }
}

/// What is left of a list has only what was kept, and looking again changes nothing.
pub(crate) fn offers(data: &[u8]) {
    let Sifted::Changed(shown) = sift(data, true, &mut EveryOther(0)) else {
        return;
    };
    match sift(shown.to_string().as_bytes(), true, &mut Everything) {
        Sifted::AsIs => {}
        Sifted::Changed(twice) => assert_eq!(twice, shown),
        Sifted::Withheld | Sifted::Unreadable => std::process::abort(),
    }
}

/// Nobody but the agent makes a state.
pub(crate) fn states(data: &[u8]) {
    let (Some(key), Ok(text)) = (state::key(), std::str::from_utf8(data)) else {
        return;
    };
    let bound = Digest::of(b"request");
    let now = Timestamp::from_seconds(1);
    assert!(state::open(&key, text, &bound, now).is_err());
    assert!(state::open(&key, &format!("interdict.{text}"), &bound, now).is_err());
}

/// A call that waits.
const CALL: &[u8] =
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"remove","arguments":{"who":"ada"}}}"#;

/// Whatever a server answers to a call that waited as a task, the client of the task is told of that task, in JSON. Whatever
/// a client writes about it goes to the server as that, with the server's id for it; and the call that goes on is the one
/// that was consented to.
pub(crate) fn tasks(data: &[u8]) {
    for kind in ["application/json", "text/event-stream", "text/plain"] {
        answered(data, kind);
    }
    let text = String::from_utf8_lossy(data);
    let about = |params: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tasks/update","params":{{"taskId":"interdict-task-7",{params}}}}}"#
        )
    };
    asked_about(data);
    asked_about(about(&text).as_bytes());
    asked_about(about(&format!("\"inputResponses\":{text}")).as_bytes());
    goes_on(data);
    goes_on(
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"remove","arguments":{text}}}}}"#)
            .as_bytes(),
    );
}

fn asked(headers: &HeaderMap) -> Asked<'_> {
    Asked {
        method: &Method::POST,
        host: "tools",
        path: "/mcp",
        query: None,
        headers,
    }
}

/// A task whose turn it is.
fn waiting() -> Option<(Arc<Tasks>, String, Arc<Turn>)> {
    let (tasks, bound) = (Arc::new(Tasks::default()), Digest::of(b"mine"));
    let call = Arc::new(Original::new(CALL, Vec::new())?);
    let kind = RefusalKind::PendingApproval {
        ticket: "apr-k3m9xq".parse().ok()?,
        approvers: ["owners".into()].into(),
    };
    let pending = Refusal::new(kind, "An owner must agree.", "");
    let task = tasks.open(bound, &call, &pending)?;
    let id = task.get("taskId")?.as_str()?.to_owned();
    match tasks.asked(&id, &bound, &json!(1)) {
        Ok(Step::Turn(turn, ..)) => Some((tasks, id, turn)),
        Ok(Step::Theirs(_) | Step::Told) | Err(_) => None,
    }
}

fn answered(data: &[u8], kind: &'static str) {
    let known = waiting();
    assert!(known.is_some());
    let Some((tasks, id, turn)) = known else { return };
    let mut exchange = McpServer::default().one();
    let _operations = exchange.request(&asked(&HeaderMap::new()), CALL, &plan());
    exchange.tasks.turn = Some(Arc::clone(&turn));
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    let _cut = exchange.response(StatusCode::OK, &headers);
    let (first, second) = cut(data);
    let pieces: &[&[u8]] = match kind {
        // Events come one by one.
        "text/event-stream" => &[first, second],
        _ => &[data],
    };
    let mut shown = Vec::new();
    for piece in pieces {
        shown.extend(exchange.response_event(piece, &plan(), &mut MaskCounts::default()));
    }
    let answer = Answer::say(AgentSpeech::status(shown), (StatusCode::OK, HeaderMap::new()));
    turn.keep(now(answer.keep(turn.most())).flatten());
    drop((exchange, turn));
    let body = tasks.told(&id, &json!("a")).answer().into_response().into_body();
    let whole = now(body.collect())
        .and_then(Result::ok)
        .map(|whole| whole.to_bytes());
    let told = crate::json::parse(&whole.unwrap_or_default()).unwrap_or_default();
    assert_eq!(
        (&told["id"], &told["result"]["taskId"]),
        (&json!("a"), &json!(id)),
        "{told}"
    );
    let status = told["result"]["status"].as_str().unwrap_or_default();
    assert!(matches!(status, "working" | "completed" | "failed"), "{told}");
}

fn call(body: &[u8]) -> Option<Call> {
    Call::of(Message::parse(body).ok()?).ok()
}

fn asked_about(body: &[u8]) {
    let Some(ours) = call(body).as_ref().and_then(ours).map(str::to_owned) else {
        return;
    };
    let mut exchange = McpServer::default().one();
    let theirs = ("theirs".to_owned(), ours);
    if exchange
        .stands_for(&asked(&HeaderMap::new()), body, theirs, &plan())
        .is_err()
    {
        return;
    }
    let sent = exchange.body.take().unwrap_or_default();
    assert_eq!(call(&sent).as_ref().and_then(Call::task), Some("theirs"));
    let (mut before, after) = (
        crate::json::parse(body).unwrap_or_default(),
        crate::json::parse(&sent),
    );
    if let Some(id) = before.pointer_mut("/params/taskId") {
        *id = json!("theirs");
    }
    assert_eq!(after.ok(), Some(before));
}

fn goes_on(body: &[u8]) {
    let headers = HeaderMap::new();
    let mut first = McpServer::default().one();
    let Ok(consented) = first.request(&asked(&headers), body, &plan()) else {
        return;
    };
    let able = first
        .call
        .as_ref()
        .is_some_and(|call| call.action == Action::McpToolCall && call.retry.is_none());
    let (Some(consented), Some(original)) = (consented.last(), Original::new(body, Vec::new())) else {
        return;
    };
    if !able {
        return;
    }
    let mut second = McpServer::default().one();
    let again = second.goes_on(&asked(&headers), &original, &plan());
    assert_eq!(
        again.ok().map(|operation| operation.fingerprint),
        Some(consented.fingerprint)
    );
    assert_eq!(second.body.as_deref(), Some(body));
}
