//! A request as records and approvers see it: sensitive data masked, secrets left out.

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use serde_json::Value;

use crate::mask::MaskPlan;
use crate::model::ParameterShown;

use super::escapes::{Format, may_be_escaped, unescaped};
use super::path::{form_text, pairs};
use super::screen::is_secret_field;

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "[redacted]";
/// How much of a body is shown, in bytes.
const EXCERPT: usize = 4096;
/// Longest body whose fields are told apart, in bytes.
const MAX_FIELDS: usize = 256 * 1024;

/// Whether a field, parameter or member holds a secret by its name.
pub(super) fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 10] = [
        "password",
        "passwd",
        "secret",
        "token",
        "apikey",
        "api-key",
        "api_key",
        "credential",
        "signature",
        "private",
    ];
    const WHOLE: [&str; 7] = ["key", "auth", "sig", "code", "pwd", "jwt", "session"];
    let lower = name.to_ascii_lowercase();
    PARTS.iter().any(|part| lower.contains(part)) || WHOLE.contains(&lower.as_str())
}

/// Path and query.
pub(super) fn target(path: &str, query: Option<&str>, plan: &MaskPlan) -> String {
    let mut raw = path.to_owned();
    if let Some(query) = query {
        raw.push('?');
        let shown: Vec<String> = pairs(query).map(|(name, value)| parameter(name, value)).collect();
        raw.push_str(&shown.join("&"));
    }
    masked(raw.as_bytes(), Format::Form, plan)
}

fn parameter(name: &str, value: Option<&str>) -> String {
    match value {
        Some(_) if is_secret_name(&form_text(name)) => format!("{name}={REDACTED}"),
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    }
}

/// The header's fields, each as `name: value`.
pub(super) fn fields(headers: &HeaderMap, plan: &MaskPlan) -> Vec<ParameterShown> {
    let one = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        let shown = if is_secret_field(name) {
            REDACTED.to_owned()
        } else {
            masked(value.as_bytes(), Format::Text, plan)
        };
        ParameterShown::Text(format!("{name}: {shown}"))
    };
    headers.iter().map(one).collect()
}

/// The beginning of a body, where it is text; its length otherwise.
pub(super) fn body(content_type: &str, body: &Bytes, plan: &MaskPlan) -> String {
    if body.is_empty() {
        return String::new();
    }
    let shown = match std::str::from_utf8(body) {
        Ok(text) if body.len() <= MAX_FIELDS && content_type == "application/x-www-form-urlencoded" => {
            let fields: Vec<String> = pairs(text).map(|(name, value)| parameter(name, value)).collect();
            masked(fields.join("&").as_bytes(), Format::Form, plan)
        }
        Ok(text) if body.len() <= MAX_FIELDS => match serde_json::from_str::<Value>(text) {
            Ok(mut value) => {
                redact(&mut value);
                masked(value.to_string().as_bytes(), Format::Json, plan)
            }
            Err(_no_json) => masked(body, Format::Text, plan),
        },
        Ok(_) => format!("({} bytes of text)", body.len()),
        Err(_binary) => format!("({} bytes)", body.len()),
    };
    cut(shown)
}

/// Members that hold secrets by their name; no deeper than the parser went.
fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if is_secret_name(name) && (member.is_string() || member.is_number()) {
                    *member = Value::from(REDACTED);
                } else {
                    redact(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn masked(text: &[u8], format: Format, plan: &MaskPlan) -> String {
    if !may_be_escaped(text, format) {
        return plan.shown(&String::from_utf8_lossy(text));
    }
    plan.shown(&String::from_utf8_lossy(&unescaped(text, format, plan)))
}

fn cut(mut text: String) -> String {
    if text.len() > EXCERPT {
        let at = (0..=EXCERPT)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        let length = text.len();
        text.truncate(at);
        text.push_str(&format!("… ({length} bytes)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::MaskEngine;

    fn plan() -> MaskPlan {
        Arc::new(MaskEngine::default()).plan(&[].into())
    }

    #[test]
    fn secrets_are_left_out_and_the_rest_is_masked() {
        let seen = target(
            "/users/ada%40example.com",
            Some("api_key=s3cret&x=1&Access_Token=t&q=bob%40example.org"),
            &plan(),
        );
        assert_eq!(
            seen,
            "/users/a***@e***.com?api_key=[redacted]&x=1&Access_Token=[redacted]&q=b***@e***.org"
        );
        let json =
            Bytes::from_static(br#"{"user":{"password":"hunter2","mail":"ada\u0040example.com"},"total":7}"#);
        assert_eq!(
            body("application/json", &json, &plan()),
            r#"{"user":{"password":"[redacted]","mail":"a***@e***.com"},"total":7}"#
        );
        let form = Bytes::from_static(b"name=x&password=hunter2");
        assert_eq!(
            body("application/x-www-form-urlencoded", &form, &plan()),
            "name=x&password=[redacted]"
        );
        assert_eq!(body("", &Bytes::from_static(b"\xff\x00"), &plan()), "(2 bytes)");
        let mut headers = HeaderMap::new();
        headers.insert("authorization", header::HeaderValue::from_static("Bearer x"));
        headers.insert("x-api-key", header::HeaderValue::from_static("x"));
        headers.insert("x-who", header::HeaderValue::from_static("ada@example.com"));
        let shown: Vec<String> = fields(&headers, &plan())
            .into_iter()
            .map(|f| match f {
                ParameterShown::Text(text) => text,
                ParameterShown::Null | ParameterShown::Binary(_) => String::new(),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "authorization: [redacted]",
                "x-api-key: [redacted]",
                "x-who: a***@e***.com"
            ]
        );
    }
}
