//! What prompts take is counted as the provider counts it, and estimated until then.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::json::parse;
use crate::mask::MaskEngine;
use crate::model::{Facts, MaskCounts, PromptDuty};
use crate::protocol::http::dialect::{Asked, Dialect, Speaks};
use crate::session::Ledger;

use super::ModelApi;

struct World {
    api: ModelApi,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let ledger = Ledger::open(&dir.path().join("usage.db")).expect("ledger");
        Self {
            api: ModelApi::counting(Arc::new(ledger), "models".into()),
            _dir: dir,
        }
    }

    /// A prompt that was permitted, as it goes out.
    fn ask(&self, path: &str, body: &Value) -> (Box<dyn Dialect>, String) {
        let mut exchange = self.api.exchange();
        exchange.asks("corp/alice");
        self.seen(exchange.as_mut(), path, body);
        let duty = PromptDuty {
            counted: true,
            ..PromptDuty::default()
        };
        let changed = exchange
            .obliged()
            .expect("a prompt")
            .permitted(&duty)
            .expect("permitted");
        let body = changed.map_or_else(
            || body.to_string(),
            |c| String::from_utf8(c.body.to_vec()).expect("text"),
        );
        (exchange, body)
    }

    fn seen(&self, exchange: &mut dyn Dialect, path: &str, body: &Value) -> (u64, u64) {
        let asked = Asked {
            method: &Method::POST,
            host: "x",
            path,
            query: None,
            headers: &HeaderMap::new(),
        };
        let plan = Arc::new(MaskEngine::default()).plan(&[].into());
        let operations = exchange
            .request(&asked, body.to_string().as_bytes(), &plan)
            .expect("understood");
        let Facts::Llm(facts) = &operations[0].facts else {
            panic!()
        };
        let hour = facts.usage.as_ref().expect("counted").hour;
        (hour.tokens, hour.requests)
    }

    fn hour(&self) -> (u64, u64) {
        let mut exchange = self.api.exchange();
        exchange.asks("corp/alice");
        self.seen(exchange.as_mut(), "/v1/moderations", &json!({"input": "x"}))
    }
}

fn answer(exchange: &mut dyn Dialect, status: u16, kind: &'static str, pieces: &[Value]) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(kind));
    exchange.response(StatusCode::from_u16(status).expect("status"), &headers);
    let plan = Arc::new(MaskEngine::default()).plan(&[].into());
    let mut out = Vec::new();
    for piece in pieces {
        let piece = match kind {
            "application/json" => piece.to_string(),
            _ => format!("data: {piece}\n\n"),
        };
        out.extend(exchange.response_event(piece.as_bytes(), &plan, &mut MaskCounts::default()));
    }
    String::from_utf8(out).expect("text")
}

#[test]
fn what_the_provider_counts_counts_and_until_then_it_is_estimated() {
    let world = World::new();
    let prompt = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(300)}]});
    let (mut exchange, _) = world.ask("/v1/messages", &prompt);
    let (estimated, requests) = world.hour();
    assert!(requests == 1 && (100..150).contains(&estimated), "{estimated}");
    let start = json!({"type": "message_start", "message": {"usage":
        {"input_tokens": 20, "cache_read_input_tokens": 1000, "output_tokens": 1}}});
    let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "y ".repeat(1500)}});
    answer(exchange.as_mut(), 200, "text/event-stream", &[start, delta]);
    assert_eq!(world.hour(), (2020, 1));
    let last = json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 700}});
    answer(exchange.as_mut(), 200, "text/event-stream", &[last]);
    drop(exchange);
    assert_eq!(world.hour(), (1720, 1));
    // An answer that broke off counts as far as it came; what the provider refused counts as a request only.
    let (exchange, _) = world.ask("/v1/messages", &prompt);
    drop(exchange);
    assert_eq!(world.hour(), (1720 + estimated, 2));
    let (mut exchange, _) = world.ask("/v1/messages", &prompt);
    answer(
        exchange.as_mut(),
        429,
        "application/json",
        &[json!({"type": "error", "error": {"message": "slow down"}})],
    );
    drop(exchange);
    assert_eq!(world.hour(), (1720 + estimated, 3));
}

#[test]
fn streamed_chats_are_asked_to_count_and_the_process_does_not_see_it() {
    let world = World::new();
    let chat = |options: Value| {
        let mut body = json!({"model": "m", "messages": [], "stream": true});
        if !options.is_null() {
            body["stream_options"] = options;
        }
        body
    };
    let chunk =
        json!({"choices": [{"index": 0, "delta": {"content": "hi "}, "finish_reason": null}], "usage": null});
    let counted = json!({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5000}});
    let (mut exchange, body) = world.ask("/v1/chat/completions", &chat(Value::Null));
    let sent = parse(body.as_bytes()).expect("JSON");
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    let shown = answer(
        exchange.as_mut(),
        200,
        "text/event-stream",
        &[chunk.clone(), counted.clone()],
    );
    assert!(shown.contains("hi") && !shown.contains("5000"), "{shown}");
    assert_eq!(world.hour(), (5012, 1));
    // Who asks, or does not want to be told, gets what was asked for.
    for options in [
        json!({"include_usage": true}),
        json!({"include_usage": false}),
        json!({}),
    ] {
        let asked = chat(options);
        let (mut exchange, body) = world.ask("/v1/chat/completions", &asked);
        assert_eq!(body, asked.to_string());
        let shown = answer(
            exchange.as_mut(),
            200,
            "text/event-stream",
            &[chunk.clone(), counted.clone()],
        );
        assert!(shown.contains("5000"), "{shown}");
    }
}
