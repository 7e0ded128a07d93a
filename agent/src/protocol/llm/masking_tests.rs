//! Prompts that go out with aliases, and answers in which the process gets its own values back.

use std::sync::{Arc, LazyLock};

use hyper::Method;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::json::parse;
use crate::mask::{MaskEngine, MaskPlan};
use crate::model::{Alias, MaskCounts, PromptDuty, PromptMask, Refusal};
use crate::protocol::http::dialect::{Asked, Changed, Dialect, Speaks};

use super::ModelApi;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

fn plan() -> MaskPlan {
    static ENGINE: LazyLock<Arc<MaskEngine>> = LazyLock::new(Arc::default);
    ENGINE.plan(&[].into())
}

fn mask(back: &[&str], gone: &[&str]) -> PromptMask {
    let mut mask = PromptMask::default();
    for (names, alias) in [(back, Alias::Reversible), (gone, Alias::Final)] {
        for name in names {
            mask.0.insert(name.parse().expect("class"), alias);
        }
    }
    mask
}

/// What goes out, and the dialect that reads the answer.
fn sent(
    api: &ModelApi,
    who: &str,
    path: &str,
    body: &str,
    mask: &PromptMask,
) -> Result<(String, Box<dyn Dialect>, String), Refusal> {
    let mut exchange = api.exchange();
    exchange.asks(who);
    let asked = Asked {
        method: &Method::POST,
        host: "api.example.com",
        path,
        query: None,
        headers: &HeaderMap::new(),
    };
    let operations = exchange.request(&asked, body.as_bytes(), &plan())?;
    let mut obliged = exchange.obliged().expect("a prompt");
    let (body, text) = match obliged.permitted(&PromptDuty {
        mask: mask.clone(),
        counted: false,
    })? {
        None => (body.to_owned(), operations[0].text.clone()),
        Some(Changed { body, text }) => (
            String::from_utf8(body.to_vec()).expect("text"),
            text.expect("a text for the record"),
        ),
    };
    Ok((body, exchange, text))
}

fn answered(exchange: &mut dyn Dialect, kind: &str, pieces: &[String]) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(kind).expect("value"));
    exchange.response(StatusCode::OK, &headers);
    let (mut out, mut counts) = (Vec::new(), MaskCounts::default());
    for piece in pieces {
        out.extend(exchange.response_event(piece.as_bytes(), &plan(), &mut counts));
    }
    out.extend(exchange.response_end(&plan(), &mut counts));
    String::from_utf8(out).expect("text")
}

fn words(text: &str) -> Vec<&str> {
    let runs = text.split(|c: char| !c.is_ascii_alphabetic());
    runs.filter(|run| run.starts_with("Masked")).collect()
}

#[test]
fn values_go_out_as_aliases_wherever_they_stand() {
    let api = ModelApi::default();
    let body = r#"{"model":"m","n" : 1.50, "big":226902269097902269097666430974300,
        "messages":[{"role":"user","content":"mail ada@example.com or ada\u0040example.com"},
        {"role":"user","content":[{"type":"text","text":"{\"to\": \"ada@example.com\", \"n\": [1, 2.0]}"}]},
        {"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f",
        "arguments":"{\"card\":4111111111111111,\"ssn\":\"078051120\",\"x\":\"{\\\"to\\\":\\\"ada@example.com\\\"}\"}"}}]},
        {"role":"user","content":"data:text/plain;base64,bWFpbCBhZGFAZXhhbXBsZS5jb20="}]}"#;
    let all = mask(&["pii.email", "pci.card"], &["pii.ssn"]);
    let (out, exchange, text) = sent(&api, "alice", CHAT, body, &all).expect("masked");
    for gone in ["ada", "4111", "078051120", "YWRh"] {
        assert!(!out.contains(gone) && !text.contains(gone), "{gone}: {out}");
    }
    // The same value is the same word, and everything else is as it was.
    let email = words(&out)[0].to_owned();
    assert!(email.starts_with("MaskedPiiEmail"), "{email}");
    assert_eq!(
        words(&out).iter().filter(|word| **word == email).count(),
        4,
        "{out}"
    );
    assert!(text.contains(&email), "{text}");
    for kept in ["\"n\" : 1.50, ", "226902269097902269097666430974300", "[1, 2.0]"] {
        assert!(out.contains(kept), "{kept}: {out}");
    }
    let inner = parse(out.as_bytes()).expect("JSON");
    let arguments = inner.pointer("/messages/2/tool_calls/0/function/arguments");
    let arguments = parse(arguments.and_then(Value::as_str).expect("text").as_bytes()).expect("JSON");
    assert!(
        arguments["card"]
            .as_str()
            .is_some_and(|w| w.starts_with("MaskedPciCard"))
    );
    assert_eq!(
        exchange.note(),
        "masked in the prompt: 1 pci.card, 5 pii.email, 1 pii.ssn"
    );
    // Only what is named is masked; nothing is where nothing is named.
    let (out, ..) = sent(&api, "alice", CHAT, body, &mask(&[], &["pci.card"])).expect("masked");
    assert!(out.contains("ada@example.com") && !out.contains("4111"), "{out}");
    let (out, _, text) = sent(&api, "alice", CHAT, body, &PromptMask::default()).expect("as it is");
    assert_eq!(out, body);
    assert!(!text.contains("ada@"), "{text}");
}

#[test]
fn a_conversation_that_goes_on_has_the_same_aliases() {
    let api = ModelApi::default();
    let all = mask(&["pii.email"], &[]);
    let first = json!({"messages": [{"role": "user", "content": "mail ada@example.com"}]});
    let (one, mut exchange, _) = sent(&api, "alice", CHAT, &first.to_string(), &all).expect("masked");
    let word = words(&one)[0].to_owned();
    let answer = json!({"choices": [{"message": {"content": format!("I write to {word}.")}}]});
    let shown = answered(exchange.as_mut(), "application/json", &[answer.to_string()]);
    let shown = parse(shown.as_bytes()).expect("JSON");
    assert_eq!(
        shown["choices"][0]["message"]["content"],
        "I write to ada@example.com."
    );
    let mut second = first;
    let turn = json!({"role": "assistant", "content": "I write to ada@example.com."});
    second["messages"].as_array_mut().expect("list").push(turn);
    let (two, ..) = sent(&api, "alice", CHAT, &second.to_string(), &all).expect("masked");
    let head = one.strip_suffix("]}").expect("end");
    assert!(two.starts_with(head), "{one}\n{two}");
    assert_eq!(words(&two), [&word, &word]);
    // Nobody else's.
    let (other, mut exchange, _) = sent(&api, "bob", CHAT, &second.to_string(), &all).expect("masked");
    assert_ne!(words(&other)[0], word);
    let answer = json!({"text": word});
    assert_eq!(
        answered(exchange.as_mut(), "application/json", &[answer.to_string()]),
        answer.to_string()
    );
}

#[test]
fn what_cannot_be_masked_is_refused_and_what_is_final_stays() {
    let api = ModelApi::default();
    let body = json!({"messages": [{"role": "user", "content": "mail ada@example.com"}]}).to_string();
    let (out, mut exchange, _) =
        sent(&api, "alice", CHAT, &body, &mask(&[], &["pii.email"])).expect("masked");
    let answer = json!({"text": format!("to {}", words(&out)[0])}).to_string();
    assert_eq!(
        answered(
            exchange.as_mut(),
            "application/json",
            std::slice::from_ref(&answer)
        ),
        answer
    );
    // A wide text in base64, escaped once more, is found and cannot be written again.
    let hidden = r#"{"messages":[{"content":"{\"a\": \"ada\\u0040example.com\", 'x'}"}]}"#;
    let (out, ..) = sent(&api, "alice", CHAT, hidden, &mask(&[], &["pii.email"])).expect("undone");
    assert!(!out.contains("ada"), "{out}");
}

/// A stream of one text in these pieces, and where the text is in its events.
fn stream(path: &str, pieces: &[&str], arguments: bool) -> Vec<String> {
    let one = |piece: &&str| match (path, arguments) {
        (CHAT, false) => {
            json!({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": null}]})
        }
        (CHAT, true) => json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0,
            "function": {"arguments": piece}}]}, "finish_reason": null}]}),
        (MESSAGES, false) => {
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})
        }
        (MESSAGES, true) => json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": piece}}),
        (_, false) => json!({"type": "response.output_text.delta", "item_id": "m", "delta": piece}),
        (_, true) => {
            json!({"type": "response.function_call_arguments.delta", "item_id": "m", "delta": piece})
        }
    };
    let mut all: Vec<String> = pieces
        .iter()
        .map(|piece| format!("data: {}\n\n", one(piece)))
        .collect();
    if path == "/v1/responses" {
        let whole = pieces.concat();
        let done = json!({"type": "response.completed", "response": {"output": [{"type": "message", "content": [{"text": whole}]}]}});
        all.push(format!("data: {done}\n\n"));
    }
    all
}

fn joined(out: &str) -> String {
    let mut text = String::new();
    for line in out.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event = parse(line.as_bytes()).expect("JSON");
        for at in [
            "/choices/0/delta/content",
            "/choices/0/delta/tool_calls/0/function/arguments",
            "/delta",
            "/delta/text",
            "/delta/partial_json",
        ] {
            text.push_str(event.pointer(at).and_then(Value::as_str).unwrap_or_default());
        }
    }
    text
}

#[test]
fn aliases_over_several_deltas_become_values_wherever_they_are_cut() {
    let key = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        "QUJD\"\\/".repeat(9)
    );
    let both = mask(&["pii.email", "secret.pem"], &[]);
    for path in [CHAT, MESSAGES, "/v1/responses"] {
        let api = ModelApi::default();
        let body = json!({"input": ["ada@example.com", key]}).to_string();
        let (out, ..) = sent(&api, "alice", path, &body, &both).expect("masked");
        let found = words(&out);
        let (email, pem) = (found[0], found[1]);
        assert!(!out.contains("PRIVATE"), "{out}");
        let text = format!("é {email}s, Masked {email}{email} MaskedPii bob@example.com {pem} Mas");
        let expected = format!(
            "é ada@example.coms, Masked ada@example.comada@example.com MaskedPii b***@e***.com {key} Mas"
        );
        let arguments = json!({"to": email, "key": pem}).to_string();
        let arguments_back = json!({"to": "ada@example.com", "key": key}).to_string();
        for (text, expected, tools) in [(text, expected, false), (arguments, arguments_back, true)] {
            let cuts = text.char_indices().map(|(at, _)| at);
            for at in cuts.chain([text.len()]) {
                let (one, two) = text.split_at(at);
                let letters: Vec<String> = two.chars().map(String::from).collect();
                let mut pieces = vec![one];
                pieces.extend(
                    letters
                        .iter()
                        .map(String::as_str)
                        .take(if at == 0 { usize::MAX } else { 0 }),
                );
                if at > 0 {
                    pieces.push(two);
                }
                let (_, mut exchange, _) = sent(&api, "alice", path, &body, &both).expect("masked");
                let out = answered(
                    exchange.as_mut(),
                    "text/event-stream",
                    &stream(path, &pieces, tools),
                );
                assert_eq!(joined(&out), expected, "{path} {at}");
                if path == "/v1/responses" && !tools {
                    let last = out
                        .lines()
                        .rev()
                        .find_map(|line| line.strip_prefix("data: "))
                        .expect("done");
                    let done = parse(last.as_bytes()).expect("JSON");
                    assert_eq!(
                        done.pointer("/response/output/0/content/0/text"),
                        Some(&json!(expected))
                    );
                }
            }
        }
    }
}

#[test]
fn what_the_provider_signed_comes_back_to_it() {
    let api = ModelApi::default();
    let emails = mask(&["pii.email"], &[]);
    let body = json!({"messages": [{"role": "user", "content": "ada@example.com"}]}).to_string();
    let (out, mut exchange, _) = sent(&api, "alice", MESSAGES, &body, &emails).expect("masked");
    let word = words(&out)[0].to_owned();
    let whole = json!({"content": [{"type": "thinking", "thinking": word, "signature": "x"}, {"type": "text", "text": word}]});
    let shown = answered(exchange.as_mut(), "application/json", &[whole.to_string()]);
    let shown = parse(shown.as_bytes()).expect("JSON");
    assert_eq!(shown["content"][0]["thinking"], word);
    assert_eq!(shown["content"][1]["text"], "ada@example.com");
    let delta = |kind: &str, member: &str| {
        let event = json!({"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: word}});
        format!("data: {event}\n\n")
    };
    let (_, mut exchange, _) = sent(&api, "alice", MESSAGES, &body, &emails).expect("masked");
    let shown = answered(
        exchange.as_mut(),
        "text/event-stream",
        &[delta("thinking_delta", "thinking")],
    );
    assert!(shown.contains(&word) && !shown.contains("ada@"), "{shown}");
}

proptest! {
    /// What goes out holds no value of the class, and what an echo of it shows is what was sent.
    #[test]
    fn an_echo_is_what_was_sent(texts in proptest::collection::vec("(masked|Masked|[a-z\\\\\"\n é{}]|ada@example\\.com|\\{\"a\": ?\"){0,12}", 1..4)) {
        let api = ModelApi::default();
        let emails = mask(&["pii.email"], &[]);
        let body = json!({"input": texts}).to_string();
        let Ok((out, mut exchange, _)) = sent(&api, "alice", "/v1/responses", &body, &emails) else {
            return Ok(());
        };
        prop_assert!(!out.contains("@example.com"));
        let back = answered(exchange.as_mut(), "application/json", &[out]);
        let back = parse(back.as_bytes()).expect("JSON");
        prop_assert_eq!(back, parse(body.as_bytes()).expect("JSON"));
    }
}
