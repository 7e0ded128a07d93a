//! A refusal in HTTP's words: a problem document (RFC 9457).

use bytes::{BufMut, BytesMut};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use crate::model::{Group, PolicyId, Refusal, RefusalKind};
use crate::session::{Answer, RefusalWords};

use super::dialect::{Dialect, Words};

/// When a process may ask again whether somebody has consented, in seconds.
const RETRY_AFTER: &str = "30";

/// How a refusal is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    status: StatusCode,
}

/// Answers with a refusal; `status` where the protocol has a better word than the table, `dialect` where the target
/// speaks one.
pub(super) fn answer(refusal: &Refusal, status: Option<StatusCode>, dialect: Option<&dyn Dialect>) -> Answer {
    if let Some(words) = dialect.and_then(|dialect| dialect.refusal(refusal)) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(words.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Answer::refuse(&words, refusal, (words.status, headers));
    }
    let status = status.unwrap_or_else(|| usual(&refusal.kind));
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(refusal.kind, RefusalKind::PendingApproval { .. }) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    Answer::refuse(&Problem { status }, refusal, (status, headers))
}

const fn usual(kind: &RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Denied
        | RefusalKind::PendingApproval { .. }
        | RefusalKind::ApprovalDenied { .. }
        | RefusalKind::Identity
        | RefusalKind::Cancelled => StatusCode::FORBIDDEN,
        RefusalKind::NotUnderstood => StatusCode::BAD_REQUEST,
        RefusalKind::NotRecorded => StatusCode::SERVICE_UNAVAILABLE,
        RefusalKind::Limit => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalKind::Unreachable => StatusCode::BAD_GATEWAY,
        RefusalKind::TimeLimit => StatusCode::GATEWAY_TIMEOUT,
    }
}

const fn title(kind: &RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Denied => "Interdict denied this",
        RefusalKind::PendingApproval { .. } => "Interdict holds this for approval",
        RefusalKind::ApprovalDenied { .. } => "Interdict denied this: it was not approved",
        RefusalKind::Identity => "Interdict does not know who this is",
        RefusalKind::NotUnderstood => "Interdict does not understand this",
        RefusalKind::NotRecorded => "Interdict could not record this",
        RefusalKind::Limit => "Interdict does not carry this much",
        RefusalKind::TimeLimit => "Interdict stopped this",
        RefusalKind::Unreachable => "Interdict could not reach the target",
        RefusalKind::Cancelled => "Interdict saw this cancelled",
    }
}

impl RefusalWords for Words {
    fn encode(&self, _refusal: &Refusal, out: &mut BytesMut) {
        out.put_slice(&self.body);
    }
}

impl RefusalWords for Problem {
    fn encode(&self, refusal: &Refusal, out: &mut BytesMut) {
        let Refusal {
            kind,
            reason,
            policies,
            next_step,
            operation,
        } = refusal;
        let mut problem = Map::new();
        let mut put = |name: &str, value: Value| problem.insert(name.to_owned(), value);
        put("type", json!(format!("urn:interdict:{}", kind.name())));
        put("title", json!(title(kind)));
        put("status", json!(self.status.as_u16()));
        put("detail", json!(reason));
        put("outcome", json!(kind.name()));
        if let Some(operation) = operation {
            put("instance", json!(format!("urn:uuid:{operation}")));
            put("operation", json!(operation.to_string()));
        }
        if !policies.is_empty() {
            let names: Vec<&str> = policies.iter().map(PolicyId::as_str).collect();
            put("policies", json!(names));
        }
        if !next_step.is_empty() {
            put("next_step", json!(next_step));
        }
        match kind {
            RefusalKind::PendingApproval { ticket, approvers } => {
                let groups: Vec<&str> = approvers.iter().map(Group::as_str).collect();
                put("ticket", json!(ticket.as_str()));
                put("approvers", json!(groups));
            }
            RefusalKind::ApprovalDenied { ticket } => {
                put("ticket", json!(ticket.as_str()));
            }
            RefusalKind::Denied
            | RefusalKind::Identity
            | RefusalKind::NotUnderstood
            | RefusalKind::NotRecorded
            | RefusalKind::Limit
            | RefusalKind::Unreachable
            | RefusalKind::Cancelled
            | RefusalKind::TimeLimit => {}
        }
        out.put_slice(Value::Object(problem).to_string().as_bytes());
        out.put_u8(b'\n');
    }
}
