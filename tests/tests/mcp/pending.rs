//! What clients are told while a call waits for consent: each the best that it can.

use std::time::{Duration, Instant};

use interdict_tests::{can_govern, can_speak_mcp, tool};
use serde_json::{Value, json};

use crate::stateless::{clients, start, there};
use crate::world::{Client, World, is_in_the_table, text, ticket, ticket_in};

const V2: &str = "mcp/node/node_modules";

fn call(client: &mut Client, id: u64) -> Value {
    client.call("remove", &json!({"id": id}))
}

#[test]
fn a_client_without_sessions_is_asked_by_a_form() {
    if !there("mcp input_required") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"1s\"", "");
    let [mut typescript, mut python, mut rust] = clients(&world.url());
    typescript.extend(["2026-07-28".into(), r#"{"elicitation":{"form":{}}}"#.into()]);
    python.push("elicit".into());
    rust.push("elicit".into());
    for (nth, command) in (0_u64..).zip([typescript, python, rust]) {
        let mut client = start(&world, &command);
        // Asked at once; who waits is asked again until somebody has decided.
        let began = Instant::now();
        let asked = call(&mut client, nth);
        let message = asked["asked"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(
            message.starts_with("Interdict holds this call: Removing needs an owner."),
            "{asked}"
        );
        is_in_the_table(&message);
        let wait = json!({"action": "accept", "content": {"choice": "wait"}});
        let again = client.ask(&wait);
        assert_eq!(again["asked"]["message"], message.as_str(), "{again}");
        assert!(began.elapsed() >= Duration::from_secs(1), "the second try waits");
        world.approve(&ticket_in(&message));
        let done = client.ask(&wait);
        assert_eq!(text(&done), format!("removed {nth}"), "{done}");
        // Once: it is asked for anew, and somebody does not want to wait.
        let asked = call(&mut client, nth);
        assert!(asked["asked"]["message"].is_string(), "{asked}");
        let no = client.ask(&json!({"action": "decline"}));
        assert!(
            text(&no).starts_with("REFUSED: Whoever was asked does not want to wait"),
            "{no}"
        );
        is_in_the_table(text(&no));
        client.end();
    }
    assert_eq!(world.server.calls(), ["\"remove\""; 3]);
}

#[test]
fn a_client_that_opens_links_is_shown_where_people_approve() {
    if !there("mcp elicitation by link") {
        return;
    }
    let approval = "hold = \"1s\"\nurl = \"https://approve.example.com/{ticket}\"";
    let world = World::new("mcp_server_v2.mjs", V2, approval, "");
    let [mut typescript, ..] = clients(&world.url());
    typescript.extend(["2026-07-28".into(), r#"{"elicitation":{"url":{}}}"#.into()]);
    let mut client = start(&world, &typescript);
    let asked = call(&mut client, 1);
    let url = asked["asked"]["url"].as_str().unwrap_or_default().to_owned();
    let ticket = ticket_in(&url);
    assert_eq!(url, format!("https://approve.example.com/{ticket}"), "{asked}");
    assert_eq!(asked["asked"]["mode"], "url");
    world.approve(&ticket);
    assert_eq!(text(&client.ask(&json!({"action": "accept"}))), "removed 1");
    client.end();
}

#[test]
fn a_client_with_a_session_is_asked_while_the_call_waits() {
    if !there("mcp elicitation/create") || !can_speak_mcp("mcp elicitation/create") {
        return;
    }
    let world = World::new("mcp_server.mjs", "node/node_modules", "hold = \"20s\"", "");
    let [mut typescript, ..] = clients(&world.url());
    typescript.extend(["legacy".into(), r#"{"elicitation":{}}"#.into()]);
    let mut client = start(&world, &typescript);
    let asked = call(&mut client, 1);
    let message = asked["asked"]["message"].as_str().unwrap_or_default().to_owned();
    world.approve(&ticket_in(&message));
    // Its answer comes after the consent, or before: neither keeps the result.
    let done = client.ask(&json!({"action": "accept", "content": {"choice": "wait"}}));
    assert_eq!(text(&done), "removed 1", "{done}");

    let began = Instant::now();
    let asked = call(&mut client, 2);
    assert!(asked["asked"]["message"].is_string(), "{asked}");
    let no = client.ask(&json!({"action": "accept", "content": {"choice": "cancel"}}));
    assert!(
        text(&no).starts_with("REFUSED: Cancelled while it waited for approval."),
        "{no}"
    );
    is_in_the_table(text(&no));
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "nobody waits for nothing"
    );
    client.end();
    assert_eq!(world.server.calls(), ["\"remove\""]);
    let records: String = world
        .agent
        .records()
        .expect("records")
        .iter()
        .map(Value::to_string)
        .collect();
    assert!(
        !records.contains("mcp.answer"),
        "what is said to the agent is not the server's"
    );
}

#[test]
fn a_client_that_wants_progress_hears_that_it_waits() {
    if !there("mcp progress") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"20s\"", "");
    let [typescript, ..] = clients(&world.url());
    let mut client = start(&world, &typescript);
    let heard = client.ask(&json!({"tool": "remove", "arguments": {"id": 1}, "progress": true}));
    let message = heard["progress"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("Interdict holds this call: "), "{heard}");
    world.approve(&ticket_in(&message));
    let mut done = client.next();
    while done["progress"].is_string() {
        done = client.next();
    }
    assert_eq!(text(&done), "removed 1", "{done}");
    client.end();
}

#[test]
fn the_inspector_is_refused_held_and_finishes() {
    if !there("mcp inspector") || !can_govern("mcp inspector") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"1s\"", "");
    let inspector = tool("mcp/node/node_modules/.bin/mcp-inspector")
        .display()
        .to_string();
    let home = format!("HOME={}", world.dir.path().display());
    let url = world.url();
    // Approvals are told to an agent that runs; the Inspector's own ends with it.
    let [typescript, ..] = clients(&url);
    let bystander = start(&world, &typescript);
    let inspect = |more: &[&str]| {
        let mut command = vec![
            "env",
            &home,
            &inspector,
            "--cli",
            &url,
            "--transport",
            "http",
            "--method",
        ];
        command.extend(more);
        let ended = world.agent.run(Some(&world.alice), &command).expect("run");
        serde_json::from_str::<Value>(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"))
    };
    let tools = inspect(&["tools/list"]).to_string();
    assert!(
        tools.contains("\"remove\"") && !tools.contains("\"shell\""),
        "{tools}"
    );
    let remove = ["tools/call", "--tool-name", "remove", "--tool-arg", "id=7"];
    let drop = [
        "tools/call",
        "--tool-name",
        "query",
        "--tool-arg",
        "sql=DROP TABLE x",
    ];
    let refused = inspect(&drop);
    assert!(
        text(&refused).starts_with("DENIED: Nothing is dropped."),
        "{refused}"
    );
    let held = inspect(&remove);
    assert!(text(&held).starts_with("PENDING_APPROVAL: "), "{held}");
    world.approve(&ticket(&held));
    assert_eq!(text(&inspect(&remove)), "removed 7");
    bystander.end();
}
