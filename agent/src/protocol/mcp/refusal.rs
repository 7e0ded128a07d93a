//! A refusal as an MCP client shows it to its model.
//!
//! A refused tool call is a *result* with `isError`, at status 200: models and hosts show its text, while many drop the
//! data of JSON-RPC errors, hang on 202, and take 403 for a broken transport. Everything else that is answered is a
//! JSON-RPC error at status 200; what is not answered (notifications) gets a problem document.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::model::{Refusal, RefusalKind};
use crate::protocol::http::dialect::Words;
use crate::protocol::told::{facts, told};

use crate::model::Action;

use super::call::Call;
use super::ladder::QUESTION;
use super::tasks::EXTENSION;

/// Under this name the facts stand in `_meta` and `error.data`.
const META: &str = "interdict.dev/refusal";

/// The answer to a refused call; `None` where the protocol answers nothing.
pub(super) fn words(call: &Call, refusal: &Refusal) -> Option<Words> {
    let id = call.id.as_ref()?;
    let answer = if call.action == Action::McpToolCall {
        let mut result = json!({
            "content": [{"type": "text", "text": told(refusal, "call")}],
            "isError": true,
            "_meta": {META: facts(refusal)},
        });
        if let (true, Some(result)) = (call.stateless, result.as_object_mut()) {
            result.insert("resultType".into(), json!("complete"));
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result})
    } else {
        json!({"jsonrpc": "2.0", "id": id, "error": error(refusal)})
    };
    Some(written(StatusCode::OK, &answer))
}

/// A refusal as an error of JSON-RPC.
pub(super) fn error(refusal: &Refusal) -> Value {
    json!({"code": code(&refusal.kind), "message": told(refusal, "call"), "data": {META: facts(refusal)}})
}

/// The answer to a call that waits for consent, where the client has tasks.
pub(super) fn task(id: &Value, refusal: &Refusal, mut task: Value) -> Words {
    if let Some(task) = task.as_object_mut() {
        task.insert("_meta".into(), json!({META: facts(refusal)}));
    }
    written(
        StatusCode::OK,
        &json!({"jsonrpc": "2.0", "id": id, "result": task}),
    )
}

/// The client asks for tasks and does not say that it has any (SEP-2663, "Protocol Errors").
pub(super) fn no_tasks(id: Option<&Value>) -> Words {
    let wanted = json!({"extensions": {EXTENSION: {}}});
    let error = json!({
        "code": -32021, "message": "Missing required client capability", "data": {"requiredCapabilities": wanted},
    });
    written(
        StatusCode::BAD_REQUEST,
        &json!({"jsonrpc": "2.0", "id": id, "error": error}),
    )
}

/// What is JSON already.
pub(super) const fn in_json(body: Vec<u8>) -> Words {
    Words {
        status: StatusCode::OK,
        content_type: "application/json",
        body,
        fields: &[],
    }
}

/// The answer to a call that waits for consent, where the client can be asked and tries again with the answer.
pub(super) fn asks(id: &Value, refusal: &Refusal, params: &Value, state: &str) -> Words {
    let result = json!({
        "resultType": "input_required",
        "inputRequests": {QUESTION: {"method": "elicitation/create", "params": params}},
        "requestState": state,
        "_meta": {META: facts(refusal)},
    });
    written(
        StatusCode::OK,
        &json!({"jsonrpc": "2.0", "id": id, "result": result}),
    )
}

/// The agent takes an answer that was for itself.
pub(super) const fn accepted() -> Words {
    Words {
        status: StatusCode::ACCEPTED,
        content_type: "application/json",
        body: Vec::new(),
        fields: &[],
    }
}

/// The answer to what is no message, or contradicts itself.
pub(super) fn malformed(id: Option<&Value>, code: i64, refusal: &Refusal) -> Words {
    let error = json!({"code": code, "message": told(refusal, "call"), "data": {META: facts(refusal)}});
    written(
        StatusCode::BAD_REQUEST,
        &json!({"jsonrpc": "2.0", "id": id, "error": error}),
    )
}

/// In the place of a result that asks the client for something that it may not be asked.
pub(super) fn not_asked(id: Option<&Value>) -> Value {
    let message = "DENIED: The server asks this client for something that no policy permits (sampling, elicitation or roots).";
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code(&RefusalKind::Denied), "message": message}})
}

/// In the place of an answer of the server that the agent cannot read.
pub(super) fn withheld(id: Option<&Value>) -> Value {
    let message = "REFUSED: The server's answer is withheld: it is no JSON that can be read in one way.";
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code(&RefusalKind::NotUnderstood), "message": message}})
}

fn written(status: StatusCode, answer: &Value) -> Words {
    Words {
        status,
        content_type: "application/json",
        body: answer.to_string().into_bytes(),
        fields: &[],
    }
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
