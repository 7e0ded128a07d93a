//! HTTP end to end: unchanged clients under `interdict run`, nginx behind, consent by another person.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use interdict_tests::http::SECRET;
use interdict_tests::tools::{certificates, repository};
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
    let aiohttp = format!(
        "import asyncio, aiohttp\nasync def main():\n    async with aiohttp.ClientSession() as s, s.get('{url}') as r:\n        \
         print((await r.json())['email'])\nasyncio.run(main())"
    );
    let node = format!("fetch('{url}').then(r => r.json()).then(p => console.log(p.email))");
    let python = python().display().to_string();
    let table: [(&[&str], &str); 6] = [
        (&["curl", "-sS", "--http1.1", &url], "a***@e***.com"),
        (&["curl", "-sS", "--http2", &url], "a***@e***.com"),
        (
            &[&python, "-c", &requests],
            "200 a***@e***.com\n403 30 pending_approval",
        ),
        (&[&python, "-c", &httpx], "HTTP/2 a***@e***.com"),
        (&[&python, "-c", &aiohttp], "a***@e***.com"),
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
    // A client with nothing but the exported certificate verifies too.
    let state = w.agent.state().display().to_string();
    let shown = w
        .agent
        .interdict(&["ca", "show", "--state-dir", &state])
        .expect("shown");
    assert!(
        shown.out.contains("Interdict authority of") && shown.out.contains("sha256"),
        "{}",
        shown.out
    );
    let exported = w
        .agent
        .interdict(&["ca", "export", "--state-dir", &state])
        .expect("exported");
    let file = w
        .agent
        .token("exported.pem", &exported.out)
        .expect("written")
        .display()
        .to_string();
    let command = ["env", "-i", "curl", "-sS", "--cacert", &file, &url];
    let seen = w.agent.run(Some(&w.alice), &command).expect("run");
    assert!(seen.out.contains("a***@e***.com"), "{}{}", seen.out, seen.err);
    assert!(!exported.out.contains("PRIVATE"));
    // Programs that read no variable see the system's roots with the agent's among them; the host's stay as they are.
    let before = std::fs::read("/etc/ssl/certs/ca-certificates.crt").expect("the system's roots");
    for command in [["curl", "-sS", &url], ["wget", "-qO-", &url]] {
        let command: Vec<&str> = ["env", "-i"].into_iter().chain(command).collect();
        let seen = w.agent.run(Some(&w.alice), &command).expect("run");
        assert!(
            seen.out.contains("a***@e***.com"),
            "{command:?} {}{}",
            seen.out,
            seen.err
        );
    }
    let after = std::fs::read("/etc/ssl/certs/ca-certificates.crt").expect("the system's roots");
    assert!(before == after);
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

/// A server and a client of `tests/adapters` with the agent between them: what the client prints, and the records.
/// Also every session as it is replayed, and what the server says of its own.
fn adapters(name: &str, rules: &str) -> (Vec<String>, Vec<Value>, [String; 2]) {
    configured(name, rules, |_dir| String::new())
}

/// The same with more lines about the target, which may name files in a directory.
fn configured(
    name: &str,
    rules: &str,
    more: impl FnOnce(&Path) -> String,
) -> (Vec<String>, Vec<Value>, [String; 2]) {
    let dir = tempfile::tempdir().expect("temp dir");
    certificates(dir.path()).expect("certificates");
    let adapter = |part: &str| repository().join(format!("tests/adapters/{name}_{part}.py"));
    let mut server = Command::new(python())
        .arg(adapter("server"))
        .args([dir.path().join("server.crt"), dir.path().join("server.key")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("server");
    let (mut line, mut heard) = (String::new(), String::new());
    let mut output = BufReader::new(server.stdout.take().expect("output"));
    output.read_line(&mut line).expect("port");
    let port = line.trim();
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[[target]]\nname = \"calls\"\nprotocol = \"http\"\naddresses = [\"localhost:{port}\"]\nca_file = \"{}\"\nrecording = \"full\"\n{}",
        dir.path().join("ca.crt").display(),
        more(dir.path())
    );
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).expect("made");
    std::fs::write(policies.join("calls.cedar"), rules).expect("written");
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller()
        .with_policies(&policies);
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let client = [python(), adapter("client"), port.into()].map(|p| p.display().to_string());
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let seen = agent.run(Some(&alice), &client).expect("run");
    server.kill().expect("ended");
    server.wait().expect("ended");
    output.read_to_string(&mut heard).expect("read");
    assert_eq!(seen.status, 0, "{}{}", seen.out, seen.err);
    let lines = seen.out.lines().map(str::to_owned).collect();
    let records = agent.records().expect("records");
    let dir = agent.state().join("audit").display().to_string();
    let opened = records.iter().filter(|record| record["kind"] == "session.opened");
    let replayed = opened.map(|record| {
        let id = record["session"].as_str().expect("an id");
        let shown = agent
            .interdict(&["sessions", "replay", id, "--dir", &dir])
            .expect("replayed");
        assert_eq!(shown.status, 0, "{}", shown.err);
        shown.out
    });
    let replayed: String = replayed.collect();
    (lines, records, [replayed, heard])
}

#[test]
fn grpc_is_masked_keeps_its_trailers_and_is_refused_in_its_words() {
    if !can_govern("grpc_passes") || !can_serve_http("grpc_passes") {
        return;
    }
    let rules = r#"
        @id("calls") @reason("Calls.") permit (principal, action in Action::"http", resource);
        @id("no-secrets") @reason("Not that one.") forbid (principal, action in Action::"http", resource)
        when { context.http.path == "/t.T/Secret" };"#;
    let (lines, records, _) = adapters("grpc", rules);
    // At the level full: messages of gRPC, masked.
    let kept = records
        .iter()
        .filter(|r| r["kind"] == "content" && r["part"] == "answer");
    let kept: Vec<Vec<u8>> = kept
        .filter(|r| r["encoding"] == "base64")
        .map(|r| {
            data_encoding::BASE64
                .decode(r["text"].to_string().trim_matches('"').as_bytes())
                .expect("base64")
        })
        .collect();
    assert!(
        kept.iter()
            .any(|piece| piece.windows(13).any(|w| w == b"a***@e***.com")),
        "{kept:?}"
    );
    assert!(
        !kept.iter().any(|piece| piece.windows(4).any(|w| w == b"ada@")),
        "{kept:?}"
    );
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[0], "Echo got hello t a***@e***.com");
    assert_eq!(lines[1], "Count 0 1 2 t");
    // Within a message within: the lengths of both follow, and the number behind stays.
    let person = |n| format!(r"b'\x08\x0{n}\n\x0f\x12\ra***@e***.com\x1d\x01\x02\x03\x04'");
    let details = r"b'\n\ra***@e***.com'";
    assert_eq!(
        lines[2],
        format!("People [{}, {}] {details}", person(1), person(2))
    );
    assert_eq!(lines[3], "Fail NOT_FOUND no such thing");
    let refused = "Secret PERMISSION_DENIED Interdict denied this: Not that one. [policy no-secrets]";
    assert!(lines[4].starts_with(refused), "{}", lines[4]);
}

#[test]
fn grpc_with_descriptors_is_judged_and_masked_by_field() {
    if !can_govern("grpc_with_descriptors") || !can_serve_http("grpc_with_descriptors") {
        return;
    }
    let rules = r#"
        @id("calls") @reason("Calls.") permit (principal, action in Action::"http", resource);
        @id("amounts") @reason("Small amounts.") forbid (principal, action in Action::"http", resource)
        when { context.http.path == "/shop.Shop/Buy" && context has input && context.input.number.hasTag("amount") &&
               context.input.number.getTag("amount") > 100 };
        @id("not-for-her") @reason("Not for her.") forbid (principal, action in Action::"http", resource)
        when { context.http.path == "/shop.Shop/BuyAll" && context has input && context.input.list.hasTag("*/customer") &&
               context.input.list.getTag("*/customer").contains("mallory") };"#;
    let (lines, records, [replayed, bought]) = configured("grpc_shop", rules, |dir| {
        let set = dir.join("shop.pb");
        let adapters = repository().join("tests/adapters");
        let made = Command::new(python())
            .args(["-m", "grpc_tools.protoc", "--include_imports", "-I"])
            .arg(&adapters)
            .arg(format!("--descriptor_set_out={}", set.display()))
            .arg(adapters.join("grpc_shop.proto"))
            .status();
        assert!(made.expect("protoc").success());
        format!("[target.http]\ndescriptor_set = \"{}\"\n", set.display())
    });
    // The text begins like a field with its length: by its schema it is a text.
    let receipt = |customer: &str, scan: &str, amount: u32| {
        format!(r#"("'\\n\\x0f{customer}'", "b'{scan}'", [('{customer}', {amount})])"#)
    };
    let (ada, bob) = ("a***@e***.com", "b***@e***.org");
    assert_eq!(lines[0], format!("small {}", receipt(ada, "of b***@e***.org", 7)));
    assert!(
        lines[1].contains("xxx") && lines[1].ends_with(", 8)])"),
        "{}",
        lines[1]
    );
    let denied = |what: &str, policy: &str| {
        format!("PERMISSION_DENIED Interdict denied this: {what} [policy {policy}]")
    };
    assert!(
        lines[2].starts_with(&format!("large {}", denied("Small amounts.", "amounts"))),
        "{}",
        lines[2]
    );
    assert_eq!(
        lines[3],
        format!("several [{}, {}]", receipt(ada, "", 1), receipt(bob, "", 2))
    );
    assert!(
        lines[4].starts_with(&format!("one of them {}", denied("Not for her.", "not-for-her"))),
        "{}",
        lines[4]
    );
    assert!(
        lines[5].contains("INVALID_ARGUMENT") && lines[5].contains("field 9 of shop.Order"),
        "{}",
        lines[5]
    );
    assert!(
        lines[6].contains("INVALID_ARGUMENT") && lines[6].contains("no method /shop.Shop/Sell"),
        "{}",
        lines[6]
    );
    assert_eq!(bought, "7\n8\n1\n2\n");
    // Records show JSON, and nothing that is to be hidden.
    let shown = |kind: &str, text: &str| {
        records
            .iter()
            .any(|r| r["kind"] == kind && r["text"].as_str().is_some_and(|t| t.contains(text)))
    };
    let scan = data_encoding::BASE64.encode(b"of b***@e***.org");
    let order = format!(r#"{{"customer":"{ada}","amount":7,"scan":"{scan}","password":"[redacted]"}}"#);
    assert!(
        shown("operation", &order) && shown("content", &order),
        "{replayed}"
    );
    let answered = format!(r#""orders":[{{"customer":"{bob}","amount":2,"#);
    assert!(replayed.contains(&answered), "{replayed}");
    assert!(
        !replayed.contains("ada@") && !replayed.contains("hunter2"),
        "{replayed}"
    );
}

#[test]
fn messages_of_a_websocket_are_judged_one_way_and_masked_the_other() {
    if !can_govern("messages_of_a") || !can_serve_http("messages_of_a") {
        return;
    }
    let rules = r#"
        @id("talk") @reason("Talk.") permit (principal, action in Action::"http", resource);
        @id("no-secrets") @reason("Not that one.") forbid (principal, action == Action::"http.websocket", resource)
        when { context.http.path == "/secret" };
        @id("no-drops") @reason("Nothing is dropped.") forbid (principal, action == Action::"http.websocket", resource)
        when { context.http.method == "MESSAGE" && context has input && context.input.text.hasTag("op") &&
               context.input.text.getTag("op") == "drop" };"#;
    let (mut lines, records, [replayed, heard]) = adapters("websocket", rules);
    // At the level full: messages both ways, each of them one.
    for part in [
        "    < hello a***@e***.com\n    < one \n    < a***@e***.com in \n    < parts\n    < (no detector reads it: 11 bytes in all",
        "    > {\"op\": \"read\"}",
        "    < you said {\"op\": \"read\"}",
    ] {
        assert!(replayed.contains(part), "{part} is not in {replayed}");
    }
    assert!(!replayed.contains("ada@"), "{replayed}");
    // A message of the process, in two fragments, behind a ping.
    let closed = lines.remove(6);
    assert!(
        closed.starts_with("1008 Nothing is dropped. [policy no-drops] [reference "),
        "{closed}"
    );
    // The target is told too.
    assert_eq!(heard, "closed 1008\n");
    let said = |text: &str, verdict: &str| {
        let shown = |r: &&Value| r["verdict"] == verdict && r["text"].to_string().contains(text);
        records.iter().filter(shown).count()
    };
    assert_eq!(
        (said("drop", "refused"), said("drop", "allowed")),
        (1, 0),
        "{records:?}"
    );
    assert_eq!(said("MESSAGE https://localhost", "allowed"), 3, "{records:?}");
    let expected = [
        "hello a***@e***.com",
        "one a***@e***.com in parts",
        "b'\\x00\\x01 binary \\xff'",
        "200009",
        "1000 bye a***@e***.com",
        r#"you said {"op": "read"}"#,
        "403 True",
    ];
    assert_eq!(lines, expected);
    let outcome = records
        .iter()
        .find(|r| r["kind"] == "outcome" && r["detail"] == "101")
        .expect("an outcome");
    assert_eq!(outcome["masked"]["pii.email"], 3, "{outcome}");
}
