//! One request as an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use prost_reflect::MessageDescriptor;
use serde_json::Value;

use crate::mask::MaskPlan;
use crate::model::{
    Action, Digest, Document, Facts, Fingerprint, HttpBody, HttpFacts, Operation, PromptDuty, Refusal,
    TraceContext, Unkept,
};
use crate::session::{Judged, Message, Outgoing, Recording, none_to_mask};

use super::descriptors::Described;
use super::dialect::{Changed, Obliged};
use super::inject::Injected;
use super::path::{form_text, pairs};
use super::screen::{Head, Place, action, host, scheme_of};
use super::{shown, trace, uploads};

/// A request with everything that goes on, and what it means.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    authority: String,
    target: PathAndQuery,
    websocket: bool,
    headers: HeaderMap,
    body: Outgoing,
    credential: Option<Injected>,
    trace: Option<TraceContext>,
    operation: Arc<Operation>,
    obliged: Option<Box<dyn Obliged>>,
    /// What records have in the place of the body, and what the answer's messages are, of a call of gRPC that is described.
    described: Option<(Bytes, MessageDescriptor)>,
}

impl Call {
    pub(super) fn new(
        head: Head,
        body: Outgoing,
        credential: Option<Injected>,
        described: Option<Described>,
        (place, plan): (&Place, &MaskPlan),
    ) -> Self {
        let read = described.map(|described| Read {
            text: described.text(plan),
            gives: described.gives(),
            input: described.input,
        });
        let operation = operation(&head, (&body, read.as_ref()), credential.as_ref(), place, plan);
        let operation = Arc::new(operation);
        let trace = trace::named(&head.headers);
        let Head {
            method,
            actions: _,
            authority,
            target,
            path: _,
            query: _,
            websocket,
            headers,
        } = head;
        Self {
            method,
            authority: authority.as_str().to_owned(),
            target,
            websocket,
            headers,
            body,
            credential,
            trace,
            operation,
            obliged: None,
            described: read.map(|read| (read.text, read.gives)),
        }
    }

    /// What the messages of its answer are, where that is known.
    pub(super) fn gives(&self) -> Option<MessageDescriptor> {
        self.described.as_ref().map(|(_text, gives)| gives.clone())
    }

    /// The same request, meaning what a dialect read in it.
    pub(super) fn meaning(mut self, operation: Operation) -> Self {
        self.operation = Arc::new(self.bound(operation));
        self
    }

    /// The same request, with what has to hear that it is permitted.
    pub(super) fn obliging(mut self, obliged: Option<Box<dyn Obliged>>) -> Self {
        self.obliged = obliged;
        self
    }

    /// What a dialect read, bound to where the request goes.
    pub(super) fn bound(&self, operation: Operation) -> Operation {
        let parts: [&[u8]; 5] = [
            b"http dialect",
            self.method.as_str().as_bytes(),
            self.authority.as_bytes(),
            self.target.as_str().as_bytes(),
            operation.fingerprint.0.as_bytes(),
        ];
        Operation {
            fingerprint: Fingerprint(Digest::of_fields(&parts)),
            ..operation
        }
    }
}

impl Judged for Call {
    fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    fn permitted(&mut self, prompt: &PromptDuty) -> Result<(), Refusal> {
        let Some(obliged) = &mut self.obliged else {
            return none_to_mask(prompt);
        };
        if let Some(Changed { body, text }) = obliged.permitted(prompt)? {
            self.body = Outgoing::Whole(body);
            if let Some(text) = text {
                let operation = Operation {
                    text,
                    ..(*self.operation).clone()
                };
                self.operation = Arc::new(operation);
            }
        }
        Ok(())
    }

    fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    fn continue_trace(&mut self, trace: TraceContext) {
        trace::continued(&mut self.headers, trace);
    }

    fn record(&self, plan: &MaskPlan, recording: &mut Recording) {
        if let Some((text, _gives)) = &self.described {
            return super::kept::call(text, plan, recording);
        }
        match &self.body {
            Outgoing::Whole(body) => super::kept::request(&self.headers, body, plan, recording),
            Outgoing::Upload(upload) => recording.refers(Unkept::Upload, upload.declared().unwrap_or(0)),
        }
    }
}

impl Message for Call {
    fn into_message(self) -> hyper::Request<Outgoing> {
        let Self {
            method,
            authority,
            mut target,
            websocket,
            mut headers,
            body,
            credential,
            trace: _,
            operation: _,
            obliged: _,
            described: _,
        } = self;
        if let Some(credential) = credential {
            let read = match &body {
                Outgoing::Whole(body) => Some(&**body),
                Outgoing::Upload(_) => None,
            };
            credential.into_head((&method, &authority), &mut target, &mut headers, read);
        }
        if let Ok(host) = HeaderValue::try_from(authority) {
            headers.insert(header::HOST, host);
        }
        if websocket {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        // Methods that usually have a body say so when they have none (RFC 9110, 8.6).
        let empty = matches!(&body, Outgoing::Whole(body) if body.is_empty());
        if empty && matches!(method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut message = hyper::Request::new(body);
        *message.method_mut() = method;
        *message.uri_mut() = target.into();
        *message.headers_mut() = headers;
        message
    }
}

/// A call of gRPC that was read by the target's descriptors.
struct Read {
    text: Bytes,
    input: Option<Document>,
    gives: MessageDescriptor,
}

/// What a request means.
fn operation(
    head: &Head,
    (outgoing, read): (&Outgoing, Option<&Read>),
    credential: Option<&Injected>,
    place: &Place,
    plan: &MaskPlan,
) -> Operation {
    let content_type = essence(&head.headers);
    let mut actions = head.actions.clone();
    let nothing = Bytes::new();
    let (body, (seen, body_bytes)) = match outgoing {
        Outgoing::Whole(body) => {
            let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
            (body, (HttpBody::Read, length))
        }
        Outgoing::Upload(upload) => {
            actions.extend(uploads::overriding(head.method.as_str(), &content_type));
            (&nothing, uploads::facts(upload))
        }
    };
    let input = match read {
        Some(read) => read.input.clone(),
        None => input(&head.headers, &content_type, body),
    };
    actions.extend(input.iter().flat_map(overriding));
    if content_type.starts_with("multipart/") {
        actions.extend(overriding_parts(body));
    }
    let facts = HttpFacts {
        method: head.method.as_str().to_owned(),
        host: host(&head.authority),
        port: place.port,
        tls: place.tls,
        path: head.path.clone(),
        query: head.query.clone(),
        headers: head.headers.keys().map(|name| name.as_str().to_owned()).collect(),
        content_type: content_type.clone(),
        body_bytes,
        body: seen,
        input,
    };
    let mut text = format!(
        "{} {}://{}{}",
        head.method,
        scheme_of(place.tls),
        head.authority,
        shown::target(head.target.path(), head.target.query(), plan)
    );
    let excerpt = match (outgoing, read) {
        (Outgoing::Whole(_), Some(read)) => shown::body("application/json", &read.text, plan),
        (Outgoing::Whole(body), None) => shown::body(&content_type, body, plan),
        (Outgoing::Upload(upload), _) => uploads::shown(upload),
    };
    if !excerpt.is_empty() {
        text.push_str("\n\n");
        text.push_str(&excerpt);
    }
    Operation {
        actions,
        facts: Facts::Http(facts),
        text,
        fingerprint: fingerprint(head, body, credential, place),
        parameters: shown::fields(&head.headers, plan),
    }
}

/// A body's values. JSON counts whatever the type says: servers look at the body too.
fn input(headers: &HeaderMap, content_type: &str, body: &Bytes) -> Option<Document> {
    if body.is_empty() || headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    let value = match crate::json::parse(body) {
        Ok(value) => value,
        Err(_no_json) if content_type == "application/x-www-form-urlencoded" => form(body)?,
        Err(_no_json) => return None,
    };
    crate::json::facts(&value).ok()
}

/// What a method in the body would do: some frameworks take it for the request's own.
fn overriding(input: &Document) -> impl Iterator<Item = Action> {
    let several = input.lists.get("_method/*").into_iter().flatten();
    let named = input.texts.get("_method").into_iter().chain(several);
    named.map(|name| action(&name.trim().to_ascii_uppercase()).unwrap_or(Action::HttpOther))
}

/// What a part called `_method` of a form in parts (RFC 7578) would do. Readers differ in what they take for a part's name,
/// so any line that has both words counts; a value that is not found may be anything.
fn overriding_parts(body: &[u8]) -> BTreeSet<Action> {
    const NAME: &[u8] = b"_method";
    /// From a name to its value there are a few short lines.
    const NEAR: usize = 512;
    let mut actions = BTreeSet::new();
    for at in memchr::memmem::find_iter(body, NAME) {
        let before = body.get(at.saturating_sub(NEAR)..at).unwrap_or_default();
        let line = memchr::memrchr(b'\n', before).map_or(before, |end| before.get(end..).unwrap_or_default());
        if !line.to_ascii_lowercase().windows(4).any(|word| word == b"name") {
            continue;
        }
        let behind = body.get(at..).unwrap_or_default();
        let behind = behind.get(..NEAR).unwrap_or(behind);
        let value = [b"\r\n\r\n".as_slice(), b"\n\n"]
            .into_iter()
            .filter_map(|gap| Some((memchr::memmem::find(behind, gap)?, gap.len())))
            .min()
            .and_then(|(start, gap)| behind.get(start + gap..))
            .and_then(|rest| rest.split(|b| matches!(b, b'\r' | b'\n')).next())
            .and_then(|value| std::str::from_utf8(value).ok());
        match value.map(|value| action(&value.trim().to_ascii_uppercase())) {
            Some(Ok(action)) => actions.extend([action]),
            Some(Err(_)) | None => actions.extend([Action::HttpOther, Action::HttpDelete]),
        }
    }
    actions
}

/// A form as an object; a name that occurs more than once has a list.
fn form(body: &[u8]) -> Option<Value> {
    let mut members: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in pairs(std::str::from_utf8(body).ok()?) {
        let value = Value::from(form_text(value.unwrap_or_default()));
        members.entry(form_text(name)).or_default().push(value);
    }
    let one = |(name, mut values): (String, Vec<Value>)| match values.len() {
        1 => values.pop().map(|value| (name, value)),
        _ => Some((name, Value::Array(values))),
    };
    Some(Value::Object(members.into_iter().filter_map(one).collect()))
}

/// What an approval is bound to: everything that the target gets, but for what says nothing about the operation and
/// differs when it is sent again.
fn fingerprint(head: &Head, body: &Bytes, credential: Option<&Injected>, place: &Place) -> Fingerprint {
    let authority = host(&head.authority);
    let port = place.port.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![
        b"http",
        scheme_of(place.tls).as_bytes(),
        authority.as_bytes(),
        &port,
        head.method.as_str().as_bytes(),
        head.target.as_str().as_bytes(),
    ];
    let mut fields: Vec<(&HeaderName, &HeaderValue)> = head
        .headers
        .iter()
        .filter(|(name, _)| !says_nothing(name.as_str()) && !credential.is_some_and(|c| c.replaces(name)))
        .collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in fields {
        parts.extend([name.as_str().as_bytes(), value.as_bytes()]);
    }
    parts.extend([b"body".as_slice(), body]);
    Fingerprint(Digest::of_fields(&parts))
}

/// Fields about the client, the answer's form or this one attempt.
fn says_nothing(name: &str) -> bool {
    matches!(
        name,
        "user-agent"
            | "accept"
            | "accept-encoding"
            | "accept-language"
            | "accept-charset"
            | "cache-control"
            | "pragma"
            | "priority"
            | "date"
            | "traceparent"
            | "tracestate"
            | "baggage"
            | "sentry-trace"
            | "x-request-id"
            | "x-correlation-id"
            | "x-amzn-trace-id"
            | "idempotency-key"
            | "if-none-match"
            | "if-modified-since"
    ) || name.starts_with("x-stainless-")
        || name.starts_with("sec-ch-")
        || name.starts_with("sec-fetch-")
}

/// The media type of a body, lower case, without parameters; empty where none is named.
pub(super) fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_values_where_every_reader_sees_the_same() {
        let seen = |kind: &str, body: &'static str| {
            input(&HeaderMap::new(), kind, &Bytes::from_static(body.as_bytes()))
        };
        let json = seen("text/plain", r#"{"Amount": 7, "to": {"iban": "x"}}"#).expect("values");
        assert_eq!(json.numbers["amount"], 7);
        assert_eq!(json.texts["to/iban"], "x");
        let form = seen("application/x-www-form-urlencoded", "amount=7&to=a%20b&to=c").expect("values");
        assert_eq!(form.numbers["amount"], 7);
        assert!(form.lists["to/*"].contains("a b"));
        for (kind, body) in [
            ("application/json", r#"{"a": 1, "A": 2}"#),
            ("application/json", "{"),
            ("text/plain", "amount=7"),
            ("application/json", ""),
        ] {
            assert_eq!(seen(kind, body), None, "{body}");
        }
        let mut coded = HeaderMap::new();
        coded.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(
            input(&coded, "application/json", &Bytes::from_static(b"{}")),
            None
        );
    }

    #[test]
    fn a_method_in_a_part_of_a_form_counts() {
        let part = |head: &str, value: &str| format!("--b\r\n{head}\r\n\r\n{value}\r\n--b--\r\n");
        let named = "Content-Disposition: form-data; name=\"_method\"";
        let table: [(String, &[Action]); 6] = [
            (part(named, "delete"), &[Action::HttpDelete]),
            (
                part("content-disposition:form-data;NAME=_method", "PUT"),
                &[Action::HttpWrite],
            ),
            (
                part(&format!("{named}\r\nContent-Type: text/plain"), " DELETE "),
                &[Action::HttpDelete],
            ),
            (part(named, ""), &[Action::HttpOther]),
            (named.to_owned(), &[Action::HttpDelete, Action::HttpOther]),
            (
                part(
                    "Content-Disposition: form-data; name=\"file\"",
                    "self._method = 1",
                ),
                &[],
            ),
        ];
        for (body, expected) in table {
            let expected: BTreeSet<Action> = expected.iter().copied().collect();
            assert_eq!(overriding_parts(body.as_bytes()), expected, "{body}");
        }
    }
}
