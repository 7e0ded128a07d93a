//! Messages of MCP: what they mean, what is refused, and in which words.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::mask::{Classes, MaskEngine, MaskKey, MaskPlan};
use crate::model::{Action, Facts, McpFacts, Operation, Refusal, RefusalKind, Ticket};
use crate::protocol::http::dialect::{Asked, Dialect, Speaks, Words};

use super::McpServer;

fn plan() -> MaskPlan {
    let classes = Classes::shipped().expect("classes");
    Arc::new(MaskEngine::new(classes, MaskKey::from_bytes(&[7; 32]))).plan(&BTreeSet::new())
}

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    let one = |(name, value): &(&str, &str)| {
        (
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        )
    };
    all.iter().map(one).collect()
}

/// What one request means, and the exchange to refuse it with.
fn ask(
    method: &Method,
    fields: &[(&str, &str)],
    body: &[u8],
) -> (Box<dyn Dialect>, Result<Vec<Operation>, Refusal>) {
    let headers = headers(fields);
    let asked = Asked {
        method,
        host: "tools.internal",
        path: "/mcp",
        query: None,
        headers: &headers,
    };
    let mut exchange = McpServer::default().exchange();
    let result = exchange.request(&asked, body, &plan());
    (exchange, result)
}

fn post(message: &Value) -> Result<Vec<Operation>, Refusal> {
    ask(&Method::POST, &[], message.to_string().as_bytes()).1
}

fn only(result: Result<Vec<Operation>, Refusal>) -> Operation {
    let mut all = result.expect("understood");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn facts(operation: &Operation) -> &McpFacts {
    let Facts::Mcp(facts) = &operation.facts else {
        panic!("{operation:?}");
    };
    facts
}

fn call(arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "query", "arguments": arguments}})
}

#[test]
fn every_method_is_an_action() {
    for (method, params, action) in [
        (
            "initialize",
            json!({"protocolVersion": "2025-11-25"}),
            Action::McpSession,
        ),
        ("ping", json!({}), Action::McpSession),
        ("tools/list", json!({}), Action::McpList),
        ("tools/call", json!({"name": "x"}), Action::McpToolCall),
        (
            "resources/read",
            json!({"uri": "file:///x"}),
            Action::McpResourceRead,
        ),
        (
            "resources/subscribe",
            json!({"uri": "file:///x"}),
            Action::McpResourceRead,
        ),
        (
            "prompts/get",
            json!({"name": "x", "arguments": {"a": "b"}}),
            Action::McpPromptGet,
        ),
        ("subscriptions/listen", json!({}), Action::McpListen),
        ("tasks/cancel", json!({"taskId": "7"}), Action::McpTask),
        ("vendor/doEverything", json!({}), Action::McpOther),
        ("", json!({}), Action::McpAnswer),
    ] {
        let message = json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params});
        assert_eq!(only(post(&message)).actions, [action].into(), "{method}");
    }
    // It answers what the server asked for a task.
    let update = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/update", "params": {"taskId": "7"}});
    let both = [Action::McpTask, Action::McpAnswer].into();
    assert_eq!(only(post(&update)).actions, both);
    let named = |name: &str| {
        ask(
            &Method::POST,
            &[("mcp-name", name)],
            update.to_string().as_bytes(),
        )
        .1
    };
    assert!(named("7").is_ok() && named("8").is_err());
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/cancelled"});
    assert_eq!(only(post(&notification)).actions, [Action::McpSession].into());
    let answer = json!({"jsonrpc": "2.0", "id": 3, "result": {"action": "accept"}});
    assert_eq!(only(post(&answer)).actions, [Action::McpAnswer].into());
    let events = [("accept", "text/event-stream")];
    assert_eq!(
        only(ask(&Method::GET, &events, b"").1).actions,
        [Action::McpListen].into()
    );
    assert_eq!(
        only(ask(&Method::DELETE, &[("mcp-session-id", "7")], b"").1).actions,
        [Action::McpSession].into()
    );
    assert_eq!(ask(&Method::GET, &[], b"").1, Ok(Vec::new()), "judged as HTTP");
}

#[test]
fn arguments_are_facts_and_what_is_sensitive_is_not_in_the_records() {
    let operation = only(post(&call(&json!({
        "SQL": "SELECT * FROM t WHERE mail = 'ada@example.com'", "limit": 5, "ids": ["a", "b"],
    }))));
    let facts = facts(&operation);
    assert_eq!(
        (facts.tool.as_str(), facts.method.as_str()),
        ("query", "tools/call")
    );
    assert!(facts.input.texts["sql"].contains("ada@example.com"));
    assert_eq!(facts.input.numbers["limit"], 5);
    assert_eq!(facts.input.lists["ids/*"].len(), 2);
    assert!(
        operation.text.starts_with("tools/call query {"),
        "{}",
        operation.text
    );
    assert!(!operation.text.contains("ada@example.com"), "{}", operation.text);
}

#[test]
fn the_identical_call_is_the_same_and_no_other_is() {
    let print = |message: &Value| only(post(message)).fingerprint;
    let first = print(&call(&json!({"a": 1, "b": [true]})));
    let mut again = call(&json!({"b": [true], "a": 1}));
    again["id"] = json!("another");
    again["params"]["_meta"] =
        json!({"progressToken": 9, "io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    assert_eq!(first, print(&again));
    let mut others = vec![
        call(&json!({"a": 2, "b": [true]})),
        call(&json!({"a": 1, "b": [true], "c": null})),
        call(&json!({"a": "1", "b": [true]})),
    ];
    let mut renamed = again.clone();
    renamed["params"]["name"] = json!("quer");
    let mut meant = again.clone();
    meant["params"]["_meta"]["tenant"] = json!("b");
    let mut beside = again.clone();
    beside["params"]["task"] = json!({"ttl": 1});
    others.extend([renamed, meant, beside]);
    for other in others {
        assert_ne!(first, print(&other), "{other}");
    }
}

#[test]
fn what_two_readers_could_see_differently_is_refused() {
    for (body, code) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
            -32700,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            -32700,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"Method":"tools/call","params":{}}"#,
            -32600,
        ),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, -32600),
        (r#"{"id":1,"method":"ping"}"#, -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["x"]}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":"{}"}}"#,
            -32602,
        ),
        ("{}{}", -32700),
        ("", -32700),
    ] {
        let (exchange, result) = ask(&Method::POST, &[], body.as_bytes());
        let refusal = result.expect_err(body);
        assert_eq!(refusal.kind, RefusalKind::NotUnderstood);
        let words = exchange.refusal(&refusal).expect("words");
        assert_eq!(words.status, StatusCode::BAD_REQUEST);
        assert_eq!(json(&words)["error"]["code"], code, "{body}");
    }
    let compressed = [("content-encoding", "gzip")];
    assert!(
        ask(
            &Method::POST,
            &compressed,
            call(&json!({})).to_string().as_bytes()
        )
        .1
        .is_err()
    );
}

#[test]
fn fields_must_agree_with_the_message() {
    let mut body = call(&json!({"region": "eu", "n": 5, "name": "Zoë"}));
    body["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let body = body.to_string();
    for (fields, right) in [
        (&[("mcp-method", "tools/call"), ("mcp-name", "query")][..], true),
        (&[("mcp-method", "tools/list")], false),
        (&[("mcp-protocol-version", "2026-07-28")], true),
        (&[("mcp-protocol-version", "2025-11-25")], false),
        (&[("mcp-name", "drop")], false),
        (&[("mcp-param-region", "eu"), ("mcp-param-n", "5")], true),
        (&[("mcp-param-region", "us")], false),
        (&[("mcp-param-name", "=?base64?Wm/Dqw==?=")], true),
        (&[("mcp-param-name", "=?base64?WvY=?=")], false),
    ] {
        let (exchange, result) = ask(&Method::POST, fields, body.as_bytes());
        assert_eq!(result.is_ok(), right, "{fields:?}");
        if let Err(refusal) = result {
            let words = exchange.refusal(&refusal).expect("words");
            assert_eq!(json(&words)["error"]["code"], -32020);
            assert_eq!(
                (words.status, json(&words)["id"].clone()),
                (StatusCode::BAD_REQUEST, json!(1))
            );
        }
    }
}

fn json(words: &Words) -> Value {
    serde_json::from_slice(&words.body).expect("JSON")
}

#[test]
fn a_refused_call_is_a_result_that_models_read() {
    let mut message = call(&json!({}));
    message["id"] = json!("seven");
    let (exchange, result) = ask(&Method::POST, &[], message.to_string().as_bytes());
    result.expect("understood");
    let refusal = Refusal::new(RefusalKind::Denied, "Not on production.", "Use staging.");
    let words = exchange.refusal(&refusal).expect("words");
    assert_eq!(
        (words.status, words.content_type),
        (StatusCode::OK, "application/json")
    );
    let answer = json(&words);
    assert_eq!(
        (&answer["id"], &answer["result"]["isError"]),
        (&json!("seven"), &json!(true))
    );
    let text = answer["result"]["content"][0]["text"].as_str().expect("text");
    assert!(
        text.starts_with("DENIED: Not on production. Use staging."),
        "{text}"
    );
    assert!(answer["result"].get("resultType").is_none());
    assert_eq!(
        answer["result"]["_meta"]["interdict.dev/refusal"]["outcome"],
        refusal.kind.name()
    );

    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let (exchange, result) = ask(&Method::POST, &[], message.to_string().as_bytes());
    result.expect("understood");
    let ticket: Ticket = "apr-k3m9xq".parse().expect("ticket");
    let kind = RefusalKind::PendingApproval {
        ticket,
        approvers: [crate::model::Group::new("dba")].into(),
    };
    let answer = json(
        &exchange
            .refusal(&Refusal::new(kind, "A DBA must agree.", ""))
            .expect("words"),
    );
    assert_eq!(answer["result"]["resultType"], "complete");
    let text = answer["result"]["content"][0]["text"].as_str().expect("text");
    assert!(
        text.starts_with("PENDING_APPROVAL: ") && text.contains("approve apr-k3m9xq"),
        "{text}"
    );
}

#[test]
fn other_requests_get_an_error_and_notifications_no_message() {
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let (exchange, result) = ask(&Method::POST, &[], list.to_string().as_bytes());
    result.expect("understood");
    let refusal = Refusal::new(RefusalKind::Denied, "No.", "");
    let words = exchange.refusal(&refusal).expect("words");
    let code = json(&words)["error"]["code"].as_i64().expect("code");
    assert_eq!(words.status, StatusCode::OK);
    assert!(!(-32768..=-32000).contains(&code));
    let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (exchange, result) = ask(&Method::POST, &[], told.to_string().as_bytes());
    result.expect("understood");
    assert_eq!(exchange.refusal(&refusal), None);
}

#[test]
fn what_is_said_to_the_agent_goes_no_further() {
    let answer = json!({"jsonrpc": "2.0", "id": "interdict-00", "result": {"action": "decline"}});
    let (mut exchange, result) = ask(&Method::POST, &[], answer.to_string().as_bytes());
    assert_eq!(result, Ok(Vec::new()));
    assert_eq!(
        exchange.own().map(|words| words.status),
        Some(StatusCode::ACCEPTED)
    );
    let mut retry = call(&json!({"a": 1}));
    retry["params"]["requestState"] = json!("interdict.1.4102444800.AAAA");
    retry["params"]["inputResponses"] = json!({"interdict-approval": {"action": "accept"}});
    let (exchange, result) = ask(&Method::POST, &[], retry.to_string().as_bytes());
    let refusal = result.expect_err("made up");
    let words = exchange.refusal(&refusal).expect("words");
    assert_eq!(json(&words)["error"]["code"], -32602);
    // A state of the server is the server's, and part of what is asked for.
    let mut theirs = retry.clone();
    theirs["params"]["requestState"] = json!("eyJ");
    let (mut exchange, result) = ask(&Method::POST, &[], theirs.to_string().as_bytes());
    assert!(facts(&only(result)).input.names.contains("requeststate"));
    assert_eq!((exchange.own(), exchange.body()), (None, None));
}

proptest! {
    #[test]
    fn arbitrary_bodies_do_no_harm(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (exchange, result) = ask(&Method::POST, &[], &body);
        if let Err(refusal) = result {
            prop_assert!(exchange.refusal(&refusal).is_some());
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_refused(cut in 0usize..90) {
        let body = call(&json!({"a": "é", "b": [1, {"c": null}]})).to_string();
        let cut = cut.min(body.len() - 1);
        prop_assert!(ask(&Method::POST, &[], &body.as_bytes()[..cut]).1.is_err());
    }
}
