//! Revision 2026-07-28: no sessions. A server on the second generation of the SDK, and those of TypeScript, Python and
//! Rust as clients.

use interdict_tests::{can_govern, can_speak_mcp_v2, tool};
use serde_json::json;

use crate::world::{Client, World, adapter, text, ticket};

/// The clients' commands for `url`.
pub(crate) fn clients(url: &str) -> [Vec<String>; 3] {
    let path = |name: &str| adapter(name).display().to_string();
    let (modules, python) = (tool("mcp/node/node_modules"), tool("mcp/venv/bin/python"));
    let words = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
    [
        words(&[
            "node",
            &path("mcp_client_v2.mjs"),
            url,
            &modules.display().to_string(),
        ]),
        words(&[&python.display().to_string(), &path("mcp_client_v2.py"), url]),
        words(&[&rust_client(), url, "2026-07-28"]),
    ]
}

/// The client on the Rust SDK (`tests/mcp-client`).
pub(crate) fn rust_client() -> String {
    let program = tool("mcp/rust/debug/interdict-mcp-client");
    program.display().to_string()
}

pub(crate) fn start(world: &World, command: &[String]) -> Client {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut client = world.client(&command);
    assert_eq!(client.next(), json!({"tools": ["lookup", "query", "remove"]}));
    client
}

pub(crate) fn there(test: &str) -> bool {
    can_govern(test) && can_speak_mcp_v2(test)
}

#[test]
fn clients_without_sessions_are_masked_refused_and_held() {
    if !there("mcp 2026-07-28") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", "mcp/node/node_modules", "hold = \"1s\"", "");
    for (nth, command) in clients(&world.url()).iter().enumerate() {
        let mut client = start(&world, command);
        let found = client.call("lookup", &json!({"name": "ada"}));
        let shown = "Ada <a***@e***.com>, card **** **** **** 1111";
        assert_eq!(text(&found), shown, "{found}");
        assert_eq!(found["structuredContent"]["email"], "a***@e***.com");
        let refused = client.call("query", &json!({"sql": "DROP TABLE x"}));
        let told = "DENIED: Nothing is dropped. [policy no-drop] [reference ";
        assert!(text(&refused).starts_with(told), "{refused}");
        assert_eq!(refused["isError"], true);
        let refused = client.ask(&json!({"resource": "note://secret"}));
        assert_eq!(refused["code"], 4030, "{refused}");
        let held = client.call("remove", &json!({"id": nth}));
        assert!(
            text(&held).starts_with("PENDING_APPROVAL: Removing needs an owner."),
            "{held}"
        );
        world.approve(&ticket(&held));
        assert_eq!(
            text(&client.call("remove", &json!({"id": nth}))),
            format!("removed {nth}")
        );
        let again = client.call("remove", &json!({"id": nth}));
        assert!(text(&again).starts_with("PENDING_APPROVAL: "), "{again}");
        client.end();
    }
    assert_eq!(
        world.server.calls(),
        ["\"lookup\"", "\"remove\""].repeat(3),
        "each once"
    );
}
