//! The demonstration: a real MCP server on a real database, governed end to end. `cargo xtask demo` builds and starts it.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use interdict_tests::{Agent, Oidc, Postgres, tool, tools};
use serde_json::Value;

const UPDATE: &str = "UPDATE orders SET total = total * 2";

fn main() -> Result<()> {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let dir = tempfile::Builder::new().prefix("interdict-demo-").tempdir()?;
    heading("A PostgreSQL of its own, with customers and orders");
    let database = Postgres::start(dir.path())?;
    println!(
        "  on 127.0.0.1:{}, TLS and SCRAM, labelled environment = prod",
        database.port
    );
    heading("A small OIDC issuer");
    let issuer = Oidc::start()?;
    println!("  {} vouches for alice (analyst) and dora (dba)", issuer.issuer());
    let agent = Agent::new(dir.path(), &database, &issuer, "[approval]\nhold = \"60s\"\n")?.as_caller();
    let alice = agent.token("alice.token", &issuer.token("alice", &["analyst"], 3600))?;
    let dora = agent.token("dora.token", &issuer.token("dora", &["dba"], 3600))?;

    heading("A real MCP server (from npm) under `interdict run`, a real MCP client (the official SDK)");
    let seen = converse(&agent, &alice, &dora, &database)?;
    heading("What the client was told");
    for (what, text) in &seen {
        println!("  {what}:");
        for line in text.lines() {
            println!("    {line}");
        }
    }
    check(&seen, &database)?;

    heading("The records: who, what, why");
    let audit = agent.state().join("audit").display().to_string();
    let shown = agent.interdict(&["sessions", "show", "--dir", &audit])?;
    print!("{}", shown.out);
    heading("Is the log complete, in order and unaltered?");
    let verified = agent.interdict(&["audit", "verify", "--dir", &audit])?;
    print!("{}", verified.out);
    ensure!(verified.status == 0, "the log does not verify");
    for secret in [
        "Lovelace",
        "4111 1111",
        "ada@example.com",
        interdict_tests::postgres::PASSWORD,
    ] {
        ensure!(!shown.out.contains(secret), "{secret} is in the records");
    }

    let path = dir.keep();
    heading("What you would type next");
    println!("  interdict sessions list --dir {audit}");
    println!("  interdict approvals list            (while an agent runs)");
    println!("  interdict audit verify --dir {audit} --json");
    println!(
        "\nEverything above was checked. The records stay in {}; remove them when you have seen them.",
        path.display()
    );
    if keep {
        println!("The database and the issuer run until you press Enter.");
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n==> {text}");
}

/// Lets the client talk to the governed server, and approves what waits, as dora.
fn converse(
    agent: &Agent,
    alice: &std::path::Path,
    dora: &std::path::Path,
    database: &Postgres,
) -> Result<Vec<(String, String)>> {
    let modules = tool("node").display().to_string();
    let server = tool("node/node_modules/@henkey/postgres-mcp-server/build/index.js")
        .display()
        .to_string();
    let url = format!(
        "postgresql://anybody:no-secret-here@localhost:{}/shop?sslmode=verify-full",
        database.port
    );
    let governed = agent.command(Some(alice), &["node", &server, "--connection-string", &url]);
    let client = tools::repository().join("tests/demo/client.mjs");
    let mut command = Command::new("node");
    command
        .arg(client)
        .args([&modules, UPDATE])
        .arg(governed.get_program())
        .args(governed.get_args());
    let log = std::fs::File::create(agent.state().with_file_name("mcp-server.log"))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("node")?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut seen = Vec::new();
    for line in lines {
        let answer: Value = serde_json::from_str(&line?)?;
        let what = answer["what"].as_str().unwrap_or_default().to_owned();
        println!(
            "  {what}: answered{}",
            if answer["isError"] == true {
                " with an error"
            } else {
                ""
            }
        );
        seen.push((
            what.clone(),
            answer["text"].as_str().unwrap_or_default().to_owned(),
        ));
        if what == "drop" {
            approve(agent, dora)?;
        }
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "the client ended with {status}; see mcp-server.log"
    );
    Ok(seen)
}

/// What a DBA does at their own terminal.
fn approve(agent: &Agent, dora: &std::path::Path) -> Result<()> {
    let token = dora.display().to_string();
    let deadline = Instant::now() + Duration::from_secs(30);
    let ticket = loop {
        let listed = agent.interdict(&["approvals", "list", "--json", "--token-file", &token])?;
        let first = listed
            .out
            .lines()
            .next()
            .and_then(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(ticket) = first.and_then(|r| r["ticket"].as_str().map(str::to_owned)) {
            break ticket;
        }
        if Instant::now() > deadline {
            bail!("nothing waits for approval");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("  update: held; dora runs: interdict approvals approve {ticket} --token-file dora.token");
    let approved = agent.interdict(&["approvals", "approve", &ticket, "--token-file", &token])?;
    print!(
        "{}",
        approved
            .out
            .lines()
            .map(|l| format!("    {l}\n"))
            .collect::<String>()
    );
    ensure!(approved.status == 0, "{}", approved.err);
    Ok(())
}

/// The demonstration shows nothing that it has not checked.
fn check(seen: &[(String, String)], database: &Postgres) -> Result<()> {
    let text = |what: &str| {
        seen.iter()
            .find(|(w, _)| w == what)
            .map(|(_, t)| t.as_str())
            .unwrap_or_default()
    };
    ensure!(
        text("read").contains("a***@e***.com"),
        "the customers were not read"
    );
    for secret in ["Lovelace", "4111 1111 1111", "ada@example.com", "555-0132"] {
        ensure!(!text("read").contains(secret), "{secret} reached the client");
    }
    ensure!(
        text("drop").contains("prod-no-drop") || text("drop").contains("DROP and TRUNCATE"),
        "no refusal: {}",
        text("drop")
    );
    ensure!(
        database.direct("shop", "SELECT count(*) FROM orders")? == "100",
        "the table is gone"
    );
    ensure!(
        database.direct("shop", "SELECT sum(total) FROM orders")? == "101000",
        "the approved update did not happen"
    );
    Ok(())
}
