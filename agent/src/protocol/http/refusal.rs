//! A refusal in HTTP's words: a problem document (RFC 9457).

use bytes::{BufMut, BytesMut};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use crate::model::{Group, PolicyId, Refusal, RefusalKind};
use crate::session::{AgentSpeech, Answer, RefusalWords};

use super::dialect::{Dialect, Words};

/// When a process may ask again whether somebody has consented, in seconds.
const RETRY_AFTER: &str = "30";

/// How a refusal is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    status: StatusCode,
}

/// In whose words a refusal is told.
#[derive(Debug)]
pub(super) enum Tongue {
    /// As a problem document.
    Plain,
    /// With a status of gRPC.
    Grpc,
    /// As the target's dialect has it.
    Dialect(Box<dyn Dialect>),
}

/// Answers with a refusal; `status` where the protocol has a better word than the table.
pub(super) fn answer(refusal: &Refusal, status: Option<StatusCode>, tongue: &Tongue) -> Answer {
    let dialect = match tongue {
        Tongue::Plain => None,
        Tongue::Grpc => return Answer::refuse(&InTheHead, refusal, grpc(refusal)),
        Tongue::Dialect(dialect) => Some(dialect),
    };
    if let Some(words) = dialect.and_then(|dialect| dialect.refusal(refusal)) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(words.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in words.fields {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        end_of_connection(refusal, &mut headers);
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
    end_of_connection(refusal, &mut headers);
    Answer::refuse(&Problem { status }, refusal, (status, headers))
}

/// Whoever stands behind the next connection may be somebody else: clients must not keep this one (HTTP/1.1; the library
/// leaves the field out of HTTP/2, RFC 9113, 8.2.2).
fn end_of_connection(refusal: &Refusal, headers: &mut HeaderMap) {
    if matches!(refusal.kind, RefusalKind::Identity) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What the agent answers for itself.
pub(super) fn own(words: Words) -> Answer {
    let mut headers = HeaderMap::new();
    if !words.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(words.content_type));
    }
    Answer::say(AgentSpeech::status(words.body), (words.status, headers))
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

/// A refusal that is all in the head.
struct InTheHead;

impl RefusalWords for InTheHead {
    fn encode(&self, _refusal: &Refusal, _out: &mut BytesMut) {}
}

/// A refusal of a call of gRPC: a head with the trailers in it (gRPC over HTTP/2, "Trailers-Only").
fn grpc(refusal: &Refusal) -> (StatusCode, HeaderMap) {
    let code = match &refusal.kind {
        RefusalKind::Denied | RefusalKind::PendingApproval { .. } | RefusalKind::ApprovalDenied { .. } => 7,
        RefusalKind::Identity => 16,
        RefusalKind::NotUnderstood => 3,
        RefusalKind::NotRecorded | RefusalKind::Unreachable => 14,
        RefusalKind::Limit => 8,
        RefusalKind::TimeLimit => 4,
        RefusalKind::Cancelled => 1,
    };
    let text = format!("{}: {refusal} {}", title(&refusal.kind), refusal.next_step);
    let mut message = String::with_capacity(text.len());
    for byte in text.trim_end().bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            message.push(char::from(byte));
        } else {
            message.push_str(&format!("%{byte:02X}"));
        }
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert("grpc-message", message);
    }
    (StatusCode::OK, headers)
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
