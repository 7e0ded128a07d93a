//! Prompts, refusals and answers of models.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::json::parse;
use crate::mask::{CellMask, MaskEngine, MaskPlan};
use crate::model::{
    Action, Facts, Group, LlmFacts, MaskCounts, Operation, PolicyId, Refusal, RefusalKind, Ticket,
};
use crate::protocol::http::dialect::{Asked, Cut, Dialect, Speaks};

use super::ModelApi;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn plan() -> MaskPlan {
    static ENGINE: LazyLock<Arc<MaskEngine>> = LazyLock::new(Arc::default);
    ENGINE.plan(&[].into())
}

fn ask(
    path: &str,
    body: &str,
    fields: &[(&str, &str)],
) -> (Box<dyn Dialect>, Result<Vec<Operation>, Refusal>) {
    let one = |(name, value): &(&str, &str)| {
        (
            name.parse::<HeaderName>().expect("name"),
            HeaderValue::from_str(value).expect("value"),
        )
    };
    let headers: HeaderMap = fields.iter().map(one).collect();
    let asked = Asked {
        method: &Method::POST,
        host: "api.example.com",
        path,
        query: None,
        headers: &headers,
    };
    let mut exchange = ModelApi::default().exchange();
    let result = exchange.request(&asked, body.as_bytes(), &plan());
    (exchange, result)
}

fn facts(path: &str, body: &Value) -> (LlmFacts, Operation) {
    let mut all = ask(path, &body.to_string(), &[]).1.expect("understood");
    let operation = all.pop().expect("one");
    assert_eq!(operation.actions, [Action::LlmPrompt].into());
    let Facts::Llm(facts) = &operation.facts else {
        panic!("{operation:?}");
    };
    (facts.clone(), operation)
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn prompts_are_facts() {
    let (chat, operation) = facts(
        CHAT,
        &json!({"model": "gpt-5", "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "mail ada@example.com"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
                "name": "pay", "arguments": "{\"card\":\"4111\\u0020111111111111\"}"}}]}],
            "tools": [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]}),
    );
    assert_eq!((chat.api.as_str(), chat.model.as_str()), ("openai", "gpt-5"));
    assert_eq!(chat.tools, set(&["pay"]));
    assert!(chat.findings.contains("pii.email"), "{:?}", chat.findings);
    assert!(chat.attachments && !chat.stored && chat.bytes > 20);
    assert!(
        operation.text.contains("a***@e***.com") && !operation.text.contains("ada@"),
        "{}",
        operation.text
    );

    let (responses, _) = facts(
        RESPONSES,
        &json!({"model": "gpt-5", "input": "hello", "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "wiki"}]}),
    );
    assert_eq!(responses.tools, set(&["web_search", "wiki"]));
    assert!(responses.stored && !responses.attachments && responses.findings.is_empty());

    let (messages, _) = facts(
        &format!("/proxy{MESSAGES}/"),
        &json!({"model": "claude", "max_tokens": 5, "system": "card 4111 1111 1111 1111",
            "messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64",
                "media_type": "text/plain", "data": "bWFpbCBhZGFAZXhhbXBsZS5jb20="}}]}],
            "tools": [{"name": "grep", "input_schema": {"type": "object"}}]}),
    );
    assert_eq!(messages.api, "anthropic");
    assert_eq!(messages.tools, set(&["grep"]));
    assert!(messages.attachments && !messages.stored);
    assert_eq!(messages.findings.len(), 2, "{:?}", messages.findings);
}

#[test]
fn the_same_prompt_is_the_same_and_no_other_is() {
    let print = |path: &str, body: &Value| facts(path, body).1.fingerprint;
    let one = print(CHAT, &json!({"model": "a", "messages": []}));
    assert_eq!(one, print(CHAT, &json!({"messages": [], "model": "a"})));
    assert_ne!(one, print(CHAT, &json!({"messages": [], "model": "b"})));
    assert_ne!(one, print(RESPONSES, &json!({"messages": [], "model": "a"})));
    assert!(ask("/v1/files", "", &[]).1.expect("HTTP").is_empty());
}

#[test]
fn what_is_not_understood_is_refused_in_the_providers_words() {
    for (path, body) in [
        (CHAT, "[]"),
        (CHAT, r#"{"model":"a","Model":"b"}"#),
        (CHAT, r#"{"model":7}"#),
        (RESPONSES, r#"{"store":"no"}"#),
        (MESSAGES, r#"{"tools":{}}"#),
        (MESSAGES, "{"),
    ] {
        let (exchange, result) = ask(path, body, &[]);
        let words = exchange.refusal(&result.expect_err(body)).expect("words");
        assert_eq!(words.status, StatusCode::BAD_REQUEST);
        assert!(parse(&words.body).expect("JSON")["error"]["message"].is_string());
    }
}

#[test]
fn refusals_are_the_providers_own_and_are_not_retried() {
    let mut denied = Refusal::new(RefusalKind::Denied, "No keys.", "Take it out.");
    denied.policies = vec![PolicyId::new("no-secrets")];
    let pending = RefusalKind::PendingApproval {
        ticket: Ticket::from_random(7),
        approvers: [Group::new("owners")].into(),
    };
    let pending = Refusal::new(pending, "It needs an owner.", "");
    for (path, refusal, kind, text) in [
        (
            CHAT,
            &denied,
            "policy_denied",
            "DENIED: No keys. [policy no-secrets]",
        ),
        (RESPONSES, &denied, "policy_denied", "DENIED: No keys."),
        (MESSAGES, &denied, "permission_error", "DENIED: No keys."),
        (
            MESSAGES,
            &pending,
            "permission_error",
            "PENDING_APPROVAL: It needs an owner.",
        ),
    ] {
        let words = ask(path, "{}", &[]).0.refusal(refusal).expect("words");
        assert_eq!(words.status, StatusCode::FORBIDDEN);
        assert_eq!(words.fields, [("x-should-retry", "false")]);
        let body = parse(&words.body).expect("JSON");
        assert_eq!(body["error"]["type"], kind);
        assert!(
            body["error"]["message"]
                .as_str()
                .is_some_and(|m| m.starts_with(text)),
            "{body}"
        );
        assert_eq!(body["error"]["interdict"]["outcome"], refusal.kind.name());
        if path == MESSAGES {
            assert_eq!(body["type"], "error");
        } else {
            assert_eq!(body["error"]["code"], refusal.kind.name());
        }
    }
}

#[test]
fn the_table_of_refusals_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/REFUSALS-LLM.md");
    let table = std::fs::read_to_string(path).expect("the table");
    let ticket = Ticket::from_random(7);
    let kinds = [
        RefusalKind::Denied,
        RefusalKind::PendingApproval {
            ticket: ticket.clone(),
            approvers: [Group::new("owners")].into(),
        },
        RefusalKind::ApprovalDenied { ticket },
        RefusalKind::Identity,
        RefusalKind::Cancelled,
        RefusalKind::NotUnderstood,
        RefusalKind::Limit,
        RefusalKind::TimeLimit,
        RefusalKind::NotRecorded,
        RefusalKind::Unreachable,
    ];
    for kind in kinds {
        let name = kind.name();
        let refusal = Refusal::new(kind, "x", "");
        let words = |path: &str| ask(path, "{}", &[]).0.refusal(&refusal).expect("words");
        let (openai, anthropic) = (words(CHAT), words(MESSAGES));
        assert_eq!(
            (openai.status, openai.fields),
            (anthropic.status, anthropic.fields)
        );
        let (one, other) = (
            parse(&openai.body).expect("JSON"),
            parse(&anthropic.body).expect("JSON"),
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = format!(
            "| {name} | {} | {} | {} | {} | {} |",
            openai.status.as_u16(),
            text(&one["error"]["type"]),
            text(&one["error"]["code"]),
            text(&other["error"]["type"]),
            if openai.fields.is_empty() { "yes" } else { "no" }
        );
        assert!(table.contains(&line), "{line}");
    }
}

/// A stream of one text in these pieces.
type Stream = fn(&[&str]) -> Vec<String>;

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn named(value: &Value) -> String {
    format!(
        "event: {}\n{}",
        value["type"].as_str().unwrap_or_default(),
        data(value)
    )
}

fn chat_stream(pieces: &[&str]) -> Vec<String> {
    let chunk = |delta: Value, reason: Value| {
        data(
            &json!({"id": "c", "object": "chat.completion.chunk", "created": 1,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}),
        )
    };
    let mut all = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    all.extend(
        pieces
            .iter()
            .map(|piece| chunk(json!({"content": piece}), Value::Null)),
    );
    all.push(chunk(json!({}), json!("stop")));
    all.push(data(
        &json!({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}}),
    ));
    all.push("data: [DONE]\n\n".to_owned());
    all
}

fn chat_abrupt(pieces: &[&str]) -> Vec<String> {
    let last = pieces.len().saturating_sub(1);
    let one = |(nth, piece): (usize, &&str)| {
        let reason = if nth == last { json!("stop") } else { Value::Null };
        data(
            &json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": reason}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 34}}),
        )
    };
    pieces.iter().enumerate().map(one).collect()
}

fn chat_tools(pieces: &[&str]) -> Vec<String> {
    let chunk = |call: Value| {
        data(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": null}]}))
    };
    let mut all = vec![chunk(
        json!({"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}),
    )];
    all.extend(
        pieces
            .iter()
            .map(|piece| chunk(json!({"index": 0, "function": {"arguments": piece}}))),
    );
    // Cut off: the rest comes at the end of the stream all the same.
    all.push(data(
        &json!({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}}),
    ));
    all
}

fn responses_stream(pieces: &[&str]) -> Vec<String> {
    let place = |kind: &str| json!({"type": kind, "item_id": "m", "output_index": 0, "content_index": 0});
    let with = |kind: &str, name: &str, value: Value| {
        let mut event = place(kind);
        event[name] = value;
        event
    };
    let delta = |piece: &&str| named(&with("response.output_text.delta", "delta", json!(piece)));
    let whole = pieces.concat();
    let mut all: Vec<String> = pieces.iter().map(delta).collect();
    all.push(named(&with("response.output_text.done", "text", json!(whole))));
    let usage = json!({"input_tokens": 12, "output_tokens": 34});
    all.push(named(
        &json!({"type": "response.completed", "response": {"usage": usage, "output": [
        {"type": "message", "content": [{"type": "output_text", "text": whole}]}]}}),
    ));
    all
}

fn anthropic(kind: &str, member: &str, pieces: &[&str]) -> Vec<String> {
    let mut all = vec![named(
        &json!({"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}}),
    )];
    all.push(named(
        &json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
    ));
    all.extend(pieces.iter().map(|piece| {
        named(&json!({"type": "content_block_delta", "index": 1, "delta": {"type": kind, member: piece}}))
    }));
    all.push(named(&json!({"type": "content_block_stop", "index": 1})));
    all.push(named(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 34}})));
    all.push(named(&json!({"type": "message_stop"})));
    all
}

fn anthropic_text(pieces: &[&str]) -> Vec<String> {
    anthropic("text_delta", "text", pieces)
}

fn anthropic_tool(pieces: &[&str]) -> Vec<String> {
    anthropic("input_json_delta", "partial_json", pieces)
}

/// What the process gets of a stream: the events, and the joined text of its deltas.
fn shown(events: &[String]) -> (String, String, String) {
    let mut exchange = ask(CHAT, "{}", &[]).0;
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    assert_eq!(exchange.response(StatusCode::OK, &headers), Cut::Events);
    let (plan, mut counts, mut out) = (plan(), MaskCounts::default(), Vec::new());
    for event in events {
        out.extend(exchange.response_event(event.as_bytes(), &plan, &mut counts));
    }
    out.extend(exchange.response_end(&plan, &mut counts));
    let out = String::from_utf8(out).expect("text");
    let mut text = String::new();
    let mut ended = false;
    for line in out.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(event) = parse(line.as_bytes()) else {
            continue;
        };
        ended |= event["type"] == "content_block_stop" || event["type"] == "response.output_text.done";
        for at in [
            "/choices/0/delta/content",
            "/choices/0/delta/tool_calls/0/function/arguments",
            "/delta",
            "/delta/text",
            "/delta/partial_json",
        ] {
            if let Some(piece) = event.pointer(at).and_then(Value::as_str) {
                assert!(!ended || piece.is_empty(), "text behind its end: {out}");
                text.push_str(piece);
            }
        }
        ended |= event
            .pointer("/choices/0/finish_reason")
            .is_some_and(|reason| !reason.is_null());
    }
    (out, text, exchange.note())
}

/// The whole text masked at once.
fn masked(text: &str) -> String {
    let mut out = BytesMut::new();
    match plan().text(None, text.as_bytes(), &mut out, &mut MaskCounts::default()) {
        CellMask::Unchanged => text.to_owned(),
        CellMask::Replaced | CellMask::Null => String::from_utf8(out.to_vec()).expect("text"),
    }
}

const STREAMS: [Stream; 6] = [
    chat_stream,
    chat_abrupt,
    chat_tools,
    responses_stream,
    anthropic_text,
    anthropic_tool,
];
const TEXT: &str = "Héllo, ada@example.com pays with 4111 1111 1111 1111, 你好你好。 Bye";

#[test]
fn values_over_several_deltas_are_masked_wherever_they_are_cut() {
    for stream in STREAMS {
        let letters: Vec<String> = TEXT.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let mut ways = vec![letters];
        for (at, _) in TEXT.char_indices() {
            let (one, two) = TEXT.split_at(at);
            ways.push(vec![one, two]);
        }
        for pieces in ways {
            let (out, text, note) = shown(&stream(&pieces));
            assert_eq!(text, masked(TEXT), "{pieces:?}");
            assert!(!out.contains("ada@") && !out.contains("4111"), "{out}");
            let counted = if stream(&["x"]).concat().contains("usage") {
                "tokens: 12 in, 34 out"
            } else {
                ""
            };
            assert_eq!(note, counted);
        }
    }
}

#[test]
fn arguments_of_tools_hide_nothing_in_their_escapes() {
    let arguments = r#"{"to":"ada\u0040example.com","n":[1,true],"note":"a \"b\""}"#;
    let expected = r#"{"to":"a***@e***.com","n":[1,true],"note":"a \"b\""}"#;
    for stream in [chat_tools as Stream, anthropic_tool] {
        for at in 0..arguments.len() {
            let (one, two) = arguments.split_at(at);
            let (_, text, _) = shown(&stream(&[one, two]));
            assert_eq!(text, expected, "{at}");
        }
    }
}

#[test]
fn little_is_held_back() {
    let prose = "Le café est prêt, 世界你好 and so on; x = foo(bar) + 12. ".repeat(40);
    let letters: Vec<String> = prose.chars().map(String::from).collect();
    for end in (200..letters.len()).step_by(97) {
        let pieces: Vec<&str> = letters.iter().take(end).map(String::as_str).collect();
        let sent = pieces.concat().len();
        // Without its last events nothing ended the text; what is out so far counts.
        let mut exchange = ask(CHAT, "{}", &[]).0;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
        exchange.response(StatusCode::OK, &headers);
        let mut out = 0;
        for event in &chat_stream(&pieces)[..=pieces.len()] {
            let event = exchange.response_event(event.as_bytes(), &plan(), &mut MaskCounts::default());
            let event = String::from_utf8(event).expect("text");
            let value = parse(event.trim().trim_start_matches("data: ").as_bytes()).expect("JSON");
            out += value["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default()
                .len();
        }
        assert!(sent - out <= 128, "{} bytes are held back", sent - out);
    }
}

#[test]
fn whole_answers_are_masked_inside_of_strings_and_without_probabilities() {
    let answer = json!({"choices": [{"message": {"content": "mail ada@example.com", "tool_calls": [
        {"function": {"name": "f", "arguments": "{\"to\":\"bob\\u0040example.org\"}"}}]},
        "logprobs": {"content": [{"token": "ada@", "bytes": [97]}, {"token": "example.com"}]}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    let mut exchange = ask(CHAT, "{}", &[]).0;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(exchange.response(StatusCode::OK, &headers), Cut::Whole);
    let out = exchange.response_event(answer.to_string().as_bytes(), &plan(), &mut MaskCounts::default());
    let out = parse(&out).expect("JSON");
    let message = &out["choices"][0]["message"];
    assert_eq!(message["content"], "mail a***@e***.com");
    assert_eq!(
        message["tool_calls"][0]["function"]["arguments"],
        r#"{"to":"b***@e***.org"}"#
    );
    assert!(out["choices"][0]["logprobs"].is_null());
    assert_eq!(exchange.note(), "tokens: 3 in, 4 out");
    // Nothing to mask: every byte as it came.
    let plain = b"{ \"b\": 1.50, \"a\": \"x\" }";
    assert_eq!(
        exchange.response_event(plain, &plan(), &mut MaskCounts::default()),
        plain
    );
}

#[test]
fn a_stream_ends_with_the_providers_own_error_at_what_readers_see_differently() {
    let twice = r#"{"choices":[{"index":0,"delta":{"content":"ada@exam","content":"ada@exam"}}]}"#;
    for path in [CHAT, RESPONSES, MESSAGES] {
        let mut exchange = ask(path, "{}", &[]).0;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
        exchange.response(StatusCode::OK, &headers);
        let mut out = Vec::new();
        let events = [
            ": ping\n\n",
            "data: pong\n\n",
            &format!("data: {twice}\n\n"),
            "data: {\"a\": 1}\n\n",
        ];
        for event in events {
            out.extend(exchange.response_event(event.as_bytes(), &plan(), &mut MaskCounts::default()));
        }
        out.extend(exchange.response_end(&plan(), &mut MaskCounts::default()));
        let out = String::from_utf8(out).expect("text");
        let rest = out
            .strip_prefix(": ping\n\ndata: pong\n\n")
            .expect("what came before");
        assert_eq!(rest.starts_with("event: error\n"), path != CHAT, "{rest}");
        let data = rest
            .lines()
            .find_map(|line| line.strip_prefix("data: "))
            .expect("data");
        let data = parse(data.as_bytes()).expect("JSON");
        let message = data["error"]["message"].as_str().expect("message");
        assert!(message.contains("two ways") && !rest.contains("ada@"), "{rest}");
        assert_eq!(rest.matches("\n\n").count(), 1, "{rest}");
    }
}

#[test]
fn other_parts_of_the_api_are_operations_of_their_own() {
    let one = |path: &str, body: &Value| {
        let mut all = ask(path, &body.to_string(), &[]).1.expect("understood");
        let operation = all.pop().expect("one");
        let Facts::Llm(facts) = operation.facts else {
            panic!("{path}")
        };
        (operation.actions, facts.endpoint, facts.model, facts.findings)
    };
    let (actions, endpoint, model, findings) = one(
        "/openai/deployments/ada/embeddings",
        &json!({"input": ["ada@example.com"]}),
    );
    assert_eq!(
        (actions, endpoint.as_str(), model.as_str()),
        ([Action::LlmEmbed].into(), "embeddings", "ada")
    );
    assert_eq!(findings, set(&["pii.email"]));
    let (actions, endpoint, model, _) = one("/v1/completions", &json!({"model": "m", "prompt": "x"}));
    assert_eq!(
        (actions, endpoint.as_str(), model.as_str()),
        ([Action::LlmPrompt].into(), "completions", "m")
    );
    let mut exchange = ModelApi::default().exchange();
    let headers = HeaderMap::new();
    let get = Asked {
        method: &Method::GET,
        host: "x",
        path: "/v1/models/m",
        query: None,
        headers: &headers,
    };
    let read = exchange.request(&get, b"", &plan()).expect("understood");
    assert_eq!(read[0].actions, [Action::LlmRead].into());
    assert!(exchange.request(&get, b"{}", &plan()).is_err());
    assert!(exchange.obliged().is_none());
}

#[test]
fn vectors_come_back_as_they_are() {
    let numbers: Vec<f64> = (0..64)
        .map(|n| 0.453_201_511_283_036_6 + f64::from(n) * 1e-7)
        .collect();
    let answer = json!({"object": "list", "data": [{"embedding": numbers, "index": 0},
        {"embedding": "AACAPwAAAEA=", "index": 1}, {"embedding": "mail ada@example.com", "index": 2}],
        "model": "bob@example.com", "usage": {"prompt_tokens": 3, "total_tokens": 3}});
    let mut exchange = ask("/v1/embeddings", "{}", &[]).0;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    exchange.response(StatusCode::OK, &headers);
    let out = exchange.response_event(answer.to_string().as_bytes(), &plan(), &mut MaskCounts::default());
    let out = parse(&out).expect("JSON");
    assert_eq!(out["data"][0], answer["data"][0]);
    assert_eq!(out["data"][1], answer["data"][1]);
    assert_eq!(
        (&out["data"][2]["embedding"], &out["model"]),
        (&json!("mail a***@e***.com"), &json!("b***@e***.com"))
    );
    assert_eq!(exchange.note(), "tokens: 3 in, 0 out");
}

proptest! {
    #[test]
    fn arbitrary_events_and_prompts_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
        let mut exchange = ask(MESSAGES, &text, &[]).0;
        exchange.response(StatusCode::OK, &HeaderMap::new());
        exchange.response_event(&bytes, &plan(), &mut MaskCounts::default());
        exchange.response_event(format!("data: {text}\n\n").as_bytes(), &plan(), &mut MaskCounts::default());
        exchange.response_end(&plan(), &mut MaskCounts::default());
    }
}
