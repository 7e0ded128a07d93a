//! The conformance suite of MCP, by whoever wrote the protocol: what it says of a server it says of the same server through
//! the agent.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interdict_tests::tools::repository;
use interdict_tests::{Agent, Oidc, can_govern, can_speak_mcp, can_speak_mcp_v2, tool};

const POLICIES: &str = r#"
@id("everything") permit (principal, action in Action::"mcp", resource);
@id("see") permit (principal, action == Action::"reveal", resource);
"#;

struct Server(Child, String);

impl Server {
    fn start() -> Self {
        let mut child = Command::new("node")
            .arg(repository().join("tests/adapters/mcp_everything.mjs"))
            .arg(tool("node/node_modules"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("server");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("output"))
            .read_line(&mut port)
            .expect("port");
        Self(child, port.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is gone already needs no stopping.
        drop((self.0.kill(), self.0.wait()));
    }
}

/// The suite's command, which writes its results below `dir`.
fn suite(dir: &Path, port: &str) -> Vec<String> {
    let script = tool("mcp/node/node_modules/@modelcontextprotocol/conformance/dist/index.js");
    let run = format!(
        "cd {} && exec timeout 100 node {} server --suite all --url http://localhost:{port}/mcp",
        dir.display(),
        script.display()
    );
    vec!["sh".into(), "-c".into(), run]
}

/// The lines of the summary: `✓ ping: 1 passed, 0 failed`.
fn summary(out: &str) -> Vec<&str> {
    let rest = out.split("=== SUMMARY ===").nth(1).unwrap_or_default();
    rest.lines().filter(|line| line.contains(" passed, ")).collect()
}

#[test]
fn the_suite_says_the_same_through_the_agent() {
    let test = "mcp conformance";
    if !can_govern(test) || !can_speak_mcp(test) || !can_speak_mcp_v2(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let (server, issuer) = (Server::start(), Oidc::start().expect("issuer"));
    let config = format!(
        "[[target]]\nname = \"tools\"\nprotocol = \"mcp\"\ntls = \"disabled\"\naddresses = [\"localhost:{}\"]\n",
        server.1
    );
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).expect("made");
    std::fs::write(policies.join("all.cedar"), POLICIES).expect("written");
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller()
        .with_policies(&policies);
    let token = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let words = suite(dir.path(), &server.1);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (program, arguments) = words.split_first().expect("a command");
    let direct = Command::new(program).args(arguments).output().expect("direct");
    let direct = String::from_utf8_lossy(&direct.stdout).into_owned();
    let governed = agent.run(Some(&token), &words).expect("governed");
    assert_eq!(summary(&direct), summary(&governed.out), "{}", governed.err);
    assert!(summary(&direct).len() > 30, "{direct}");
    assert!(direct.contains(" passed, 0 failed"), "{direct}");
    agent.verify().expect("verified");
}
