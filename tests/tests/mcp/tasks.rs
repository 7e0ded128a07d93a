//! Calls that wait as tasks (`io.modelcontextprotocol/tasks`), with the Rust SDK and the TypeScript SDK's package for tasks as
//! the clients.

use interdict_tests::tool;
use serde_json::{Value, json};

use crate::stateless::{clients, start, there};
use crate::world::{Client, POLICIES, World, adapter, is_in_the_table, text, ticket_in};

const V2: &str = "mcp/node/node_modules";

fn command(world: &World) -> Vec<String> {
    let [_, _, mut rust] = clients(&world.url());
    rust.push("tasks".into());
    rust
}

/// The task of a call that waits: its id and its ticket.
fn task(client: &mut Client, tool: &str, arguments: &Value) -> (String, String) {
    let task = client.call(tool, arguments);
    assert_eq!(
        (&task["resultType"], &task["status"]),
        (&json!("task"), &json!("working")),
        "{task}"
    );
    let message = task["statusMessage"].as_str().unwrap_or_default();
    assert!(message.starts_with("Interdict holds this call: "), "{task}");
    if tool == "remove" {
        is_in_the_table(message);
    }
    assert!(
        task["ttlMs"].as_u64() > Some(0) && task["pollIntervalMs"].as_u64() > Some(0),
        "{task}"
    );
    let id = task["taskId"].as_str().unwrap_or_default();
    (id.to_owned(), ticket_in(message))
}

fn get(client: &mut Client, id: &str) -> Value {
    client.ask(&json!({"get": id}))
}

const LOOKUP: &str = r#"
@id("lookup-needs-owner") @reason("Looking somebody up needs an owner.") @approvers("owners")
forbid (principal, action == Action::"mcp.tool.call", resource)
when { context.mcp.tool == "lookup" }
unless { context has approval && context.approval.groups.contains("owners") };
"#;

#[test]
fn a_call_that_waits_is_a_task() {
    if !there("mcp tasks") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"20s\"", "");
    let policies = world.dir.path().join("policies/tools.cedar");
    std::fs::write(policies, format!("{POLICIES}{LOOKUP}")).expect("written");
    let command = command(&world);
    let mut client = start(&world, &command);
    // What need not wait is answered as ever.
    assert_eq!(
        text(&client.call("query", &json!({"sql": "SELECT 1"}))),
        "ran SELECT 1"
    );

    let (id, ticket) = task(&mut client, "lookup", &json!({"name": "ada"}));
    let waits = get(&mut client, &id);
    assert_eq!(
        (&waits["resultType"], &waits["status"]),
        (&json!("complete"), &json!("working")),
        "{waits}"
    );
    // It is nobody else's.
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut other = Client::start(&world.agent, &world.olga, &words);
    assert!(other.next()["tools"].is_array());
    for id in [id.as_str(), "interdict-task-00000000000000000000000000000000"] {
        let gone = get(&mut other, id);
        assert_eq!(gone["code"], -32602, "{gone}");
        let told = gone["error"].as_str().unwrap_or_default();
        is_in_the_table(told);
    }
    other.end();
    world.approve(&ticket);
    let found = get(&mut client, &id);
    assert_eq!(found["status"], "completed", "{found}");
    assert_eq!(
        text(&found["result"]),
        "Ada <a***@e***.com>, card **** **** **** 1111"
    );
    assert_eq!(found["result"]["structuredContent"]["email"], "a***@e***.com");
    let blob = &found["result"]["content"][2]["resource"]["blob"];
    let shown = "Ada <a***@e***.com>, card **** **** **** 1111";
    assert_eq!(*blob, data_encoding::BASE64.encode(shown.as_bytes()), "{found}");
    assert_eq!(get(&mut client, &id), found, "kept");

    // Another call needs another consent; nobody gives it.
    let (id, ticket) = task(&mut client, "remove", &json!({"id": 5}));
    world.decide(&["deny", &ticket, "--comment", "not today"]);
    let failed = get(&mut client, &id);
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!(4031)),
        "{failed}"
    );
    let told = failed["error"]["message"].as_str().unwrap_or_default();
    is_in_the_table(told);
    assert_eq!(get(&mut client, &id), failed, "for good");

    // Nobody wants it any more.
    let (id, ticket) = task(&mut client, "remove", &json!({"id": 7}));
    assert_eq!(client.ask(&json!({"cancel": id})), json!({"cancelled": true}));
    assert_eq!(get(&mut client, &id)["status"], "cancelled");
    let open = world.agent.interdict(&["approvals", "list"]).expect("list");
    assert!(!open.out.contains(&ticket), "{}", open.out);
    client.end();
    assert_eq!(world.server.calls(), ["\"query\"", "\"lookup\""], "each once");
    let recorded = world.recorded();
    assert!(
        recorded.contains("approval.withdrawn") && !recorded.contains("mcp.task"),
        "{recorded}"
    );
    world.agent.verify().expect("verified");
}

#[test]
fn a_task_goes_on_where_its_client_does_not_wait() {
    if !there("mcp tasks that take long") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"20s\"", "");
    let holds = world.switch("holds");
    let mut client = start(&world, &command(&world));
    let (id, ticket) = task(&mut client, "remove", &json!({"id": 1}));
    world.approve(&ticket);
    let works = get(&mut client, &id);
    assert_eq!(works["status"], "working", "{works}");
    assert_eq!(
        works["statusMessage"],
        "It was approved, and the server works on it."
    );
    std::fs::remove_file(holds).expect("removed");
    let mut done = get(&mut client, &id);
    while done["status"] == "working" {
        done = get(&mut client, &id);
    }
    assert_eq!(text(&done["result"]), "removed 1", "{done}");
    client.end();
    assert_eq!(world.server.calls(), ["\"remove\""], "once");
}

const TASKS: &str = r#"
@id("no-cancelling") @reason("What runs, runs.")
forbid (principal, action == Action::"mcp.task", resource) when { context.mcp.method == "tasks/cancel" };
@id("no-declining") @reason("Answer it.")
forbid (principal, action == Action::"mcp.answer", resource)
when {
  context.input.text.hasTag("inputresponses/question/action") &&
  context.input.text.getTag("inputresponses/question/action") == "decline"
};
"#;

/// Asks for a task until it stands otherwise.
fn until(client: &mut Client, id: &str) -> Value {
    loop {
        let task = get(client, id);
        if task["status"] != "working" {
            return task;
        }
    }
}

/// The id of a task of the server's.
fn made(client: &mut Client, tool: &str, arguments: &Value) -> String {
    let made = client.call(tool, arguments);
    assert_eq!(made["resultType"], "task", "{made}");
    let id = made["taskId"].as_str().unwrap_or_default().to_owned();
    assert!(!id.starts_with("interdict-"), "{made}");
    id
}

#[test]
fn tasks_of_servers_are_masked_and_judged() {
    if !there("mcp tasks of servers") {
        return;
    }
    let world = World::of_tasks("hold = \"20s\"");
    let policies = world.dir.path().join("policies/tools.cedar");
    std::fs::write(policies, format!("{POLICIES}{TASKS}")).expect("written");
    let command = command(&world);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut client = world.client(&command);
    assert_eq!(client.next(), json!({"tools": ["lookup", "remove", "ask"]}));
    let id = made(&mut client, "lookup", &json!({"name": "ada"}));
    let found = until(&mut client, &id);
    assert_eq!(text(&found["result"]), "Ada <a***@e***.com>", "{found}");
    assert_eq!(found["result"]["structuredContent"]["email"], "a***@e***.com");

    let id = made(&mut client, "ask", &json!({"what": "elicitation"}));
    let asks = until(&mut client, &id);
    assert_eq!(asks["status"], "input_required", "{asks}");
    let message = &asks["inputRequests"]["question"]["params"]["message"];
    assert_eq!(message, "Is it a***@e***.com?");
    let answer = |action: &str| json!({"update": id, "responses": {"question": {"action": action}}});
    let refused = client.ask(&answer("decline"));
    assert_eq!(refused["code"], 4030, "{refused}");
    assert_eq!(client.ask(&answer("accept")), json!({"updated": true}));
    let done = until(&mut client, &id);
    assert!(text(&done["result"]).contains("accept"), "{done}");

    let id = made(&mut client, "ask", &json!({"what": "sampling"}));
    let refused = until(&mut client, &id);
    assert_eq!(refused["code"], 4030, "{refused}");
    let refused = client.ask(&json!({"cancel": id}));
    let told = refused["error"].as_str().unwrap_or_default();
    assert!(
        told.starts_with("DENIED: What runs, runs. [policy no-cancelling]"),
        "{refused}"
    );

    // A call that waits, and of which the server makes a task: one for the client.
    let (id, ticket) = task(&mut client, "remove", &json!({"id": 7}));
    world.approve(&ticket);
    let done = until(&mut client, &id);
    assert_eq!(
        (&done["status"], &done["taskId"]),
        (&json!("completed"), &json!(id)),
        "{done}"
    );
    assert_eq!(text(&done["result"]), "remove 7", "{done}");
    client.end();
    let calls = ["\"lookup\"", "\"ask\"", "\"ask\"", "\"remove\""];
    assert_eq!(world.server.calls(), calls);
    let recorded = world.recorded();
    for said in ["mcp.task", "mcp.answer", "mcp.sampling.create"] {
        assert!(recorded.contains(said), "{said}: {recorded}");
    }
    assert!(!recorded.contains("ada@"), "{recorded}");
    world.agent.verify().expect("verified");
}

/// What comes behind the states of a task.
fn ended(client: &mut Client) -> Value {
    loop {
        let said = client.next();
        if said.get("task").is_none() {
            return said;
        }
    }
}

#[test]
fn the_typescript_package_for_tasks_waits_until_it_is_approved() {
    if !there("mcp tasks in TypeScript") {
        return;
    }
    let world = World::new("mcp_server_v2.mjs", V2, "hold = \"20s\"", "");
    let script = adapter("mcp_client_tasks.mjs").display().to_string();
    let modules = tool(V2).display().to_string();
    let mut client = world.client(&["node", &script, &world.url(), &modules]);
    assert_eq!(client.next(), json!({"tools": ["lookup", "query", "remove"]}));
    assert_eq!(
        text(&client.call("query", &json!({"sql": "SELECT 1"}))),
        "ran SELECT 1"
    );
    for (id, decision) in [(1, "approve"), (2, "deny")] {
        // It takes tasks because the server is said to have them.
        let waits = client.call("remove", &json!({"id": id}));
        assert_eq!(waits["task"]["status"], "working", "{waits}");
        let message = waits["task"]["statusMessage"].as_str().unwrap_or_default();
        is_in_the_table(message);
        world.decide(&[decision, &ticket_in(message), "--comment", "not today"]);
        let said = ended(&mut client);
        if decision == "approve" {
            assert_eq!(text(&said), "removed 1", "{said}");
        } else {
            assert_eq!(
                (&said["ended"], &said["code"]),
                (&json!("failed"), &json!(4031)),
                "{said}"
            );
            is_in_the_table(said["error"].as_str().unwrap_or_default());
        }
    }
    client.end();
    assert_eq!(world.server.calls(), ["\"query\"", "\"remove\""]);
}
