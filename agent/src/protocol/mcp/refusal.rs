//! A refusal as an MCP client shows it to its model.
//!
//! A refused tool call is a *result* with `isError`, at status 200: models and hosts show its text, while many drop the
//! data of JSON-RPC errors, hang on 202, and take 403 for a broken transport. Everything else that is answered is a
//! JSON-RPC error at status 200; what is not answered (notifications) gets a problem document.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::model::{Group, PolicyId, Refusal, RefusalKind};
use crate::protocol::http::dialect::Words;

use crate::model::Action;

use super::call::Call;

/// Under this name the facts stand in `_meta` and `error.data`.
const META: &str = "interdict.dev/refusal";

/// The answer to a refused call; `None` where the protocol answers nothing.
pub(super) fn words(call: &Call, refusal: &Refusal) -> Option<Words> {
    let id = call.id.as_ref()?;
    let facts = facts(refusal);
    let answer = if call.action == Action::McpToolCall {
        let mut result = json!({
            "content": [{"type": "text", "text": told(refusal)}],
            "isError": true,
            "_meta": {META: facts},
        });
        if let (true, Some(result)) = (call.stateless, result.as_object_mut()) {
            result.insert("resultType".into(), json!("complete"));
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result})
    } else {
        let error = json!({"code": code(&refusal.kind), "message": told(refusal), "data": {META: facts}});
        json!({"jsonrpc": "2.0", "id": id, "error": error})
    };
    Some(written(StatusCode::OK, &answer))
}

/// The answer to what is no message, or contradicts itself.
pub(super) fn malformed(id: Option<&Value>, code: i64, refusal: &Refusal) -> Words {
    let error = json!({"code": code, "message": told(refusal), "data": {META: facts(refusal)}});
    written(
        StatusCode::BAD_REQUEST,
        &json!({"jsonrpc": "2.0", "id": id, "error": error}),
    )
}

fn written(status: StatusCode, answer: &Value) -> Words {
    Words {
        status,
        content_type: "application/json",
        body: answer.to_string().into_bytes(),
    }
}

/// The whole story: a model acts on nothing else.
fn told(refusal: &Refusal) -> String {
    let mut text = match &refusal.kind {
        RefusalKind::PendingApproval { ticket, approvers } => {
            let groups: Vec<&str> = approvers.iter().map(Group::as_str).collect();
            format!(
                "PENDING_APPROVAL: {refusal} Somebody of {} can approve it: interdict approvals approve {ticket}. \
                 After that, repeat the identical call: it goes through once.",
                groups.join(", ")
            )
        }
        RefusalKind::ApprovalDenied { ticket } => format!("DENIED: {refusal} ({ticket})"),
        RefusalKind::Denied => format!("DENIED: {refusal}"),
        RefusalKind::Identity
        | RefusalKind::NotUnderstood
        | RefusalKind::NotRecorded
        | RefusalKind::Limit
        | RefusalKind::Unreachable
        | RefusalKind::Cancelled
        | RefusalKind::TimeLimit => format!("REFUSED: {refusal}"),
    };
    if !refusal.next_step.is_empty() {
        text.push(' ');
        text.push_str(&refusal.next_step);
    }
    if matches!(
        refusal.kind,
        RefusalKind::Denied | RefusalKind::ApprovalDenied { .. }
    ) {
        text.push_str(
            " Interdict enforces this outside of the tool: trying again in another way does not help.",
        );
    }
    text
}

/// The same for machines.
fn facts(refusal: &Refusal) -> Value {
    let mut facts = Map::new();
    facts.insert("outcome".into(), json!(refusal.kind.name()));
    facts.insert("reason".into(), json!(refusal.reason));
    let policies: Vec<&str> = refusal.policies.iter().map(PolicyId::as_str).collect();
    facts.insert("policies".into(), json!(policies));
    if let Some(operation) = refusal.operation {
        facts.insert("operation".into(), json!(operation.to_string()));
    }
    if let RefusalKind::PendingApproval { ticket, approvers } = &refusal.kind {
        let groups: Vec<&str> = approvers.iter().map(Group::as_str).collect();
        facts.insert("ticket".into(), json!(ticket.as_str()));
        facts.insert("approvers".into(), json!(groups));
    }
    Value::Object(facts)
}

/// An application's code: outside of what JSON-RPC reserves (-32768 to -32000).
const fn code(kind: &RefusalKind) -> i64 {
    match kind {
        RefusalKind::Denied => 4030,
        RefusalKind::PendingApproval { .. } => 4230,
        RefusalKind::ApprovalDenied { .. } => 4031,
        RefusalKind::Identity => 4010,
        RefusalKind::NotUnderstood => 4000,
        RefusalKind::NotRecorded => 5030,
        RefusalKind::Limit => 4130,
        RefusalKind::Unreachable => 5020,
        RefusalKind::Cancelled => 4990,
        RefusalKind::TimeLimit => 4080,
    }
}
