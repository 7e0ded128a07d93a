//! APIs of models end to end: the official Python clients under `interdict run`. The provider is a stand-in.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use interdict_tests::http::SECRET;
use interdict_tests::tools::{can_ask_models, certificates, repository};
use interdict_tests::world::kinds;
use interdict_tests::{Agent, Oidc, can_govern, python};
use serde_json::{Value, json};

struct Provider(Child);

impl Drop for Provider {
    fn drop(&mut self) {
        // What is gone already needs no stopping.
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn official_clients_get_masked_answers_and_their_own_errors() {
    if !can_govern("llm") || !can_ask_models("llm") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    certificates(dir.path()).expect("certificates");
    let adapter = |name: &str| repository().join("tests/adapters").join(name);
    let in_dir = |name: &str| dir.path().join(name);
    let child = Command::new(python())
        .arg(adapter("llm_provider.py"))
        .args([in_dir("server.crt"), in_dir("server.key"), in_dir("log")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("provider");
    let mut provider = Provider(child);
    let mut port = String::new();
    let output = provider.0.stdout.take().expect("output");
    BufReader::new(output).read_line(&mut port).expect("port");
    let port = port.trim();
    std::fs::write(in_dir("key"), SECRET).expect("written");
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[[target]]\nname = \"model\"\nprotocol = \"llm\"\naddresses = [\"localhost:{port}\"]\nca_file = \"{}\"\n\
         [target.credential]\nas = \"header\"\nname = \"X-Api-Key\"\nsecret_file = \"{}\"\n",
        in_dir("ca.crt").display(),
        in_dir("key").display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let token = issuer.token("alice", &[], 600);
    let alice = agent.token("alice", &token).expect("token");
    let url = format!("https://localhost:{port}");
    let (python, client) = (
        python().display().to_string(),
        adapter("llm_client.py").display().to_string(),
    );
    let seen = agent.run(Some(&alice), &[&python, &client, &url]).expect("run");
    let lines: Vec<Value> = seen
        .out
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
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
