//! MCP end to end: a server on the official SDK, and both official SDKs as clients under `interdict run`.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use interdict_tests::tools::{certificates, repository};
use interdict_tests::world::kinds;
use interdict_tests::{Agent, Oidc, can_govern, can_speak_mcp, python, tool};
use serde_json::{Value, json};

const POLICIES: &str = r#"
@id("tools") @reason("The tools are there to be used.")
permit (principal, action in Action::"mcp", resource);
@id("no-shell") @reason("No shell.")
forbid (principal, action == Action::"mcp.tool.call", resource) when { context.mcp.tool == "shell" };
@id("no-drop") @reason("Nothing is dropped.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.input.text.hasTag("sql") && context.input.text.getTag("sql") like "*DROP*" };
@id("removal-needs-owner") @reason("Removing needs an owner.") @approvers("owners")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "remove" }
unless { context has approval && context.approval.groups.contains("owners") };
@id("secret-notes") @reason("That note is secret.")
forbid (principal, action == Action::"mcp.resource.read", resource) when { context.mcp.uri like "*secret*" };
"#;

struct Server {
    child: Child,
    port: String,
    log: PathBuf,
}

impl Server {
    fn start(dir: &Path) -> Self {
        certificates(dir).expect("certificates");
        let log = dir.join("calls");
        std::fs::write(&log, "").expect("written");
        let mut child = Command::new("node")
            .arg(adapter("mcp_server.mjs"))
            .args([dir.join("server.crt"), dir.join("server.key"), log.clone()])
            .arg(tool("node/node_modules"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("server");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("output"))
            .read_line(&mut port)
            .expect("port");
        let port = port.trim().to_owned();
        Self { child, port, log }
    }

    /// The tools that were called, in order.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).expect("log");
        let one = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["tool"].to_string();
        text.lines().map(one).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is gone already needs no stopping.
        drop((self.child.kill(), self.child.wait()));
    }
}

fn adapter(name: &str) -> PathBuf {
    repository().join("tests/adapters").join(name)
}

/// A governed client, asked line by line.
struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What the server said by itself.
    said: Vec<String>,
}

impl Client {
    fn start(agent: &Agent, token: &Path, command: &[&str]) -> Self {
        let mut child = agent.start(Some(token), command).expect("started");
        let input = child.stdin.take().expect("input");
        let output = BufReader::new(child.stdout.take().expect("output")).lines();
        Self {
            child,
            input,
            output,
            said: Vec::new(),
        }
    }

    fn next(&mut self) -> Value {
        loop {
            let line = self.output.next();
            let line = line.expect("the client goes on");
            let line: Value = serde_json::from_str(&line.expect("line")).expect("JSON");
            match line["said"].as_str() {
                Some(said) => self.said.push(said.to_owned()),
                None => return line,
            }
        }
    }

    fn ask(&mut self, what: &Value) -> Value {
        writeln!(self.input, "{what}").expect("written");
        self.next()
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ask(&json!({"tool": tool, "arguments": arguments}))
    }

    fn end(self) -> Vec<String> {
        drop(self.input);
        let mut said = self.said;
        for line in self.output {
            let line: Value = serde_json::from_str(&line.expect("line")).expect("JSON");
            said.push(line["said"].as_str().unwrap_or_default().to_owned());
        }
        let mut child = self.child;
        assert!(child.wait().expect("ended").success());
        said
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[test]
fn both_official_clients_are_masked_refused_and_held() {
    if !can_govern("mcp") || !can_speak_mcp("mcp") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let server = Server::start(dir.path());
    let issuer = Oidc::start().expect("issuer");
    let config = format!(
        "[approval]\nhold = \"1s\"\n[[target]]\nname = \"tools\"\nprotocol = \"mcp\"\n\
         addresses = [\"localhost:{}\"]\nca_file = \"{}\"\n",
        server.port,
        dir.path().join("ca.crt").display()
    );
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).expect("made");
    std::fs::write(policies.join("tools.cedar"), POLICIES).expect("written");
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller()
        .with_policies(&policies);
    let token = |name: &str, groups: &[&str]| {
        let token = issuer.token(name, groups, 600);
        agent.token(name, &token).expect("token")
    };
    let (alice, olga) = (token("alice", &[]), token("olga", &["owners"]));
    let url = format!("https://localhost:{}/mcp", server.port);
    let modules = tool("node/node_modules").display().to_string();
    let (typescript, python_client) = (
        adapter("mcp_client.mjs").display().to_string(),
        adapter("mcp_client.py").display().to_string(),
    );
    let python = python().display().to_string();
    let clients: [&[&str]; 4] = [
        &["node", &typescript, &url, &modules],
        &["node", &typescript, &url, &modules],
        &[&python, &python_client, &url],
        &[&python, &python_client, &url],
    ];
    for (nth, command) in clients.into_iter().enumerate() {
        let mut client = Client::start(&agent, &alice, command);
        session(&mut client, &agent, &olga, nth);
        let said = client.end();
        assert!(said.iter().all(|s| !s.contains("ada@")), "{said:?}");
        assert!(
            said.iter().any(|s| s.contains("a***@e***.com")),
            "the server's own stream is carried: {said:?}"
        );
    }
    let one = ["\"lookup\"", "\"query\"", "\"remove\""];
    assert_eq!(server.calls(), one.repeat(4), "each goes through exactly once");
    records(&agent);
}

/// What one client sees.
fn session(client: &mut Client, agent: &Agent, olga: &Path, nth: usize) {
    let tools = json!({"tools": ["lookup", "query", "remove", "shell"]});
    assert_eq!(client.next(), tools);

    let found = client.call("lookup", &json!({"name": "ada"}));
    let shown = "Ada <a***@e***.com>, card **** **** **** 1111";
    assert_eq!(text(&found), shown, "{found}");
    assert_eq!(found["structuredContent"]["email"], "a***@e***.com");
    assert_eq!(found["structuredContent"]["age"], 36);
    let blob = data_encoding::BASE64.encode(shown.as_bytes());
    assert_eq!(found["content"][2]["resource"]["blob"], blob);
    assert_eq!(found["content"][1]["mimeType"], "image/png");
    assert!(
        found["content"][1]["data"]
            .as_str()
            .is_some_and(|d| d.starts_with("iVBORw0K") && d.ends_with("ggg==")),
        "{found}"
    );
    let note = client.ask(&json!({"resource": "note://ada"}));
    assert_eq!(note["contents"][0]["blob"], blob);

    let ran = client.call("query", &json!({"sql": format!("SELECT {nth}"), "limit": 5}));
    assert_eq!(text(&ran), format!("ran SELECT {nth}"));
    for (tool, arguments, policy, reason) in [
        (
            "query",
            json!({"sql": "DROP TABLE x"}),
            "no-drop",
            "Nothing is dropped.",
        ),
        ("shell", json!({"command": "id"}), "no-shell", "No shell."),
    ] {
        let refused = client.call(tool, &arguments);
        let told = format!("DENIED: {reason} [policy {policy}] [reference ");
        assert!(text(&refused).starts_with(&told), "{refused}");
        assert_eq!(refused["isError"], true);
    }
    let refused = client.ask(&json!({"resource": "note://secret"}));
    assert_eq!(refused["code"], 4030, "{refused}");
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|e| e.contains("That note is secret."))
    );

    // Nothing else than the very same call goes through, and that once.
    let arguments = json!({"id": nth});
    let held = client.call("remove", &arguments);
    assert!(
        text(&held).starts_with("PENDING_APPROVAL: Removing needs an owner."),
        "{held}"
    );
    let ticket = &held["_meta"]["interdict.dev/refusal"]["ticket"];
    let ticket = ticket.as_str().expect("a ticket").to_owned();
    let approve = [
        "approvals",
        "approve",
        &ticket,
        "--token-file",
        &olga.display().to_string(),
    ];
    let approved = agent.interdict(&approve).expect("approve");
    assert_eq!(approved.status, 0, "{}{}", approved.out, approved.err);
    let other = client.call("remove", &json!({"id": nth + 100}));
    assert!(text(&other).starts_with("PENDING_APPROVAL: "), "{other}");
    assert_eq!(text(&client.call("remove", &arguments)), format!("removed {nth}"));
    let again = client.call("remove", &arguments);
    assert!(text(&again).starts_with("PENDING_APPROVAL: "), "{again}");
}

fn records(agent: &Agent) {
    let records = agent.records().expect("records");
    let with = |action: &str| {
        kinds(&records, "operation")
            .filter(move |r| r["actions"][0] == action)
            .count()
    };
    for action in [
        "mcp.session",
        "mcp.list",
        "mcp.listen",
        "mcp.tool.call",
        "mcp.resource.read",
    ] {
        assert!(with(action) > 0, "{action}");
    }
    assert_eq!(with("http.write"), 0);
    let all = records.iter().map(Value::to_string).collect::<String>();
    assert!(all.contains("tools/call query {\\\"limit\\\":5,\\\"sql\\\":\\\"SELECT 0\\\"}"));
    assert!(!all.contains("ada@"));
    agent.verify().expect("verified");
}
