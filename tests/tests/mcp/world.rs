//! A server of MCP, an issuer, an agent with policies, and governed clients that are asked line by line.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use interdict_tests::tools::{certificates, repository};
use interdict_tests::{Agent, Oidc, tool};
use serde_json::{Value, json};

pub(crate) const POLICIES: &str = r#"
@id("tools") @reason("The tools are there to be used.")
permit (principal, action in Action::"mcp", resource);
@id("no-shell") @reason("No shell.")
forbid (principal, action == Action::"mcp.tool.call", resource) when { context.mcp.tool == "shell" };
@id("no-drop") @reason("Nothing is dropped.")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.input.text.hasTag("sql") && context.input.text.getTag("sql") like "*DROP*" };
@id("no-sampling") @reason("Our model is for us.")
forbid (principal, action == Action::"mcp.sampling.create", resource);
@id("removal-needs-owner") @reason("Removing needs an owner.") @approvers("owners")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "remove" }
unless { context has approval && context.approval.groups.contains("owners") };
@id("secret-notes") @reason("That note is secret.")
forbid (principal, action == Action::"mcp.resource.read", resource) when { context.mcp.uri like "*secret*" };
"#;

pub(crate) struct Server {
    child: Child,
    pub(crate) port: String,
    log: PathBuf,
}

impl Server {
    /// `script` on the packages below `modules`; the file `description` in `dir` may change what a tool says of itself.
    pub(crate) fn start(dir: &Path, script: &str, modules: &str) -> Self {
        certificates(dir).expect("certificates");
        let log = dir.join("calls");
        std::fs::write(&log, "").expect("written");
        let mut node = Command::new("node");
        node.arg(adapter(script))
            .args([dir.join("server.crt"), dir.join("server.key"), log.clone()])
            .args([tool(modules), dir.join("description")]);
        Self::run(node, log)
    }

    /// One on the Rust SDK, which makes a task of each call; without TLS.
    pub(crate) fn of_tasks(dir: &Path) -> Self {
        let log = dir.join("calls");
        std::fs::write(&log, "").expect("written");
        let mut server = Command::new(tool("mcp/rust/debug/interdict-mcp-tasks"));
        server.arg(&log);
        Self::run(server, log)
    }

    fn run(mut command: Command, log: PathBuf) -> Self {
        let mut child = command
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
    pub(crate) fn calls(&self) -> Vec<String> {
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

pub(crate) fn adapter(name: &str) -> PathBuf {
    repository().join("tests/adapters").join(name)
}

/// A governed client, asked line by line.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What the server said by itself.
    said: Vec<String>,
}

impl Client {
    pub(crate) fn start(agent: &Agent, token: &Path, command: &[&str]) -> Self {
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

    pub(crate) fn next(&mut self) -> Value {
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

    pub(crate) fn ask(&mut self, what: &Value) -> Value {
        writeln!(self.input, "{what}").expect("written");
        self.next()
    }

    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ask(&json!({"tool": tool, "arguments": arguments}))
    }

    pub(crate) fn end(self) -> Vec<String> {
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

pub(crate) fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

/// Everything that a client needs to be governed.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) agent: Agent,
    /// Tokens of a user, and of one who may approve.
    pub(crate) alice: PathBuf,
    pub(crate) olga: PathBuf,
    _issuer: Oidc,
    scheme: &'static str,
}

impl World {
    /// `approval` is what the configuration says of approvals; `more` is appended to the target's.
    pub(crate) fn new(script: &str, modules: &str, approval: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let server = Server::start(dir.path(), script, modules);
        let ca = dir.path().join("ca.crt").display().to_string();
        let more = format!("ca_file = \"{ca}\"\n{more}");
        Self::around((dir, server), "https", (approval, &more))
    }

    /// Around a server on the Rust SDK that makes a task of each call.
    pub(crate) fn of_tasks(approval: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let server = Server::of_tasks(dir.path());
        Self::around((dir, server), "http", (approval, "tls = \"disabled\"\n"))
    }

    fn around(
        (dir, server): (tempfile::TempDir, Server),
        scheme: &'static str,
        (approval, more): (&str, &str),
    ) -> Self {
        let issuer = Oidc::start().expect("issuer");
        let config = format!(
            "[approval]\n{approval}\n[[target]]\nname = \"tools\"\nprotocol = \"mcp\"\n\
             addresses = [\"localhost:{}\"]\n{more}",
            server.port
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
        Self {
            dir,
            server,
            agent,
            alice,
            olga,
            _issuer: issuer,
            scheme,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://localhost:{}/mcp", self.scheme, self.server.port)
    }

    pub(crate) fn client(&self, command: &[&str]) -> Client {
        Client::start(&self.agent, &self.alice, command)
    }

    pub(crate) fn approve(&self, ticket: &str) {
        self.decide(&["approve", ticket]);
    }

    /// What the owner says of a request.
    pub(crate) fn decide(&self, what: &[&str]) {
        let olga = self.olga.display().to_string();
        let words = [&["approvals"], what, &["--token-file", &olga]].concat();
        let decided = self.agent.interdict(&words).expect("decided");
        assert_eq!(decided.status, 0, "{}{}", decided.out, decided.err);
    }

    /// What there is in the records, in one text.
    pub(crate) fn recorded(&self) -> String {
        let records = self.agent.records().expect("records");
        records.iter().map(Value::to_string).collect()
    }

    /// A file beside the server that changes what it does.
    pub(crate) fn switch(&self, what: &str) -> PathBuf {
        let path = self.dir.path().join(format!("description.{what}"));
        std::fs::write(&path, "").expect("written");
        path
    }
}

/// The ticket of a call that is held.
pub(crate) fn ticket(held: &Value) -> String {
    let ticket = &held["_meta"]["interdict.dev/refusal"]["ticket"];
    ticket.as_str().expect("a ticket").to_owned()
}

/// The ticket in what a person or a model is told.
pub(crate) fn ticket_in(text: &str) -> String {
    let at = text.find("apr-").expect("a ticket in the text");
    text.chars().skip(at).take("apr-7k2m9x".len()).collect()
}

/// Holds what a client showed against the table of refusals, tickets and references apart.
pub(crate) fn is_in_the_table(shown: &str) {
    let table = std::fs::read_to_string(repository().join("policies/REFUSALS-MCP.md")).expect("the table");
    let mut plain = shown.to_owned();
    if shown.contains("apr-") {
        plain = plain.replace(&ticket_in(shown), "apr-7k2m9x");
    }
    if let Some((before, rest)) = plain.split_once("[reference ") {
        let after = rest.split_once(']').map_or("", |(_reference, after)| after);
        plain = format!("{before}[reference …]{after}");
    }
    let known = |line: &str| line.get(3..).is_some_and(|text| text == plain);
    assert!(
        table.lines().any(known),
        "not in policies/REFUSALS-MCP.md: {plain}"
    );
}
