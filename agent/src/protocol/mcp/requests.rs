//! What a server asks of the client: its model (sampling), its user (elicitation), its roots. Up to revision 2025-11-25 these
//! are requests of their own, from 2026-07-28 parts of a result (`input_required`).

use serde_json::Value;

use crate::json::{TooMuch, canonical, facts};
use crate::mask::MaskPlan;
use crate::model::{Action, Digest, Facts, Fingerprint, McpFacts, Operation};

use super::call::shortened;

/// The requests in a message of the server, each by its method and parameters.
pub(super) fn asked(message: &Value) -> Vec<(&str, Option<&Value>)> {
    if let (Some(method), Some(_)) = (message.get("method").and_then(Value::as_str), message.get("id")) {
        return vec![(method, message.get("params"))];
    }
    // In a result (`input_required`, a task), or in a notification about a task.
    let inside = ["/result/inputRequests", "/params/inputRequests"];
    let Some(Value::Object(inside)) = inside.iter().find_map(|at| message.pointer(at)) else {
        return Vec::new();
    };
    let one = |request| {
        let request: &Value = request;
        let method = request.get("method").and_then(Value::as_str);
        (method.unwrap_or_default(), request.get("params"))
    };
    inside.values().map(one).collect()
}

/// A request of the server as an operation. `plan` masks what records show of its parameters; without it they show none.
///
/// # Errors
/// Where it has too many values to be judged.
pub(super) fn operation(
    method: &str,
    params: Option<&Value>,
    plan: Option<&MaskPlan>,
) -> Result<Operation, TooMuch> {
    let action = match method {
        "sampling/createMessage" => Action::McpSampling,
        "elicitation/create" => Action::McpElicitation,
        "roots/list" => Action::McpRoots,
        // Asks nothing of anybody.
        "ping" => Action::McpSession,
        _ => Action::McpOther,
    };
    let input = params.map(facts).transpose()?.unwrap_or_default();
    let mut text = method.to_owned();
    if let (Some(params), Some(plan)) = (params, plan) {
        let whole = format!("{method} {}", canonical(params));
        text = plan.shown(&shortened(whole));
    }
    Ok(Operation {
        actions: [action].into(),
        facts: Facts::Mcp(McpFacts {
            method: method.to_owned(),
            input,
            ..McpFacts::default()
        }),
        text,
        fingerprint: Fingerprint(Digest::of_fields(&[b"mcp server", method.as_bytes()])),
        parameters: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_found_on_their_own_and_in_results() {
        let alone = json!({"jsonrpc": "2.0", "id": 1, "method": "roots/list"});
        assert_eq!(asked(&alone), [("roots/list", None)]);
        let inside = json!({"id": 1, "result": {"resultType": "input_required", "inputRequests": {
            "a": {"method": "sampling/createMessage", "params": {"maxTokens": 5}}, "b": 7,
        }}});
        let tokens = json!({"maxTokens": 5});
        assert_eq!(
            asked(&inside),
            [("sampling/createMessage", Some(&tokens)), ("", None)]
        );
        for none in [
            json!({"method": "notifications/progress"}),
            json!({"id": 1, "result": {"content": []}}),
            json!({"id": 1, "error": {}}),
        ] {
            assert_eq!(asked(&none), [], "{none}");
        }
    }

    #[test]
    fn each_is_an_action_and_what_is_unknown_is_another() {
        for (method, action) in [
            ("sampling/createMessage", Action::McpSampling),
            ("elicitation/create", Action::McpElicitation),
            ("roots/list", Action::McpRoots),
            ("ping", Action::McpSession),
            ("vendor/ask", Action::McpOther),
        ] {
            let params = json!({"maxTokens": 5});
            let operation = operation(method, Some(&params), None).expect("small");
            assert_eq!(operation.actions, [action].into());
            let Facts::Mcp(facts) = operation.facts else {
                panic!("not MCP")
            };
            assert_eq!(facts.input.numbers["maxtokens"], 5);
        }
    }
}
