//! Spans as OTLP's JSON (opentelemetry-proto, `ExportTraceServiceRequest`): 64-bit numbers are texts, ids are hexadecimal.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audit::{Attribute, Span, SpanValue};
use crate::model::Timestamp;

use super::Taken;

/// `SpanKind`: INTERNAL and CLIENT.
const INTERNAL: u8 = 1;
const CLIENT: u8 = 3;
/// `StatusCode`: ERROR. What went well has none: that is for the caller to say.
const ERROR: u8 = 2;
/// `SpanFlags`: the lowest bits are those of W3C; whether the parent is remote is known; it is.
const SAMPLED: u32 = 0x1;
const IS_REMOTE_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// What all spans of this agent share.
pub(super) fn resource(host: &str, boot: &str) -> Value {
    let attributes: Vec<Value> = [
        ("service.name", "interdict"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", boot),
        ("host.name", host),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))
    .collect();
    json!({"attributes": attributes})
}

/// A request with these spans.
pub(super) fn batch(resource: &Value, spans: &[Span]) -> Bytes {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let scope = json!({"name": "interdict", "version": env!("CARGO_PKG_VERSION")});
    let request = json!({
        "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]
    });
    Bytes::from(request.to_string())
}

fn span(span: &Span) -> Value {
    let Span {
        trace,
        id,
        parent,
        session,
        name,
        is_call,
        start,
        end,
        attributes,
        held,
        error,
    } = span;
    let flags = match parent {
        Some(parent) => IS_REMOTE_KNOWN | IS_REMOTE | u32::from(parent.flags()),
        None => IS_REMOTE_KNOWN | SAMPLED,
    };
    let mut made = json!({
        "traceId": trace.to_string(),
        "spanId": id.to_string(),
        "flags": flags,
        "name": name,
        "kind": if *is_call { CLIENT } else { INTERNAL },
        "startTimeUnixNano": time(*start),
        "endTimeUnixNano": time(*end),
    });
    if let Some(parent) = parent {
        made["parentSpanId"] = json!(parent.span.to_string());
    }
    if let Some((trace, id)) = session {
        made["links"] = json!([{
            "traceId": trace.to_string(),
            "spanId": id.to_string(),
            "attributes": [attribute("interdict.link", &SpanValue::Text("session".into()))],
        }]);
    }
    if let Some(held) = held {
        made["events"] = json!([{"timeUnixNano": time(*held), "name": "held for approval"}]);
    }
    let mut all: Vec<Value> = attributes
        .iter()
        .map(|(key, value): &Attribute| attribute(key, value))
        .collect();
    if let Some(error) = error {
        all.push(attribute("error.type", &SpanValue::Text(error.clone())));
        made["status"] = json!({"code": ERROR});
    }
    made["attributes"] = json!(all);
    made
}

fn attribute(key: &str, value: &SpanValue) -> Value {
    let text = |text: &String| json!({"stringValue": text});
    let value = match value {
        SpanValue::Text(one) => text(one),
        SpanValue::Number(number) => json!({"intValue": number.to_string()}),
        SpanValue::Texts(all) => json!({"arrayValue": {"values": all.iter().map(text).collect::<Vec<_>>()}}),
    };
    json!({"key": key, "value": value})
}

/// Nanoseconds since the Unix epoch; a clock before it is at it.
fn time(at: Timestamp) -> String {
    at.as_nanos().max(0).to_string()
}

/// What an `ExportTraceServiceResponse` says; what is none says that everything was taken.
pub(super) fn taken(body: &[u8]) -> Taken {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Answer {
        partial_success: Partial,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Partial {
        rejected_spans: Value,
        error_message: String,
    }
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    let Partial {
        rejected_spans,
        error_message,
    } = answer.partial_success;
    // A text as JSON has it from protobuf; some write a number.
    let text = rejected_spans.as_str().and_then(|text| text.parse().ok());
    let rejected = text.or_else(|| rejected_spans.as_u64()).unwrap_or_default();
    Taken {
        rejected,
        message: error_message.chars().take(200).collect(),
    }
}
