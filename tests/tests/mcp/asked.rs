//! What a server asks its client: judged, and masked.

use interdict_tests::world::kinds;
use serde_json::{Value, json};

use crate::stateless::{clients, there};
use crate::world::{World, text};

#[test]
fn a_server_asks_only_for_what_is_permitted() {
    if !there("mcp questions of servers") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", "mcp/node/node_modules", "hold = \"1s\"", "");
    world.switch("asks");
    let [mut typescript, ..] = clients(&world.url());
    typescript.extend(["2026-07-28".into(), r#"{"elicitation":{},"sampling":{}}"#.into()]);
    let command: Vec<&str> = typescript.iter().map(String::as_str).collect();
    let mut client = world.client(&command);
    assert_eq!(
        client.next(),
        json!({"tools": ["lookup", "query", "remove", "ask"]})
    );
    let asked = client.call("ask", &json!({"what": "elicitation"}));
    assert_eq!(asked["asked"]["message"], "Is it a***@e***.com?", "{asked}");
    let done = client.ask(&json!({"action": "accept", "content": {"yes": true}}));
    assert!(text(&done).contains("\"yes\":true"), "{done}");
    let refused = client.call("ask", &json!({"what": "sampling"}));
    assert_eq!(refused["code"], 4030, "{refused}");
    let told = refused["error"].as_str().unwrap_or_default();
    assert!(
        told.contains("The server asks this client for something that no policy permits"),
        "{told}"
    );
    client.end();
    let records = world.agent.records().expect("records");
    let of = |action: &str| {
        let of = move |record: &&Value| record["actions"][0] == action;
        kinds(&records, "operation").find(of).cloned()
    };
    let asked = of("mcp.sampling.create").expect("a record of its own");
    assert_eq!(asked["verdict"], "refused", "{asked}");
    assert_eq!(asked["policies"][0], "no-sampling", "{asked}");
    assert!(
        asked.to_string().contains("Who is a***@e***.com?"),
        "masked: {asked}"
    );
    assert!(
        of("mcp.elicitation.create").is_none(),
        "what is permitted has none"
    );
    world.agent.verify().expect("verified");
    let records = world.recorded();
    assert!(
        records.contains("questions of the server not passed on: 1 (\\\"sampling/createMessage\\\")"),
        "{records}"
    );
}
