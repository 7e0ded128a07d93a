//! `subscriptions/listen` (revision 2026-07-28), with the Rust SDK as the client.

use interdict_tests::world::kinds;
use serde_json::json;

use crate::stateless::{clients, there};
use crate::world::{POLICIES, World, text};

const V2: &str = "mcp/node/node_modules";

#[test]
fn a_listener_hears_of_what_it_may_read() {
    if !there("mcp subscriptions") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"1s\"", "");
    world.switch("touches");
    let [_, _, rust] = clients(&world.url());
    let command: Vec<&str> = rust.iter().map(String::as_str).collect();
    let mut client = world.client(&command);
    assert!(client.next()["tools"].is_array());
    let agreed = client.ask(&json!({"listen": ["note://ada", "note://secret"]}));
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["note://ada"]});
    assert_eq!(agreed["agreed"], wanted, "{agreed}");
    // What is heard and what is answered come in either order.
    let mut heard = Vec::new();
    for uri in ["note://secret", "note://ada"] {
        let mut answers = vec![client.call("touch", &json!({"uri": uri}))];
        if uri == "note://ada" {
            answers.push(client.next());
        }
        for one in answers {
            match one.get("heard") {
                Some(one) => heard.push(one.clone()),
                None => assert_eq!(text(&one), "touched", "{one}"),
            }
        }
    }
    let [one] = heard.as_slice() else {
        panic!("{heard:?}")
    };
    assert_eq!(one["method"], "notifications/resources/updated", "{one}");
    assert_eq!(one["params"]["uri"], "note://ada", "{one}");
    assert_eq!(one["params"]["_meta"]["test/by"], "a***@e***.com", "{one}");
    client.end();
    let recorded = world.recorded();
    assert!(!recorded.contains("ada@"), "{recorded}");
    // The client ended it: what it was shown until then is counted.
    let records = world.agent.records().expect("records");
    let listened = kinds(&records, "operation")
        .find(|r| r["actions"][0] == "mcp.listen")
        .expect("it listened");
    let outcome = kinds(&records, "outcome")
        .find(|r| r["operation"] == listened["operation"])
        .expect("its end");
    assert_eq!(outcome["status"], "abandoned", "{outcome}");
    assert_eq!(outcome["masked"]["pii.email"], 1, "{outcome}");
    assert!(outcome["bytes_down"].as_u64() > Some(100), "{outcome}");
    let detail = outcome["detail"].as_str().unwrap_or_default();
    assert!(
        detail.starts_with("200: nobody saw its end; ")
            && detail.contains(" notifications about resources left out"),
        "{detail}"
    );

    // Who may not listen is told so.
    let deaf = "@id(\"no-listening\") @reason(\"Nobody listens.\")\nforbid (principal, action == Action::\"mcp.listen\", resource);";
    std::fs::write(
        world.dir.path().join("policies/tools.cedar"),
        format!("{POLICIES}{deaf}"),
    )
    .expect("written");
    let mut client = world.client(&command);
    assert!(client.next()["tools"].is_array());
    let refused = client.ask(&json!({"listen": ["note://ada"]}));
    assert_eq!(refused["code"], 4030, "{refused}");
    let told = refused["error"].as_str().unwrap_or_default();
    assert!(
        told.starts_with("DENIED: Nobody listens. [policy no-listening]"),
        "{refused}"
    );
    client.end();
}
