//! What unchanged clients print when they are refused, or have to wait for somebody: held against the table in
//! `policies/REFUSALS.md`, which `INTERDICT_WRITE=1 cargo test --test http_refusals` writes anew.

use std::fmt::Write;

use interdict_tests::tools::repository;
use interdict_tests::{Agent, HttpTarget, Oidc, can_govern, can_serve_http, python};

const RULES: &str = r#"
@id("all") @reason("Everything.")
permit (principal, action in Action::"http", resource);
@id("not-that") @reason("Salaries are not read by agents.")
forbid (principal, action in Action::"http", resource) when { context.http.path like "/denied*" };
@id("ask-first") @approvers("owners") @reason("An owner has to agree.")
forbid (principal, action in Action::"http", resource) when { context.http.path like "/pending*" }
unless { context has approval && context.approval.groups.contains("owners") };
"#;

/// Name, and the command with `URL` and `PYTHON` in it.
const CLIENTS: [(&str, &str); 10] = [
    ("curl", "curl -sS URL"),
    ("curl -f", "curl -sSf URL"),
    ("wget", "wget -nv -O- URL"),
    (
        "Python requests",
        "PYTHON -c 'import requests; requests.get(\"URL\").raise_for_status()'",
    ),
    (
        "Python httpx",
        "PYTHON -c 'import httpx; httpx.get(\"URL\").raise_for_status()'",
    ),
    (
        "Python aiohttp",
        "PYTHON -c 'import asyncio, aiohttp\nasync def main():\n    async with aiohttp.request(\"GET\", \"URL\", raise_for_status=True): pass\nasyncio.run(main())'",
    ),
    (
        "node fetch",
        "node -e 'fetch(\"URL\").then(r => r.json()).then(p => console.log(p.status, p.title, p.next_step))'",
    ),
    ("git", "git ls-remote URL"),
    (
        "pip",
        "PYTHON -m pip download -q --disable-pip-version-check --no-deps --retries 0 URL/demo-1.0.tar.gz",
    ),
    (
        "restic (Go)",
        "RESTIC_PASSWORD=x restic --no-cache -r rest:URL cat config",
    ),
];

#[test]
fn clients_print_what_the_table_says() {
    if !can_govern("clients_print") || !can_serve_http("clients_print") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let target = HttpTarget::start(dir.path()).expect("target");
    let issuer = Oidc::start().expect("issuer");
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).expect("made");
    std::fs::write(policies.join("rules.cedar"), RULES).expect("written");
    let config = format!(
        "[approval]\nhold = \"0s\"\n[[target]]\nname = \"api\"\nprotocol = \"http\"\naddresses = [\"localhost:{}\"]\nca_file = \"{}\"\n",
        target.tls,
        target.ca().display()
    );
    let agent = Agent::configured(dir.path(), &issuer, &config)
        .expect("agent")
        .as_caller()
        .with_policies(&policies);
    let alice = agent
        .token("alice", &issuer.token("alice", &[], 600))
        .expect("token");
    let mut script = format!("export HOME={} GIT_TERMINAL_PROMPT=0\n", dir.path().display());
    let states = ["denied", "pending"];
    for (_, command) in CLIENTS {
        for state in states {
            let url = format!("https://localhost:{}/{state}", target.tls);
            let command = command
                .replace("URL", &url)
                .replace("PYTHON", &python().display().to_string());
            let _never_fails = writeln!(script, "({command}) 2>&1 | tail -n 20\necho; echo ----");
        }
    }
    let seen = agent.run(Some(&alice), &["sh", "-c", &script]).expect("run");
    let outputs: Vec<&str> = seen.out.split("----\n").collect();
    let mut table = String::new();
    for (index, (client, _)) in CLIENTS.iter().enumerate() {
        for (offset, state) in states.iter().enumerate() {
            let output = outputs.get(index * 2 + offset).copied().unwrap_or_default();
            let line = last_line(output, target.tls);
            let _never_fails = writeln!(table, "| {client} | {state} | `{line}` |");
        }
    }
    let file = repository().join("policies/REFUSALS.md");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let (head, _) = text.split_once("| --- | --- | --- |\n").unwrap_or((&text, ""));
    if std::env::var_os("INTERDICT_WRITE").is_some() {
        std::fs::write(&file, format!("{head}| --- | --- | --- |\n{table}")).expect("written");
        return;
    }
    for line in table.lines() {
        assert!(
            text.contains(line),
            "policies/REFUSALS.md does not have:\n{line}\n{}",
            seen.err
        );
    }
    assert_eq!(target.log().expect("log").len(), 0, "something was forwarded");
}

/// The last line with the status that a client printed, without what differs from run to run.
fn last_line(output: &str, port: u16) -> String {
    // Beside what some print about the status in general.
    let says = |line: &&str| line.contains("403") && !line.contains("developer.mozilla.org");
    let line = output
        .lines()
        .rev()
        .find(says)
        .unwrap_or("(no line with the status)");
    let mut line = line.trim().replace(&format!(":{port}"), "");
    for before in ["apr-", "urn:uuid:", "\"operation\":\""] {
        let mut parts = line.split(before);
        let mut same = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let rest = part.get(end.unwrap_or(part.len())..).unwrap_or_default();
            same.push_str(&format!("{before}…{rest}"));
        }
        line = same;
    }
    // wget begins with the time.
    if line.starts_with("20") {
        line = line.get(20..).unwrap_or_default().to_owned();
    }
    line.replace('|', "\\|")
}
