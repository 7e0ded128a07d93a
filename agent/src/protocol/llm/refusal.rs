//! A refusal in the provider's own body: the official clients raise their own errors from it, with its text.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::model::{Refusal, RefusalKind};
use crate::protocol::http::dialect::Words;
use crate::protocol::told::{facts, told};

use super::endpoint::Api;

/// The official clients send again by themselves what may succeed then (408, 409, 429, 5xx), unless they are told not to.
const NO_RETRY: &[(&str, &str)] = &[("x-should-retry", "false")];

/// In Anthropic's form, or in OpenAI's, which also requests get that no API here has.
pub(super) fn words(anthropic_words: bool, refusal: &Refusal) -> Words {
    let message = told(refusal, "request");
    let body = match anthropic_words {
        false => json!({"error": {
            "message": message, "type": "policy_denied", "code": refusal.kind.name(), "param": Value::Null,
            "interdict": facts(refusal),
        }}),
        true => json!({"type": "error", "error": {
            "type": anthropic(&refusal.kind), "message": message, "interdict": facts(refusal),
        }}),
    };
    let (status, may_retry) = status(&refusal.kind);
    Words {
        status,
        content_type: "application/json",
        body: body.to_string().into_bytes(),
        fields: if may_retry { &[] } else { NO_RETRY },
    }
}

/// What a process gets in a WebSocket in the place of an answer: the error event of the API (its guide to WebSockets). `lane`: the
/// `stream_id` that the message named. What clients read is the member `error`; those from before there was a status read the rest.
pub(super) fn message(lane: Option<&str>, refusal: &Refusal) -> Vec<u8> {
    let (message, code) = (told(refusal, "message"), refusal.kind.name());
    let mut event = json!({
        "type": "error", "status": status(&refusal.kind).0.as_u16(),
        "error": {
            "message": message, "type": "policy_denied", "code": code, "param": Value::Null,
            "interdict": facts(refusal),
        },
        "code": code, "message": message, "param": Value::Null,
    });
    if let (Some(lane), Some(members)) = (lane, event.as_object_mut()) {
        members.insert("stream_id".into(), lane.into());
    }
    event.to_string().into_bytes()
}

/// The same for what was to steer a response: the API gives the input back then, for the process alone.
pub(super) fn not_steered(previous: &str, input: &Value, refusal: &Refusal) -> Vec<u8> {
    let event = json!({
        "type": "response.steer.failed", "sequence_number": 0,
        "steer": {"previous_response_id": previous, "input": input},
        "error": {
            "message": told(refusal, "message"), "type": "invalid_request_error", "code": refusal.kind.name(),
            "interdict": facts(refusal),
        },
    });
    event.to_string().into_bytes()
}

/// The error event with which a stream ends.
pub(super) fn event(api: Option<Api>, message: &str) -> Vec<u8> {
    let openai = json!({"message": message, "type": "interdict", "code": "withheld", "param": Value::Null});
    let (name, data) = match api {
        Some(Api::Messages) => {
            let error = json!({"type": "api_error", "message": message});
            ("event: error\n", json!({"type": "error", "error": error}))
        }
        Some(Api::Responses | Api::Stored) => {
            // What clients raise is the member `error`; what the API has is the rest.
            let data = json!({"type": "error", "code": "withheld", "message": message, "param": Value::Null, "error": openai});
            ("event: error\n", data)
        }
        Some(
            Api::Chat
            | Api::Completions
            | Api::ResponsesInput
            | Api::Embeddings
            | Api::Moderations
            | Api::MessagesCount
            | Api::Models,
        )
        | None => ("", json!({"error": openai})),
    };
    format!("{name}data: {data}\n\n").into_bytes()
}

/// The status, and whether sending again by itself may help.
const fn status(kind: &RefusalKind) -> (StatusCode, bool) {
    match kind {
        RefusalKind::Denied
        | RefusalKind::PendingApproval { .. }
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Identity
        | RefusalKind::Cancelled => (StatusCode::FORBIDDEN, false),
        RefusalKind::NotUnderstood => (StatusCode::BAD_REQUEST, false),
        RefusalKind::Limit => (StatusCode::PAYLOAD_TOO_LARGE, false),
        RefusalKind::TimeLimit => (StatusCode::GATEWAY_TIMEOUT, false),
        RefusalKind::NotRecorded => (StatusCode::SERVICE_UNAVAILABLE, true),
        RefusalKind::Unreachable => (StatusCode::BAD_GATEWAY, true),
    }
}

const fn anthropic(kind: &RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Denied
        | RefusalKind::PendingApproval { .. }
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Identity
        | RefusalKind::Cancelled => "permission_error",
        RefusalKind::NotUnderstood => "invalid_request_error",
        RefusalKind::Limit => "request_too_large",
        RefusalKind::TimeLimit => "timeout_error",
        RefusalKind::NotRecorded | RefusalKind::Unreachable => "api_error",
    }
}
