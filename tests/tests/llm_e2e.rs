//! APIs of models end to end: the official Python and TypeScript clients under `interdict run`. The provider is a stand-in.

use anyhow::Result;
use interdict_tests::http::{HttpRelay, HttpSetting, SECRET};
use interdict_tests::models::Models;
use interdict_tests::tools::{can_ask_models, can_serve_http, repository, tool};
use interdict_tests::world::kinds;
use interdict_tests::{can_govern, python};
use serde_json::{Value, json};

fn lines(out: &str) -> Result<Vec<Value>> {
    out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn official_clients_get_masked_answers_and_their_own_errors() {
    if !can_govern("llm") || !can_ask_models("llm") {
        return;
    }
    let world = Models::start("", None).expect("world");
    let (agent, in_dir) = (&world.agent, |name: &str| world.dir.path().join(name));
    let url = world.url.clone();
    let adapter = |name: &str| repository().join("tests/adapters").join(name);
    let token = world.issuer.token("alice", &[], 600);
    let alice = agent.token("alice", &token).expect("token");
    let (python, client) = (
        python().display().to_string(),
        adapter("llm_client.py").display().to_string(),
    );
    let seen = agent.run(Some(&alice), &[&python, &client, &url]).expect("run");
    let lines = lines(&seen.out).expect("JSON");
    assert_eq!(lines.len(), 11, "{}{}", seen.out, seen.err);
    let (answers, refused) = lines.split_at(8);
    let apis = [
        "chat",
        "chat",
        "responses",
        "responses",
        "responses",
        "messages",
        "messages",
        "messages",
    ];
    for (line, api) in answers.iter().zip(apis) {
        assert_eq!(*line, json!([api, "Write to a***@e***.com, then wait"]));
    }
    for line in refused {
        assert_eq!((&line[0], &line[1]), (&json!("denied"), &json!(403)), "{line}");
        let told = "DENIED: The prompt holds a key or token: take it out. [policy no-secrets-in-prompts]";
        assert!(line[2].as_str().is_some_and(|m| m.starts_with(told)), "{line}");
    }
    // Nothing refused arrived, and no client sent it again.
    let log = std::fs::read_to_string(in_dir("log")).expect("log");
    assert_eq!(log.lines().count(), 6, "{log}");
    assert!(!log.contains("AKIA"));
    assert!(log.lines().all(|line| line.contains(SECRET)), "{log}");
    let records = agent.records().expect("records");
    let prompts = kinds(&records, "operation").filter(|r| r["actions"][0] == "llm.prompt");
    assert_eq!(prompts.count(), 9);
    let counted = records
        .iter()
        .filter(|r| r["detail"] == "200; tokens: 12 in, 34 out");
    assert_eq!(
        counted.count(),
        5,
        "streamed chat completions are not asked to count"
    );
    let all = records.iter().map(Value::to_string).collect::<String>();
    assert!(!all.contains("ada@") && !all.contains("AKIA"), "{all}");
    agent.verify().expect("verified");
}

/// The example of `policies/examples/models`: the TypeScript clients get their own values back, which the provider never had,
/// a code name does not leave, and a budget ends and is not forgotten by the next agent.
#[test]
fn official_clients_get_back_what_the_provider_never_had() {
    if !can_govern("llm") || !can_ask_models("llm") {
        return;
    }
    let example = repository().join("policies/examples/models");
    let classes = format!(
        "[masking]\nclasses = \"{}\"\n",
        example.join("classes.toml").display()
    );
    let world = Models::start(&classes, Some(&example)).expect("world");
    let token = world.issuer.token("alice", &[], 600);
    let alice = world.agent.token("alice", &token).expect("token");
    let client = repository().join("tests/adapters/llm_client.mjs");
    let modules = tool("node/node_modules");
    let (client, modules) = (client.display().to_string(), modules.display().to_string());
    let command = ["node", &client, &world.url, &modules];
    let seen = world.agent.run(Some(&alice), &command).expect("run");
    let all = lines(&seen.out).expect("JSON");
    assert_eq!(all.len(), 16, "{}{}", seen.out, seen.err);
    let text = "I write to ada@example.com, then wait";
    let expected = [
        json!(["chat", text]),
        json!(["chat", text, 0]),
        json!(["tool", text]),
        json!(["responses", text]),
        json!(["responses", text, text]),
        json!(["messages", text]),
        json!(["messages", text, text]),
        json!(["tool", text]),
        json!(["vector", [0.453_201_511_283_036_6, -0.25]]),
        json!(["coded", text]),
        json!(["models", "m", "m"]),
    ];
    assert_eq!(all[..11], expected, "{}", seen.err);
    let told = |line: &Value, parts: &[&str]| {
        assert_eq!((&line[0], &line[2]), (&json!("refused"), &json!(403)), "{line}");
        let message = line[3].as_str().unwrap_or_default();
        assert!(parts.iter().all(|part| message.contains(part)), "{line}");
    };
    told(&all[11], &["DENIED", "take it out", "code-names-stay"]);
    told(&all[12], &["DENIED", "take it out", "code-names-stay"]);
    told(&all[13], &["No policy permits http.write"]);
    assert_eq!(all[14], json!(["allowed"]));
    let budget = [
        "DENIED: Everybody has 1000 tokens of the large model",
        "from 20",
        "so little of it counts",
    ];
    told(&all[15], &budget);
    let log = std::fs::read_to_string(world.dir.path().join("log")).expect("log");
    assert_eq!(log.lines().count(), 13, "{log}");
    for gone in ["ada@", "4111", "AKIA", "alcon"] {
        assert!(!log.contains(gone), "{gone}: {log}");
    }
    assert!(
        log.contains("MaskedSecretKey") && log.contains("MaskedPciCard"),
        "{log}"
    );
    let again = ["node", &client, &world.url, &modules, "again"];
    let seen = world.agent.run(Some(&alice), &again).expect("run");
    let all = lines(&seen.out).expect("JSON");
    assert_eq!(all.len(), 1, "{}{}", seen.out, seen.err);
    told(&all[0], &budget);
    let records = world.agent.records().expect("records");
    let all = records.iter().map(Value::to_string).collect::<String>();
    assert!(
        !all.contains("ada@") && !all.contains("AKIA") && !all.contains("alcon"),
        "{all}"
    );
    let masked = "masked in the prompt: 1 pci.card, 1 pii.email, 1 secret.key";
    assert!(all.contains(masked) && all.contains("MaskedPiiEmail"), "{all}");
    world.agent.verify().expect("verified");
}

#[test]
fn coded_prompts_are_read_and_another_websocket_is_refused_in_the_providers_words() {
    if !can_serve_http("llm relay") {
        return;
    }
    let setting = HttpSetting {
        protocol: "llm",
        ..HttpSetting::default()
    };
    let relay = HttpRelay::start(setting).expect("relay");
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("prompt");
    let data = format!("@{}", file.display());
    let send = |prompt: &str| {
        std::fs::write(&file, zstd::encode_all(prompt.as_bytes(), 3).expect("coded")).expect("written");
        let coded = [
            "-H",
            "Content-Type: application/json",
            "-H",
            "Content-Encoding: zstd",
            "--data-binary",
            &data,
        ];
        relay.get("/v1/chat/completions", &coded).expect("curl")
    };
    let prompt = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    assert!(send(&prompt).contains("\"id\""));
    let log = relay.target.log().expect("log");
    assert_eq!(log[0]["body"], prompt);
    assert_eq!(log[0]["headers"].get("content-encoding"), None);
    let key = ["AKIAIOSFODNN7", "QWERTYZ"].concat();
    assert!(send(&prompt.replace("hello", &key)).contains("no-secrets-in-prompts"));
    let upgrade = [
        "--http1.1",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let told = relay.get("/v1/realtime?model=m", &upgrade).expect("curl");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let message = told["error"]["message"].as_str().expect("message");
    assert!(message.contains("A WebSocket is not carried"), "{told}");
    assert_eq!(relay.target.log().expect("log").len(), 1);
}
