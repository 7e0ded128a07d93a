//! Texts that a stream brings in pieces: where they are in an event, and each joined for the mask.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::mask::MaskPlan;
use crate::model::MaskCounts;
use crate::protocol::http::dialect::MaskedText;

use super::restore::{Restorer, Restoring};

/// Which text of a stream: its choice, block or item, and its member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Channel {
    /// What ends together.
    group: String,
    member: String,
}

impl Channel {
    /// Whether values are given back in it: what the provider signed must come back to it as it was.
    fn restores(&self) -> bool {
        self.member != "/thinking"
    }
}

/// Strings of a delta that are no text in pieces; those of providers that nobody foresaw are taken for text.
const NO_TEXT: [&str; 10] = [
    "type",
    "role",
    "id",
    "name",
    "call_id",
    "tool_call_id",
    "signature",
    "encrypted_content",
    "data",
    "service_tier",
];

/// Where an event carries pieces of texts: a pointer (RFC 6901) and the text that it belongs to.
pub(super) fn places(event: &Value) -> Vec<(String, Channel)> {
    let mut found = Vec::new();
    // OpenAI's responses: {"type": "….delta", "delta": "…", …}.
    if let (Some(kind), Some(Value::String(_))) = (kind(event), event.get("delta"))
        && !kind.ends_with("audio.delta")
    {
        found.push(("/delta".to_owned(), channel(item(event, kind), "delta")));
    }
    // Anthropic's: {"type": "content_block_delta", "index": 0, "delta": {"text": "…"}}.
    if kind(event) == Some("content_block_delta")
        && let Some(delta) = event.get("delta")
    {
        let group = format!("block {}", event.get("index").unwrap_or(&Value::Null));
        texts(delta, ("/delta", ""), &group, &mut found);
    }
    // OpenAI's chat completions: {"choices": [{"index": 0, "delta": {…, "tool_calls": [{"index": 0, …}]}}]}.
    for (nth, choice) in list(event, "choices") {
        let group = format!("choice {}", choice.get("index").unwrap_or(&Value::Null));
        let at = format!("/choices/{nth}");
        if let Some(delta) = choice.get("delta") {
            texts(delta, (&format!("{at}/delta"), ""), &group, &mut found);
        }
        if choice.get("text").is_some_and(Value::is_string) {
            found.push((format!("{at}/text"), channel(group, "text")));
        }
    }
    found
}

/// All texts below `value`: `at` is where it stands, `name` what it is called in every event alike.
fn texts(value: &Value, (at, name): (&str, &str), group: &str, found: &mut Vec<(String, Channel)>) {
    match value {
        Value::String(_) => found.push((at.to_owned(), channel(group.to_owned(), name))),
        Value::Object(members) => {
            for (member, inner) in members {
                let step = member.replace('~', "~0").replace('/', "~1");
                if !(inner.is_string() && NO_TEXT.contains(&member.as_str())) {
                    texts(
                        inner,
                        (&format!("{at}/{step}"), &format!("{name}/{step}")),
                        group,
                        found,
                    );
                }
            }
        }
        Value::Array(items) => {
            for (nth, inner) in items.iter().enumerate() {
                let index = inner.get("index").and_then(Value::as_u64);
                let step = index.map_or_else(|| format!("#{nth}"), |index| index.to_string());
                texts(
                    inner,
                    (&format!("{at}/{nth}"), &format!("{name}/{step}")),
                    group,
                    found,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Takes out of a delta what its readers add up, and must not see twice.
pub(super) fn without_names(delta: &mut Value) {
    match delta {
        Value::Object(members) => {
            members.retain(|name, inner| {
                name == "type" || !inner.is_string() || !NO_TEXT.contains(&name.as_str())
            });
            members.values_mut().for_each(without_names);
        }
        Value::Array(items) => items.iter_mut().for_each(without_names),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn channel(group: String, member: &str) -> Channel {
    let member = member.to_owned();
    Channel { group, member }
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    value
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}

fn kind(event: &Value) -> Option<&str> {
    event.get("type").and_then(Value::as_str)
}

/// One text of the responses API: its kind without `.delta` or `.done`, and its place.
fn item(event: &Value, kind: &str) -> String {
    let base = kind.rsplit_once('.').map_or(kind, |(base, _)| base);
    let mut group = format!("item {base}");
    for name in ["item_id", "output_index", "content_index", "summary_index"] {
        group.push_str(&format!(" {}", event.get(name).unwrap_or(&Value::Null)));
    }
    group
}

/// Which texts are complete with an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ends {
    None,
    Groups(Vec<String>),
    All,
}

impl Ends {
    /// Whether a text is complete.
    pub(super) fn has(&self, channel: &Channel) -> bool {
        match self {
            Self::None => false,
            Self::Groups(groups) => groups.contains(&channel.group),
            Self::All => true,
        }
    }
}

/// What an event ends.
pub(super) fn ends(event: &Value) -> Ends {
    match kind(event) {
        Some("content_block_stop") => {
            let index = event.get("index").unwrap_or(&Value::Null);
            return Ends::Groups(vec![format!("block {index}")]);
        }
        Some("message_delta" | "message_stop" | "error") => return Ends::All,
        Some("response.completed" | "response.failed" | "response.incomplete") => return Ends::All,
        Some(kind) if kind.ends_with(".done") => return Ends::Groups(vec![item(event, kind)]),
        _ => {}
    }
    if event.get("error").is_some_and(|error| !error.is_null()) {
        return Ends::All;
    }
    let ended = list(event, "choices").filter(|(_, c)| c.get("finish_reason").is_some_and(|r| !r.is_null()));
    let groups: Vec<String> = ended
        .map(|(_, choice)| format!("choice {}", choice.get("index").unwrap_or(&Value::Null)))
        .collect();
    if groups.is_empty() {
        Ends::None
    } else {
        Ends::Groups(groups)
    }
}

/// One text on its way.
#[derive(Debug)]
struct Joined {
    text: MaskedText,
    /// The beginning of a letter whose rest is held back.
    letter: Vec<u8>,
    back: Restoring,
    /// The event that brought the last piece: its other lines, its data, and where in it the text stands.
    last: (Vec<u8>, Value, String),
}

impl Joined {
    fn rest(mut self, restorer: Option<&Restorer>, counts: &mut MaskCounts) -> String {
        let mut left = self.letter;
        left.extend(self.text.finish(counts));
        self.back.push(restorer, &String::from_utf8_lossy(&left), true)
    }
}

/// All texts of a stream that are not complete.
#[derive(Debug, Default)]
pub(super) struct Texts(BTreeMap<Channel, Joined>);

/// Texts of one stream at the same time; more are masked piece by piece.
const MOST: usize = 1024;

/// The rest of a text, with the event to send it in.
pub(super) struct Rest {
    pub(super) other: Vec<u8>,
    pub(super) data: Value,
    /// Where in it the text stands.
    pub(super) at: String,
    /// The text.
    pub(super) left: String,
}

impl Texts {
    /// Takes a piece; what is decided of the text.
    pub(super) fn push(
        &mut self,
        channel: &Channel,
        piece: &str,
        last: (Vec<u8>, Value, String),
        (plan, restorer): (&MaskPlan, Option<&Restorer>),
        counts: &mut MaskCounts,
    ) -> String {
        let restorer = restorer.filter(|_| channel.restores());
        if self.0.len() >= MOST && !self.0.contains_key(channel) {
            let mut text = MaskedText::new(plan);
            let mut out = text.push(piece.as_bytes(), counts);
            out.extend(text.finish(counts));
            return Restoring::default().push(restorer, &String::from_utf8_lossy(&out), true);
        }
        let joined = self.0.entry(channel.clone()).or_insert_with(|| Joined {
            text: MaskedText::new(plan),
            letter: Vec::new(),
            back: Restoring::default(),
            last: (Vec::new(), Value::Null, String::new()),
        });
        joined.last = last;
        joined.letter.extend(joined.text.push(piece.as_bytes(), counts));
        let out = letters(&mut joined.letter);
        joined.back.push(restorer, &out, false)
    }

    /// The rest of one text, where the event that brought its last piece ends it.
    pub(super) fn finish(
        &mut self,
        channel: &Channel,
        restorer: Option<&Restorer>,
        counts: &mut MaskCounts,
    ) -> String {
        let restorer = restorer.filter(|_| channel.restores());
        let left = self.0.remove(channel).map(|joined| joined.rest(restorer, counts));
        left.unwrap_or_default()
    }

    /// The rests of what is complete, in the order of the texts' names.
    pub(super) fn end(
        &mut self,
        ends: &Ends,
        restorer: Option<&Restorer>,
        counts: &mut MaskCounts,
    ) -> Vec<Rest> {
        let over: Vec<Channel> = self
            .0
            .keys()
            .filter(|channel| ends.has(channel))
            .cloned()
            .collect();
        let mut rests = Vec::new();
        for channel in over {
            let Some(joined) = self.0.remove(&channel) else {
                continue;
            };
            let (other, data, at) = joined.last.clone();
            let left = joined.rest(restorer.filter(|_| channel.restores()), counts);
            if !left.is_empty() {
                rests.push(Rest {
                    other,
                    data,
                    at,
                    left,
                });
            }
        }
        rests
    }
}

/// Takes whole letters out; the beginning of one that is not complete stays.
fn letters(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    let rest = bytes.split_off(whole);
    let out = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    out
}
