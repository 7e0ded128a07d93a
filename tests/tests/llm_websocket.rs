//! Responses over WebSocket end to end: the official clients for Python (`client.responses.connect()`) and TypeScript
//! (`ResponsesWS`) under `interdict run`. The provider is a stand-in, because no real one can be had here; its WebSocket is that
//! of the package websockets.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::path::Path;
use std::time::{Duration, Instant};

use interdict_tests::http::SECRET;
use interdict_tests::models::Models;
use interdict_tests::tools::{can_ask_models, can_speak_over_websockets, repository, tool};
use interdict_tests::world::kinds;
use interdict_tests::{can_govern, python};
use serde_json::{Value, json};

const MASKED: &str = "Write to a***@e***.com, then wait";

/// What the client prints, line by line.
struct Said {
    world: Models,
    lines: Vec<Value>,
}

fn client(world: &Models, what: &str) -> [String; 4] {
    if what == "node" {
        let script = repository().join("tests/adapters/llm_websocket.mjs");
        let modules = tool("node/node_modules");
        let command = [
            script.display().to_string(),
            world.url.clone(),
            modules.display().to_string(),
        ];
        let [script, url, modules] = command;
        return ["node".to_owned(), script, url, modules];
    }
    let script = repository().join("tests/adapters/llm_websocket.py");
    [
        python().display().to_string(),
        script.display().to_string(),
        world.url.clone(),
        what.to_owned(),
    ]
}

fn lines(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn said(what: &str, first: &str, policies: Option<&Path>) -> Option<Said> {
    if !can_govern(what) || !can_ask_models(what) {
        return None;
    }
    let world = Models::start(first, policies).expect("world");
    let token = world.issuer.token("alice", &[], 600);
    let alice = world.agent.token("alice", &token).expect("token");
    let command = client(&world, what);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let seen = world.agent.run(Some(&alice), &command).expect("run");
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    let lines = lines(&seen.out);
    Some(Said { world, lines })
}

/// Every session as it is replayed.
fn replayed(world: &Models, records: &[Value]) -> String {
    let dir = world.agent.state().join("audit").display().to_string();
    let one = |record: &Value| {
        let id = record["session"].as_str().expect("an id");
        let shown = world
            .agent
            .interdict(&["sessions", "replay", id, "--dir", &dir])
            .expect("replayed");
        assert_eq!(shown.status, 0, "{}", shown.err);
        shown.out
    };
    kinds(records, "session.opened").map(one).collect()
}

#[test]
fn the_official_client_speaks_with_masks_and_refusals_in_one_websocket() {
    let Some(Said { world, lines }) = said("plain", "", None) else {
        return;
    };
    let refused = |line: &Value, at: usize, expected: Value| {
        let story = line[at].as_str().unwrap_or_default().to_owned();
        let mut rest = line.clone();
        rest.as_array_mut().expect("a list").truncate(at);
        assert_eq!(rest, expected, "{line}");
        story
    };
    assert_eq!(lines[0], json!(["plain", MASKED, MASKED]));
    let denied = "DENIED: The prompt holds a key or token: take it out. [policy no-secrets-in-prompts]";
    assert!(refused(&lines[1], 3, json!(["denied", "error", "denied"])).starts_with(denied));
    assert_eq!(lines[2], json!(["again", MASKED, MASKED]));
    let arguments = format!("{{\"to\": \"{MASKED}\"}}");
    assert_eq!(lines[3], json!(["tool", arguments, arguments]));
    let streams = json!({"a": MASKED, "b": MASKED});
    let ends = json!([["a", MASKED], ["b", MASKED]]);
    assert_eq!(lines[4], json!(["streams", streams, ends]));
    let expected = json!(["denied", "c", "error", 403, "denied"]);
    assert!(refused(&lines[5], 5, expected).starts_with(denied));
    assert_eq!(lines[6], json!(["steered", MASKED, MASKED]));
    let expected = json!(["denied", true, "response.steer.failed", null, "denied"]);
    assert!(refused(&lines[7], 5, expected).starts_with(denied));
    let unknown = |line: &Value, why: &str| {
        let story = refused(line, 4, json!(["unknown", "error", 400, "not_understood"]));
        assert!(story.contains(why), "{story}");
    };
    unknown(&lines[8], "neither response.create nor response.steer");
    unknown(&lines[9], "background");
    assert_eq!(lines[10], json!(["gone"]));
    assert_eq!(lines.len(), 11);
    let log = std::fs::read_to_string(world.dir.path().join("log")).expect("log");
    assert_eq!(log.lines().count(), 7, "{log}");
    assert!(
        log.lines().all(|line| line.contains(SECRET)) && !log.contains("AKIA"),
        "{log}"
    );
    let records = world.agent.records().expect("records");
    let verdicts = |verdict: &str| {
        kinds(&records, "operation")
            .filter(|r| r["verdict"] == verdict && r["actions"][0] == "llm.prompt")
            .count()
    };
    assert_eq!((verdicts("allowed"), verdicts("refused")), (7, 3));
    let ended = |detail: &str| {
        records
            .iter()
            .filter(|r| r["detail"].as_str().is_some_and(|d| d.starts_with(detail)))
            .count()
    };
    assert_eq!(ended("completed; tokens: 12 in, 34 out"), 6);
    assert_eq!(ended("the WebSocket ended before its answer"), 1);
    assert_eq!(ended("101"), 1);
    let replayed = replayed(&world, &records);
    let all: String = records
        .iter()
        .map(Value::to_string)
        .chain([replayed.clone()])
        .collect();
    assert!(!all.contains("ada@") && !all.contains("AKIA"), "{all}");
    for part in [
        "whom do I write to?",
        "response.output_text.delta",
        "and whom else?",
        "a***@e***.com",
    ] {
        assert!(replayed.contains(part), "{part}: {replayed}");
    }
    world.agent.verify().expect("verified");
}

/// With the example of `policies/examples/models`.
#[test]
fn prompts_come_back_that_the_provider_never_had_and_a_budget_ends() {
    prompts_come_back("masked");
}

#[test]
fn so_do_they_with_the_client_for_typescript() {
    if can_speak_over_websockets("node") {
        prompts_come_back("node");
    }
}

fn prompts_come_back(what: &str) {
    let example = repository().join("policies/examples/models");
    let classes = format!(
        "[masking]\nclasses = \"{}\"\n",
        example.join("classes.toml").display()
    );
    let Some(Said { world, lines }) = said(what, &classes, Some(&example)) else {
        return;
    };
    let text = "I write to ada@example.com, then wait";
    assert_eq!(
        lines[..2],
        [
            json!(["masked", text, text]),
            json!(["large", "response.completed"])
        ]
    );
    let told = (&lines[2][1], &lines[2][2], &lines[2][3]);
    assert_eq!(
        told,
        (&json!("error"), &json!(403), &json!("denied")),
        "{}",
        lines[2]
    );
    let story = lines[2][4].as_str().expect("a story");
    assert!(
        story.contains("Everybody has 1000 tokens of the large model"),
        "{story}"
    );
    assert_eq!(lines[3], json!(["small", "response.completed"]));
    let log = std::fs::read_to_string(world.dir.path().join("log")).expect("log");
    assert_eq!(log.lines().count(), 3, "{log}");
    assert!(
        log.contains("MaskedPiiEmail") && log.contains("MaskedSecretKey"),
        "{log}"
    );
    assert!(!log.contains("ada@") && !log.contains("AKIA"), "{log}");
    let records = world.agent.records().expect("records");
    let shown: String = records
        .iter()
        .map(Value::to_string)
        .chain([replayed(&world, &records)])
        .collect();
    assert!(!shown.contains("ada@") && !shown.contains("AKIA"), "{shown}");
    assert!(
        shown.contains("masked in the prompt: 1 pii.email, 1 secret.key") && shown.contains("MaskedPiiEmail"),
        "{shown}"
    );
    world.agent.verify().expect("verified");
}

#[test]
fn a_prompt_waits_for_consent_while_other_streams_go_on() {
    if !can_govern("held") || !can_ask_models("held") {
        return;
    }
    let policies = tempfile::tempdir().expect("temp dir");
    let rules = r#"
        @id("all") @reason("Everything.") permit (principal, action in [Action::"llm.prompt", Action::"http.read", Action::"http.websocket"], resource);
        @id("ask-first") @approvers("owners") @reason("An owner has to agree.")
        forbid (principal, action == Action::"llm.prompt", resource) when { context.llm.model == "asked" }
        unless { context has approval && context.approval.groups.contains("owners") };"#;
    std::fs::write(policies.path().join("models.cedar"), rules).expect("written");
    let world = Models::start("[approval]\nhold = \"60s\"\n", Some(policies.path())).expect("world");
    let token = |name: &str, groups: &[&str]| {
        let token = world.issuer.token(name, groups, 600);
        world.agent.token(name, &token).expect("token")
    };
    let (alice, olga) = (token("alice", &[]), token("olga", &["owners"]));
    let olga = olga.display().to_string();
    let command = client(&world, "held");
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let waits = world.agent.start(Some(&alice), &command).expect("started");
    let deadline = Instant::now() + Duration::from_secs(30);
    let log = world.dir.path().join("log");
    let ticket = loop {
        let listed = world
            .agent
            .interdict(&["approvals", "list", "--json", "--token-file", &olga])
            .expect("list");
        let first = listed.out.lines().next().unwrap_or_default();
        let request: Value = serde_json::from_str(first).unwrap_or_default();
        // The other stream is answered by then, which is logged before.
        let logged = std::fs::read_to_string(&log).unwrap_or_default();
        if let (Some(ticket), 1) = (request["ticket"].as_str(), logged.lines().count()) {
            assert!(
                request["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("asked")),
                "{request}"
            );
            break ticket.to_owned();
        }
        assert!(
            Instant::now() < deadline,
            "nothing waits: {}{}",
            listed.out,
            listed.err
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let approved = world
        .agent
        .interdict(&["approvals", "approve", &ticket, "--token-file", &olga])
        .expect("approve");
    assert_eq!(approved.status, 0, "{}", approved.err);
    let out = waits.wait_with_output().expect("ended");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = lines(&String::from_utf8_lossy(&out.stdout));
    assert_eq!(lines[0], json!(["beside", MASKED, "b"]));
    assert_eq!(lines[1], json!(["pinged", true]));
    // Both of the stream, in their order.
    assert_eq!(
        lines[2],
        json!(["held", {"a": format!("{MASKED}{MASKED}")}, [["a", "r2"], ["a", "r3"]]])
    );
    let log = std::fs::read_to_string(&log).expect("log");
    let models: Vec<String> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| format!("{} {}", line["body"]["model"], line["body"]["input"]))
        .collect();
    assert_eq!(
        models,
        [
            "\"m\" \"whom do I write to?\"",
            "\"asked\" \"x\"",
            "\"m\" \"behind it\""
        ]
    );
    let records = world.agent.records().expect("records");
    let consented =
        kinds(&records, "operation").find(|r| r["verdict"] == "allowed" && r["ticket"] == ticket.as_str());
    assert!(consented.is_some(), "the consent is in the record");
    world.agent.verify().expect("verified");
}

#[test]
fn a_binary_message_closes_it() {
    let Some(Said { world, lines }) = said("binary", "", None) else {
        return;
    };
    assert_eq!(
        (&lines[0][0], &lines[0][1]),
        (&json!("binary"), &json!(1003)),
        "{}",
        lines[0]
    );
    let reason = lines[0][2].as_str().expect("a reason");
    assert!(reason.contains("only texts are read"), "{reason}");
    let log = std::fs::read_to_string(world.dir.path().join("log")).unwrap_or_default();
    assert_eq!(log, "");
}
