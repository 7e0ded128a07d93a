//! A refusal in words for models and people, and as facts for machines: what MCP and the APIs of models say alike.

use serde_json::{Map, Value, json};

use crate::model::{Group, PolicyId, Refusal, RefusalKind};

/// The whole story: a model acts on nothing else.
pub(super) fn told(refusal: &Refusal, what: &str) -> String {
    let mut text = match &refusal.kind {
        RefusalKind::PendingApproval { ticket, approvers } => {
            let groups: Vec<&str> = approvers.iter().map(Group::as_str).collect();
            format!(
                "PENDING_APPROVAL: {refusal} Somebody of {} can approve it: interdict approvals approve {ticket}. \
                 After that, repeat the identical {what}: it goes through once.",
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
pub(super) fn facts(refusal: &Refusal) -> Value {
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
