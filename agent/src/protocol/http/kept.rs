//! Bodies as records keep them, at the level `full`: of a request what goes to the target, of an answer what the process is
//! shown. Every class of data is masked, whatever a policy reveals; members that hold secrets by their name are left out of
//! requests, as they are out of the text of an operation.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use prost_reflect::MessageDescriptor;

use crate::mask::{MaskPlan, Maskable, Masked};
use crate::model::{MaskCounts, ParameterShown, Unkept};
use crate::session::{Recording, Unkeepable};

use super::answer::{Masker, Next, STEP, Shape, shape};
use super::call::essence;
use super::coded;
use super::descriptors::Lines;
use super::dialect::{Cut, Dialect};
use super::escapes::Format;
use super::path::{form_text, pairs};
use super::shown::{REDACTED, fields, is_secret_name};

/// Records the body of a request.
pub(super) fn request(headers: &HeaderMap, body: &Bytes, plan: &MaskPlan, recording: &mut Recording) {
    if body.is_empty() {
        return;
    }
    let coded = headers.contains_key(header::CONTENT_ENCODING);
    let Some(shape) = shape(headers).ok().filter(|_| !coded) else {
        return recording.unread(body);
    };
    body_of(shape, &essence(headers), body, plan, recording);
}

/// Records the messages of a call that was read by their schema, as JSON.
pub(super) fn call(text: &Bytes, plan: &MaskPlan, recording: &mut Recording) {
    body_of(
        Shape::Text(Format::Json),
        "application/json",
        text,
        plan,
        recording,
    );
}

/// Records a message of a process in a WebSocket.
pub(super) fn message(text: bool, payload: &Bytes, plan: &MaskPlan, recording: &mut Recording) {
    let shape = if text {
        Shape::Text(Format::Text)
    } else {
        Shape::Unknown
    };
    body_of(shape, "", payload, plan, recording);
}

fn body_of(shape: Shape, content_type: &str, body: &Bytes, plan: &MaskPlan, recording: &mut Recording) {
    // Masked, it may be shorter than it is: a little more than fits.
    let most = recording.limit().saturating_add(STEP);
    let some = body.get(..most).unwrap_or(body);
    let whole = some.len() == body.len();
    let named = without_secrets(content_type, some);
    let mut masker = Masker::new(shape, None, plan);
    let (mut counts, mut given) = (MaskCounts::default(), 0);
    let steps = named.chunks(STEP).map(Some).chain(whole.then_some(None));
    for step in steps {
        let masked = plan.apply(Next(&mut masker, None, step), &mut counts);
        let Ok(masked) = masked.transpose() else {
            return recording.unread(named.get(given..).unwrap_or_default());
        };
        if masker.is_blind() {
            // All of it, as it was.
            return recording.unread(body.get(given..).unwrap_or_default());
        }
        given += step.map_or(0, <[u8]>::len);
        recording.push(&masked);
    }
    if !whole {
        recording.longer(u64::try_from(body.len()).unwrap_or(u64::MAX));
    }
}

/// A body without the values of fields and members that hold secrets by their name.
fn without_secrets(content_type: &str, body: &[u8]) -> Vec<u8> {
    let first = body.trim_ascii_start().first();
    if content_type == "application/x-www-form-urlencoded"
        && let Ok(text) = std::str::from_utf8(body)
    {
        let one = |(name, value): (&str, Option<&str>)| match value {
            Some(_) if is_secret_name(&form_text(name)) => format!("{name}={REDACTED}"),
            Some(value) => format!("{name}={value}"),
            None => name.to_owned(),
        };
        return pairs(text).map(one).collect::<Vec<_>>().join("&").into_bytes();
    }
    if matches!(first, Some(b'{' | b'[')) {
        return members(body);
    }
    body.to_vec()
}

/// JSON without them. It may be cut off, so nothing of its structure is asked: a string with a colon behind it is a name.
fn members(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'"', rest) {
        let (before, from) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        let (name, after) = string(from);
        out.extend_from_slice(name);
        rest = after;
        let Some(value) = after.trim_ascii_start().strip_prefix(b":") else {
            continue;
        };
        let name: String = serde_json::from_slice(name).unwrap_or_default();
        let value = value.trim_ascii_start();
        let (is_number, behind) = match value.first() {
            Some(b'"') => (false, string(value).1),
            Some(b'-' | b'0'..=b'9') => {
                let digits = value
                    .iter()
                    .take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                (true, value.get(digits.count()..).unwrap_or_default())
            }
            _ => continue,
        };
        // How many tokens a model may take is none.
        if is_secret_name(&name) && !(is_number && name.ends_with("tokens")) {
            out.extend_from_slice(after.get(..after.len() - value.len()).unwrap_or_default());
            out.extend_from_slice(format!("\"{REDACTED}\"").as_bytes());
            rest = behind;
        }
    }
    out.extend_from_slice(rest);
    out
}

/// The string at the beginning with its quotes, and what is behind it; one that is cut off goes to the end.
fn string(text: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                return text.split_at_checked(at + 1).unwrap_or((text, &[]));
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (text, &[])
}

/// Takes values out of a piece of an answer that were put into it for the process alone.
pub type Conceals = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// How what is shown becomes what is recorded.
enum Way {
    /// As it is.
    Shown,
    /// Without what was put in for the process alone.
    Concealed(Conceals),
    /// Masked once more, revealing nothing. `true`: base64 in strings too.
    Again(Box<Masker>, bool),
    /// Messages of gRPC that are described: as JSON.
    Described(MessageDescriptor),
    /// Not at all.
    Not,
}

/// Records an answer while it is shown.
pub(super) struct Kept {
    recording: Box<Recording>,
    way: Way,
    plan: MaskPlan,
    done: bool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl Kept {
    /// `plan`: what the process is shown.
    pub(super) fn new(
        recording: Box<Recording>,
        plan: &MaskPlan,
        shape: Shape,
        cut: Option<&(Cut, Box<dyn Dialect>)>,
    ) -> Self {
        let records = plan.for_records();
        let conceals = cut.and_then(|(_, dialect)| dialect.conceals());
        let way = match (cut, conceals) {
            (Some((Cut::Events, dialect)), _) if plan.reveals_any() && dialect.splits() => Way::Not,
            (Some((Cut::Whole | Cut::Events, _)), Some(conceals)) => Way::Concealed(conceals),
            (_, _) if !plan.reveals_any() => Way::Shown,
            (Some((Cut::Whole, _)), None) => Way::again(Shape::Text(Format::Json), true, &records),
            (Some((Cut::Events, _)), None) => Way::again(Shape::Events, true, &records),
            (Some((Cut::Http, _)) | None, _) => Way::again(shape.uncoded(), false, &records),
        };
        Self {
            recording,
            way,
            plan: records,
            done: false,
        }
    }

    /// The same for messages of gRPC that are described.
    pub(super) fn described(recording: Box<Recording>, plan: &MaskPlan, of: MessageDescriptor) -> Self {
        Self {
            recording,
            way: Way::Described(of),
            plan: plan.for_records(),
            done: false,
        }
    }

    /// Status and fields as they are shown, without what holds secrets by its name.
    pub(super) fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.fields(status.as_u16().to_string(), headers);
    }

    /// Fields behind the body.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        self.fields("trailers".into(), trailers);
    }

    fn fields(&mut self, first: String, headers: &HeaderMap) {
        let mut headers = headers.clone();
        // Base64 of what detectors would have to read first.
        for (_, value) in headers
            .iter_mut()
            .filter(|(name, _)| name.as_str().ends_with("-bin"))
        {
            *value = HeaderValue::from_static("[bytes]");
        }
        let text = |field| match field {
            ParameterShown::Text(text) => text,
            ParameterShown::Null | ParameterShown::Binary(_) => String::new(),
        };
        let shown = fields(&headers, &self.plan).into_iter().map(text).collect();
        self.recording.head(first, shown);
    }

    /// A piece that is about to be shown. `unread`: nobody looked into it.
    pub(super) fn piece(&mut self, piece: &Masked<Bytes>, unread: bool) {
        if unread {
            return self.recording.unread(piece.content());
        }
        match &mut self.way {
            Way::Shown => self.recording.push(piece),
            Way::Concealed(conceals) => {
                let concealed = Concealed(conceals, piece.content());
                let masked = self.plan.apply(concealed, &mut MaskCounts::default());
                self.recording.push(&masked);
            }
            Way::Again(..) => self.again(Some(piece.content())),
            Way::Described(of) => {
                let lines = Lines(of, piece.content());
                let masked = self.plan.apply(lines, &mut MaskCounts::default());
                self.recording.push(&masked);
            }
            Way::Not => self.recording.without(Unkept::Revealed, piece.content()),
        }
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.again(None);
            self.recording.end();
        }
    }

    fn again(&mut self, piece: Option<&[u8]>) {
        let Way::Again(masker, decodes) = &mut self.way else {
            return;
        };
        let mut counts = MaskCounts::default();
        let decoded = match piece {
            Some(piece) if *decodes => Some(coded::masked(piece, &self.plan, &mut counts).0),
            Some(_) | None => None,
        };
        let next = Next(masker, None, decoded.as_deref().or(piece));
        match self.plan.apply(next, &mut counts).transpose() {
            Ok(masked) => self.recording.push(&masked),
            Err(_why) => {
                self.way = Way::Not;
                self.recording
                    .without(Unkept::Revealed, piece.unwrap_or_default());
            }
        }
    }

    /// What it has recorded, for the fuzzer.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn recorded(&self) -> Vec<u8> {
        self.recording.recorded().0
    }

    /// Puts what is waiting into the log's queue. Cancel-safe.
    pub(super) async fn settle(&mut self) -> Result<(), Unkeepable> {
        self.recording.settle().await
    }
}

impl Way {
    fn again(shape: Shape, decodes: bool, plan: &MaskPlan) -> Self {
        Self::Again(Box::new(Masker::new(shape, None, plan)), decodes)
    }
}

struct Concealed<'a>(&'a Conceals, &'a [u8]);

impl Maskable for Concealed<'_> {
    type Output = Bytes;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Bytes {
        let Self(conceals, piece) = self;
        let concealed = conceals(piece);
        let mut masker = Masker::new(Shape::Events, None, plan);
        let mut out = BytesMut::new();
        for step in [Some(concealed.as_slice()), None] {
            // What cannot be masked is left out.
            if let Ok(masked) = Next(&mut masker, None, step).mask(plan, counts) {
                out.extend_from_slice(&masked);
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_hold_secrets_are_left_out_wherever_the_text_is_cut() {
        let text = br#"{"user": {"password": "hunter\"2", "mail": "a"}, "pin_token": 1234, "max_tokens": 7, "x": ["token"]}"#;
        let expected = r#"{"user": {"password": "[redacted]", "mail": "a"}, "pin_token": "[redacted]", "max_tokens": 7, "x": ["token"]}"#;
        assert_eq!(String::from_utf8_lossy(&members(text)), expected);
        for cut in 0..text.len() {
            let shown = members(text.get(..cut).unwrap_or_default());
            let shown = String::from_utf8_lossy(&shown);
            assert!(!shown.contains("hunter") && !shown.contains("123"), "{shown}");
        }
        let escaped = br#"{"\u0070assword":"hunter2"}"#;
        assert_eq!(members(escaped), br#"{"\u0070assword":"[redacted]"}"#);
        assert_eq!(
            without_secrets("application/x-www-form-urlencoded", b"a=1&api_key=hunter2&b"),
            b"a=1&api_key=[redacted]&b"
        );
    }
}
