//! HTTP end to end: unchanged clients under `interdict run`, nginx behind, consent by another person.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use interdict_tests::http::SECRET;
use interdict_tests::{Agent, HttpTarget, Oidc, can_govern, can_serve_http, python};
use serde_json::Value;

struct World {
    // Declared in the order of dropping: the servers before their directory.
    target: HttpTarget,
    agent: Agent,
    alice: PathBuf,
    olga: PathBuf,
    _dir: tempfile::TempDir,
}

fn world(test: &str, hold: &str) -> Option<World> {
    if !can_govern(test) || !can_serve_http(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = HttpTarget::start(dir.path()).expect("target");
    let issuer = Oidc::start().expect("issuer");
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).expect("written");
    let config = format!(
        "[approval]\nhold = \"{hold}\"\n[[target]]\nname = \"api\"\nprotocol = \"http\"\nenvironment = \"prod\"\n\
         addresses = [\"localhost:{}\"]\nca_file = \"{}\"\n\
         [target.credential]\nas = \"header\"\nname = \"X-Api-Key\"\nsecret_file = \"{}\"\n",
        target.tls,
        target.ca().display(),
        key.display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller();
    let token = |name: &str, groups: &[&str]| {
        let token = issuer.token(name, groups, 600);
        agent.token(name, &token).expect("token")
    };
    let (alice, olga) = (token("alice", &[]), token("olga", &["owners"]));
    Some(World {
        target,
        agent,
        alice,
        olga,
        _dir: dir,
    })
}

#[test]
fn unchanged_clients_verify_and_see_masked_answers() {
    let Some(w) = world("unchanged_clients", "0s") else {
        return;
    };
    let url = format!("https://localhost:{}/people/7", w.target.tls);
    let requests = format!(
        "import requests; s = requests.Session(); r = s.get('{url}'); print(r.status_code, r.json()['email']); \
         r = s.delete('{url}'); print(r.status_code, r.headers['Retry-After'], r.json()['outcome'])"
    );
    let httpx = format!(
        "import httpx; c = httpx.Client(http2=True); r = c.get('{url}'); print(r.http_version, r.json()['email'])"
    );
    let node = format!("fetch('{url}').then(r => r.json()).then(p => console.log(p.email))");
    let python = python().display().to_string();
    let table: [(&[&str], &str); 5] = [
        (&["curl", "-sS", "--http1.1", &url], "a***@e***.com"),
        (&["curl", "-sS", "--http2", &url], "a***@e***.com"),
        (
            &[&python, "-c", &requests],
            "200 a***@e***.com\n403 30 pending_approval",
        ),
        (&[&python, "-c", &httpx], "HTTP/2 a***@e***.com"),
        (&["node", "-e", &node], "a***@e***.com"),
    ];
    for (command, expected) in table {
        let seen = w.agent.run(Some(&w.alice), command).expect("run");
        assert!(
            seen.out.contains(expected),
            "{command:?}: {}{}",
            seen.out,
            seen.err
        );
        assert!(!seen.out.contains("ada@"), "{command:?}: {}", seen.out);
    }
    for request in w.target.log().expect("log") {
        assert_eq!(request["headers"]["x-api-key"], SECRET);
    }
    let records = w.agent.records().expect("records");
    let first = records
        .iter()
        .find(|r| r["kind"] == "operation")
        .expect("recorded");
    assert_eq!(first["principal"], "corp/alice");
    assert_eq!(first["actions"][0], "http.read");
    assert!(
        first["exe"].as_str().is_some_and(|exe| exe.contains("curl")),
        "{first}"
    );
    w.agent.verify().expect("verified");
}

#[test]
fn what_needs_consent_is_done_once_somebody_consents() {
    let Some(w) = world("what_needs_consent_http", "30s") else {
        return;
    };
    let url = format!("https://localhost:{}/orders/7", w.target.tls);
    let delete = ["curl", "-sS", "-X", "DELETE", "-w", "%{http_code}", &url];
    let curl = w.agent.start(Some(&w.alice), &delete).expect("started");
    let olga = w.olga.display().to_string();
    let deadline = Instant::now() + Duration::from_secs(30);
    let request = loop {
        let listed = w
            .agent
            .interdict(&["approvals", "list", "--json", "--token-file", &olga])
            .expect("list");
        let seen: Option<Value> = listed
            .out
            .lines()
            .find_map(|line| serde_json::from_str(line).ok());
        if let Some(request) = seen.filter(|seen| seen["ticket"].is_string()) {
            break request;
        }
        assert!(
            Instant::now() < deadline,
            "nothing waits: {}{}",
            listed.out,
            listed.err
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(
        w.target.log().expect("log").is_empty(),
        "nothing is forwarded before"
    );
    assert_eq!(request["text"], format!("DELETE {url}"));
    let ticket = request["ticket"].as_str().expect("a ticket");
    let approved = w
        .agent
        .interdict(&["approvals", "approve", ticket, "--token-file", &olga])
        .expect("approve");
    assert_eq!(approved.status, 0, "{}", approved.err);
    let out = curl.wait_with_output().expect("ended");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "204");
    assert_eq!(w.target.log().expect("log").len(), 1);
}
