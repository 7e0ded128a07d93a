//! WebSockets of the responses API: prompts in them are judged like those over HTTP, and what comes back is masked for the
//! message that asked for it, wherever it is cut and whatever comes in between.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Value, json};

use crate::json::parse;
use crate::mask::{MaskEngine, MaskPlan};
use crate::model::{
    Alias, Facts, LlmFacts, MaskCounts, OutcomeStatus, PromptDuty, PromptMask, Refusal, RefusalKind,
};
use crate::protocol::http::conversation::{Conversation, Over, Turn};
use crate::protocol::http::dialect::{Asked, Changed, Speaks};
use crate::session::Ledger;

use super::ModelApi;

const PATH: &str = "/openai/v1/responses";

fn plan() -> MaskPlan {
    static ENGINE: LazyLock<Arc<MaskEngine>> = LazyLock::new(Arc::default);
    ENGINE.plan(&[].into())
}

fn asked<'a>(method: &'a Method, path: &'a str, headers: &'a HeaderMap) -> Asked<'a> {
    Asked {
        method,
        host: "api.example.com",
        path,
        query: None,
        headers,
    }
}

/// One WebSocket.
struct Socket {
    talk: Box<dyn Conversation>,
    last: Turn,
    over: Vec<Over>,
}

impl Socket {
    fn new(api: &ModelApi) -> Self {
        let mut exchange = api.exchange();
        exchange.asks("corp/alice");
        let headers = HeaderMap::new();
        let talk = exchange.converses(&asked(&Method::GET, PATH, &headers));
        Self {
            talk: talk.expect("a conversation"),
            last: 0,
            over: Vec::new(),
        }
    }

    /// What becomes of a message: its facts and what goes to the provider, or what the process is told.
    fn send_masked(&mut self, text: &str, mask: &PromptMask) -> Result<(LlmFacts, String), Value> {
        self.last += 1;
        let turn = self.last;
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.talk.received(turn, &bytes);
        let question = self.talk.asked(turn, &bytes, &plan());
        let mut question = question.map_err(|refusal| self.refused(turn, &refusal))?;
        let duty = PromptDuty {
            mask: mask.clone(),
            counted: false,
        };
        let changed = question.obliged.permitted(&duty).expect("permitted");
        self.talk.sent(turn);
        let Facts::Llm(facts) = question.operation.facts else {
            panic!("a prompt");
        };
        let body = changed.map_or(bytes, |Changed { body, text: _ }| body);
        Ok((facts, String::from_utf8(body.to_vec()).expect("text")))
    }

    fn refused(&mut self, turn: Turn, refusal: &Refusal) -> Value {
        parse(&self.talk.refused(turn, refusal)).expect("JSON")
    }

    fn send(&mut self, event: &Value) -> LlmFacts {
        let sent = self.send_masked(&event.to_string(), &PromptMask::default());
        sent.expect("sent").0
    }

    /// What the process sees of an event.
    fn hear(&mut self, event: &Value) -> Vec<Value> {
        let text = event.to_string();
        let turn = self.talk.whose(text.as_bytes()).expect("an event");
        let shown = self
            .talk
            .shown(turn, text.as_bytes(), &plan(), &mut MaskCounts::default());
        self.over.extend(self.talk.over());
        shown
            .expect("shown")
            .iter()
            .map(|message| parse(message).expect("JSON"))
            .collect()
    }

    fn ended(&mut self) -> Vec<(Turn, OutcomeStatus, String)> {
        let over = std::mem::take(&mut self.over);
        over.into_iter().map(|o| (o.turn, o.status, o.detail)).collect()
    }
}

fn with_stream(mut event: Value, stream: Option<&str>) -> Value {
    if let Some(stream) = stream {
        event["stream_id"] = stream.into();
    }
    event
}

fn create(input: &str, stream: Option<&str>) -> Value {
    with_stream(
        json!({"type": "response.create", "model": "m", "input": input}),
        stream,
    )
}

fn begun(id: &str, previous: Option<&str>, stream: Option<&str>) -> Value {
    let response =
        json!({"id": id, "previous_response_id": previous, "status": "in_progress", "usage": null});
    with_stream(json!({"type": "response.created", "response": response}), stream)
}

fn ended(kind: &str, id: &str, stream: Option<&str>) -> Value {
    let usage = json!({"input_tokens": 5, "output_tokens": 3});
    with_stream(
        json!({"type": kind, "response": {"id": id, "usage": usage}}),
        stream,
    )
}

fn delta(text: &str, stream: Option<&str>) -> Value {
    let event = json!({"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0, "delta": text});
    with_stream(event, stream)
}

fn done(stream: Option<&str>) -> Value {
    let event = json!({"type": "response.output_text.done", "item_id": "i", "output_index": 0, "content_index": 0, "text": ""});
    with_stream(event, stream)
}

fn joined(shown: &[Value], stream: Option<&str>) -> String {
    let of = |event: &&Value| event.get("stream_id").and_then(Value::as_str) == stream;
    let deltas = shown.iter().filter(of);
    deltas.filter_map(|event| event["delta"].as_str()).collect()
}

fn reversible(names: &[&str]) -> PromptMask {
    let mut mask = PromptMask::default();
    for name in names {
        mask.0.insert(name.parse().expect("class"), Alias::Reversible);
    }
    mask
}

#[test]
fn texts_of_two_streams_are_joined_wherever_they_are_cut() {
    let (one, two) = (
        "Write to ada@example.com now",
        "card 4111 1111 1111 1111 or bob@example.org",
    );
    for cut in 0..=one.len() {
        let mut socket = Socket::new(&ModelApi::default());
        socket.send(&create("a", Some("a")));
        socket.send(&create("b", None));
        let mut shown = socket.hear(&begun("ra", None, Some("a")));
        shown.extend(socket.hear(&begun("rb", None, None)));
        let (head, tail) = one.split_at(cut);
        let (first, rest) = two.split_at(cut.min(two.len()));
        for event in [
            delta(head, Some("a")),
            delta(first, None),
            delta(tail, Some("a")),
            delta(rest, None),
            done(None),
            done(Some("a")),
            ended("response.completed", "ra", Some("a")),
            ended("response.completed", "rb", None),
        ] {
            shown.extend(socket.hear(&event));
        }
        assert_eq!(joined(&shown, Some("a")), "Write to a***@e***.com now", "{cut}");
        assert_eq!(
            joined(&shown, None),
            "card **** **** **** 1111 or b***@e***.org",
            "{cut}"
        );
        let all: String = shown.iter().map(Value::to_string).collect();
        for secret in ["ada@", "4111 1111", "bob@"] {
            assert!(!all.contains(secret), "{cut}: {all}");
        }
        let note = "completed; tokens: 5 in, 3 out".to_owned();
        let completed = OutcomeStatus::Completed;
        assert_eq!(
            socket.ended(),
            [(1, completed, note.clone()), (2, completed, note)]
        );
    }
}

/// The whole text of an event may be cut into messages of one byte each.
#[test]
fn every_kind_of_text_is_joined_byte_by_byte() {
    for kind in [
        "response.output_text",
        "response.function_call_arguments",
        "response.reasoning_summary_text",
        "response.mcp_call_arguments",
        "response.custom_tool_call_input",
    ] {
        let mut socket = Socket::new(&ModelApi::default());
        socket.send(&create("a", None));
        let mut shown = socket.hear(&begun("r", None, None));
        for letter in "{\"to\": \"ada@example.com\"}".chars() {
            let event = json!({"type": format!("{kind}.delta"), "item_id": "i", "output_index": 0, "delta": letter.to_string()});
            shown.extend(socket.hear(&event));
        }
        shown
            .extend(socket.hear(&json!({"type": format!("{kind}.done"), "item_id": "i", "output_index": 0})));
        assert_eq!(joined(&shown, None), "{\"to\": \"a***@e***.com\"}", "{kind}");
    }
}

/// What stands beside a text is masked in the event that brings the rest of it, too: over HTTP and here.
#[test]
fn the_event_of_a_rest_holds_nothing_unmasked() {
    let mut socket = Socket::new(&ModelApi::default());
    socket.send(&create("a", None));
    let mut shown = socket.hear(&begun("r", None, None));
    let mut event = delta("mail ada@exam", None);
    event["note"] = "bob@example.com".into();
    shown.extend(socket.hear(&event));
    shown.extend(socket.hear(&done(None)));
    let all: String = shown.iter().map(Value::to_string).collect();
    assert!(all.contains("ada@exam") && !all.contains("bob@"), "{all}");
    let mut exchange = ModelApi::default().exchange();
    let mut counts = MaskCounts::default();
    let mut out = exchange.response_event(format!("data: {event}\n\n").as_bytes(), &plan(), &mut counts);
    out.extend(exchange.response_end(&plan(), &mut counts));
    let out = String::from_utf8(out).expect("text");
    assert!(out.contains("ada@exam") && !out.contains("bob@"), "{out}");
}

#[test]
fn a_prompt_has_the_facts_that_it_has_over_http() {
    let members = json!({
        "model": "m", "input": [{"role": "user", "content": [
            {"type": "input_text", "text": "mail ada@example.com"}, {"type": "input_image", "image_url": "x"},
        ]}],
        "tools": [{"type": "function", "name": "send"}, {"type": "web_search"}], "store": false,
    });
    let mut exchange = ModelApi::default().exchange();
    let headers = HeaderMap::new();
    let over_http = exchange
        .request(
            &asked(&Method::POST, PATH, &headers),
            members.to_string().as_bytes(),
            &plan(),
        )
        .expect("read");
    let Facts::Llm(over_http) = &over_http[0].facts else {
        panic!("a prompt");
    };
    let mut event = members;
    event["type"] = "response.create".into();
    event["stream_id"] = "lane".into();
    let facts = Socket::new(&ModelApi::default()).send(&event);
    assert_eq!(facts, *over_http);
    assert!(
        facts.attachments && !facts.stored && facts.tools.len() == 2,
        "{facts:?}"
    );
    assert!(facts.findings.contains("pii.email"), "{facts:?}");
}

#[test]
fn what_is_not_understood_is_refused_in_an_event_of_its_stream() {
    let long = "x".repeat(300);
    let table = [
        ("hello".to_owned(), "JSON", None),
        ("[1]".into(), "no object", None),
        (r#"{"type": "response.create", "type": "x"}"#.into(), "JSON", None),
        (
            r#"{"type": "response.create", "input": "x", "Input": "y"}"#.into(),
            "JSON",
            None,
        ),
        (r#"{"input": "x"}"#.into(), "type", None),
        (
            r#"{"type": "response.cancel", "stream_id": "s"}"#.into(),
            "type",
            Some("s"),
        ),
        (
            json!({"type": "response.create", "response": {"model": "m"}, "stream_id": "s"}).to_string(),
            "below \"response\"",
            Some("s"),
        ),
        (
            json!({"type": "response.create", "background": true}).to_string(),
            "background",
            None,
        ),
        (
            json!({"type": "response.create", "stream_id": 7}).to_string(),
            "stream_id",
            None,
        ),
        (
            json!({"type": "response.create", "stream_id": long}).to_string(),
            "stream_id",
            None,
        ),
        (
            json!({"type": "response.create", "stream_id": "ada@example.com"}).to_string(),
            "stream_id",
            Some("ada@example.com"),
        ),
        (
            json!({"type": "response.create", "model": 7}).to_string(),
            "model",
            None,
        ),
        (
            json!({"type": "response.create", "tools": 7}).to_string(),
            "tools",
            None,
        ),
    ];
    for (text, why, stream) in table {
        let told = Socket::new(&ModelApi::default()).send_masked(&text, &PromptMask::default());
        let told = told.expect_err(&text);
        assert_eq!(
            (&told["type"], &told["status"]),
            (&json!("error"), &json!(400)),
            "{told}"
        );
        assert_eq!(told["error"]["code"], "not_understood", "{told}");
        assert_eq!(told["error"]["type"], "policy_denied", "{told}");
        assert_eq!(told["error"]["interdict"]["outcome"], "not_understood", "{told}");
        let message = told["error"]["message"].as_str().expect("message");
        assert!(message.contains(why), "{message}");
        assert_eq!(told.get("stream_id").and_then(Value::as_str), stream, "{told}");
    }
    let mut socket = Socket::new(&ModelApi::default());
    for event in ["no JSON", "7", r#"{"type": "a", "type": "b"}"#] {
        assert!(socket.talk.whose(event.as_bytes()).is_err(), "{event}");
    }
}

#[test]
fn other_websockets_are_not_read() {
    for path in [
        "/v1/realtime",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses/compact",
        "/",
    ] {
        let mut exchange = ModelApi::default().exchange();
        let headers = HeaderMap::new();
        assert!(
            exchange.converses(&asked(&Method::GET, path, &headers)).is_none(),
            "{path}"
        );
    }
}

#[test]
fn aliases_go_out_and_values_come_back_in_pieces() {
    let api = ModelApi::default();
    let text = create("mail ada@example.com", Some("s")).to_string();
    let (_, body) = Socket::new(&api)
        .send_masked(&text, &reversible(&["pii.email"]))
        .expect("sent");
    assert!(
        !body.contains("ada@") && body.contains("\"stream_id\":\"s\""),
        "{body}"
    );
    let at = body.find("MaskedPiiEmail").expect("an alias");
    let alias: String = body
        .split_at(at)
        .1
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    for cut in 0..=alias.len() {
        let mut socket = Socket::new(&api);
        socket
            .send_masked(&text, &reversible(&["pii.email"]))
            .expect("sent");
        let mut shown = socket.hear(&begun("r", None, Some("s")));
        let (first, rest) = alias.split_at(cut);
        for piece in ["to ", first, rest, " now, not eve@example.com"] {
            shown.extend(socket.hear(&delta(piece, Some("s"))));
        }
        shown.extend(socket.hear(&done(Some("s"))));
        assert_eq!(
            joined(&shown, Some("s")),
            "to ada@example.com now, not e***@e***.com",
            "{cut}"
        );
        let conceals = socket.talk.conceals(1).expect("something is put in");
        let all: String = shown.iter().map(Value::to_string).collect();
        let recorded = String::from_utf8(conceals(all.as_bytes())).expect("text");
        assert!(!recorded.contains("ada@"), "{recorded}");
        let note = "completed; tokens: 5 in, 3 out; masked in the prompt: 1 pii.email";
        socket.hear(&ended("response.completed", "r", Some("s")));
        assert_eq!(socket.ended(), [(1, OutcomeStatus::Completed, note.to_owned())]);
    }
}

#[test]
fn responses_of_one_stream_follow_one_another() {
    let mut socket = Socket::new(&ModelApi::default());
    for input in ["a", "b", "c", "d"] {
        socket.send(&create(input, None));
    }
    socket.hear(&begun("r1", None, None));
    socket.hear(&ended("response.incomplete", "r1", None));
    socket.hear(&begun("r2", None, None));
    socket.hear(&ended("response.failed", "r2", None));
    // Said once more behind its end: it is not the next one's.
    socket.hear(&ended("response.failed", "r2", None));
    socket.hear(&json!({"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}}));
    socket.hear(&begun("r4", None, None));
    let note = |kind: &str| format!("{kind}; tokens: 5 in, 3 out");
    assert_eq!(
        socket.ended(),
        [
            (1, OutcomeStatus::Completed, note("incomplete")),
            (2, OutcomeStatus::Failed, note("failed")),
            (3, OutcomeStatus::Failed, "error 400".to_owned()),
        ]
    );
    assert_eq!(socket.talk.abandoned(4), "");
    // Nobody asked for it: it ends nothing, and is masked all the same.
    let shown = socket
        .hear(&json!({"type": "response.completed", "response": {"id": "x", "note": "ada@example.com"}}));
    assert!(!shown[0].to_string().contains("ada@"), "{shown:?}");
}

#[test]
fn who_steers_a_response_has_its_settings_and_its_successor() {
    let mut socket = Socket::new(&ModelApi::default());
    let steer = |of: &str| json!({"type": "response.steer", "previous_response_id": of, "input": "mail ada@example.com"});
    let told = socket.send_masked(&steer("r1").to_string(), &PromptMask::default());
    let told = told.expect_err("not made here");
    assert_eq!(told["type"], "response.steer.failed", "{told}");
    assert_eq!(told["steer"]["input"], "mail ada@example.com", "{told}");
    assert_eq!(told["error"]["code"], "not_understood", "{told}");
    let mut first = create("a", Some("s"));
    first["tools"] = json!([{"type": "web_search"}]);
    socket.send(&first);
    socket.hear(&begun("r1", None, Some("s")));
    let facts = socket.send(&steer("r1"));
    assert_eq!((facts.model.as_str(), facts.stored), ("m", true));
    assert!(
        facts.tools.contains("web_search") && facts.findings.contains("pii.email"),
        "{facts:?}"
    );
    socket.send(&steer("r1"));
    let accepted = |id: &str| json!({"type": "response.steer.accepted", "steer": {"id": id, "previous_response_id": "r1"}, "stream_id": "s"});
    socket.hear(&accepted("s1"));
    socket.hear(&accepted("s2"));
    socket.hear(&ended("response.incomplete", "r1", Some("s")));
    socket.hear(&begun("r2", Some("r1"), Some("s")));
    let shown = socket.hear(&delta("ada@example.com ", Some("s")));
    assert_eq!(joined(&shown, Some("s")), "a***@e***.com ");
    socket.hear(&ended("response.completed", "r2", Some("s")));
    let completed = |turn, detail: &str| (turn, OutcomeStatus::Completed, detail.to_owned());
    assert_eq!(
        socket.ended(),
        [
            completed(2, "incomplete; tokens: 5 in, 3 out"),
            completed(4, "went on with another message"),
            completed(3, "completed; tokens: 5 in, 3 out"),
        ]
    );
    // What waits for a tool's answer goes on with the prompt that brings it.
    socket.send(&steer("r2"));
    let pending = json!({"type": "response.steer.pending", "steer": {"id": "s3", "previous_response_id": "r2"}, "stream_id": "s"});
    socket.hear(&pending);
    let mut answer = create("tool", Some("s"));
    answer["previous_response_id"] = "r2".into();
    socket.send(&answer);
    socket.hear(&begun("r3", Some("r2"), Some("s")));
    socket.hear(&ended("response.completed", "r3", Some("s")));
    assert_eq!(
        socket.ended(),
        [
            completed(5, "went on with another message"),
            completed(6, "completed; tokens: 5 in, 3 out"),
        ]
    );
    socket.send(&steer("r3"));
    socket.hear(&json!({"type": "response.steer.failed", "steer": {"previous_response_id": "r3", "input": "x"}, "error": {"code": "steering_not_supported"}}));
    assert_eq!(
        socket.ended(),
        [(7, OutcomeStatus::Failed, "not steered".to_owned())]
    );
    let mut more = steer("r3");
    more["stream_id"] = "s".into();
    assert!(
        socket
            .send_masked(&more.to_string(), &PromptMask::default())
            .is_err()
    );
}

/// A provider without streams does not say whose its events are; as long as one message is open, they are its.
#[test]
fn events_without_a_stream_are_those_of_the_only_message() {
    let mut socket = Socket::new(&ModelApi::default());
    socket.send(&create("a", Some("s")));
    socket.hear(&delta("x", None));
    socket.hear(&ended("response.completed", "r", None));
    let note = "completed; tokens: 5 in, 3 out".to_owned();
    assert_eq!(socket.ended(), [(1, OutcomeStatus::Completed, note)]);
}

#[test]
fn tokens_are_counted_for_each_message() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ledger = Arc::new(Ledger::open(&dir.path().join("usage.db")).expect("ledger"));
    let api = ModelApi::counting(ledger, "models".into());
    let mut socket = Socket::new(&api);
    let tokens = |facts: &LlmFacts| {
        facts
            .usage
            .as_ref()
            .map(|usage| (usage.hour.tokens, usage.hour.requests))
    };
    assert_eq!(tokens(&socket.send(&create("a", None))), Some((0, 0)));
    socket.hear(&begun("r1", None, None));
    socket.hear(&ended("response.completed", "r1", None));
    assert_eq!(tokens(&socket.send(&create("b", None))), Some((8, 1)));
    // What the provider refuses takes nothing; what is cut off takes what was said.
    socket.hear(&json!({"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded"}}));
    assert_eq!(tokens(&socket.send(&create("c", None))), Some((8, 2)));
    socket.hear(&begun("r3", None, None));
    socket.hear(&delta(&"word ".repeat(300), None));
    socket.talk.abandoned(3);
    let (more, requests) = tokens(&socket.send(&create("d", None))).expect("counted");
    assert!(more >= 8 + 500 && requests == 3, "{more}");
}

#[test]
fn what_is_held_back_is_shown_where_the_provider_leaves() {
    let mut socket = Socket::new(&ModelApi::default());
    socket.send(&create("a", None));
    socket.hear(&begun("r", None, None));
    let mut shown = socket.hear(&delta("mail ada@exa", None));
    let left = socket.talk.left(1, &plan(), &mut MaskCounts::default());
    shown.extend(left.iter().map(|message| parse(message).expect("JSON")));
    assert_eq!(joined(&shown, None), "mail ada@exa");
    assert_eq!(socket.talk.left(1, &plan(), &mut MaskCounts::default()).len(), 0);
}

#[test]
fn a_refusal_has_the_status_of_its_kind() {
    let mut socket = Socket::new(&ModelApi::default());
    let text = Bytes::from(create("a", Some("s")).to_string());
    socket.talk.received(1, &text);
    let told = socket.refused(1, &Refusal::new(RefusalKind::Denied, "No.", ""));
    assert_eq!(
        (&told["status"], &told["stream_id"]),
        (&json!(403), &json!("s")),
        "{told}"
    );
    // From before errors had a member of their own.
    assert_eq!(told["code"], "denied", "{told}");
    assert_eq!(told["message"], told["error"]["message"], "{told}");
}
