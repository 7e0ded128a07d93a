//! MCP end to end: servers on the official SDKs, and the official SDKs as clients under `interdict run`.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

#[path = "mcp/asked.rs"]
mod asked;
#[path = "mcp/listening.rs"]
mod listening;
#[path = "mcp/pending.rs"]
mod pending;
#[path = "mcp/stateless.rs"]
mod stateless;
#[path = "mcp/tasks.rs"]
mod tasks;
#[path = "mcp/tools.rs"]
mod tools;
#[path = "mcp/world.rs"]
mod world;

use interdict_tests::world::kinds;
use interdict_tests::{Agent, can_govern, can_speak_mcp, python, tool};
use serde_json::{Value, json};
use stateless::rust_client;
use world::{Client, World, adapter, is_in_the_table, text, ticket};

#[test]
fn the_official_clients_are_masked_refused_and_held() {
    if !can_govern("mcp") || !can_speak_mcp("mcp") {
        return;
    }
    let world = World::new("mcp_server.mjs", "node/node_modules", "hold = \"1s\"", "");
    let (url, modules) = (world.url(), tool("node/node_modules").display().to_string());
    let (typescript, python_client) = (
        adapter("mcp_client.mjs").display().to_string(),
        adapter("mcp_client.py").display().to_string(),
    );
    let python = python().display().to_string();
    let rust = rust_client();
    let clients: [&[&str]; 5] = [
        &["node", &typescript, &url, &modules],
        &["node", &typescript, &url, &modules],
        &[&python, &python_client, &url],
        &[&python, &python_client, &url],
        &[&rust, &url, "2025-11-25"],
    ];
    for (nth, command) in clients.into_iter().enumerate() {
        let mut client = world.client(command);
        session(&mut client, &world, nth);
        let said = client.end();
        assert!(said.iter().all(|s| !s.contains("ada@")), "{said:?}");
        assert!(
            said.iter().any(|s| s.contains("a***@e***.com")),
            "the server's own stream is carried: {said:?}"
        );
    }
    let one = ["\"lookup\"", "\"query\"", "\"remove\""];
    assert_eq!(
        world.server.calls(),
        one.repeat(5),
        "each goes through exactly once"
    );
    records(&world.agent);
}

/// What one client sees.
fn session(client: &mut Client, world: &World, nth: usize) {
    // The tool that is denied whatever its arguments are is not shown.
    let tools = json!({"tools": ["lookup", "query", "remove"]});
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
        if policy == "no-drop" {
            is_in_the_table(text(&refused));
        }
    }
    let refused = client.ask(&json!({"resource": "note://secret"}));
    assert_eq!(refused["code"], 4030, "{refused}");
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|e| e.contains("That note is secret."))
    );

    // Clients put words of their own before it.
    let told = refused["error"].as_str().unwrap_or_default();
    is_in_the_table(
        told.split_once("DENIED: ")
            .map_or(told, |(before, _)| told.get(before.len()..).unwrap_or(told)),
    );

    // Nothing else than the very same call goes through, and that once.
    let arguments = json!({"id": nth});
    let held = client.call("remove", &arguments);
    assert!(
        text(&held).starts_with("PENDING_APPROVAL: Removing needs an owner."),
        "{held}"
    );
    is_in_the_table(text(&held));
    world.approve(&ticket(&held));
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
    assert!(all.contains("1 offers left out that no policy could permit"));
    agent.verify().expect("verified");
}
