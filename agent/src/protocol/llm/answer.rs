//! Masks what a model answers, as a whole and event by event, and counts its tokens.

use data_encoding::BASE64;
use serde_json::Value;

use crate::json::parse;
use crate::mask::MaskPlan;
use crate::model::MaskCounts;
use crate::protocol::http::coded;
use crate::protocol::http::dialect::{masked_event, masked_json, masked_plain};

use super::deltas::{Ends, Texts, ends, places, without_names};
use super::endpoint::Api;
use super::event::Event;
use super::prompt::of_text;
use super::refusal;
use super::restore::Restorer;

/// Why a stream ends at an event that readers could understand in different ways.
const AMBIGUOUS: &str =
    "Interdict ended this answer: the provider sent an event that could be read in two ways.";

/// One answer.
#[derive(Debug, Default)]
pub(super) struct Answers {
    texts: Texts,
    /// Tokens in and out, as the provider counts them.
    tokens: Option<(u64, u64)>,
    /// Where the process gets values back.
    restorer: Option<Restorer>,
    pub(super) api: Option<Api>,
    /// Whether the event that only counts was asked for by the agent: the process did not ask for it.
    pub(super) strips: bool,
    /// The stream ended with an error of the agent's own.
    stopped: bool,
    /// Whether the tokens are the provider's last word.
    counted: bool,
    /// Tokens that came from a cache or went into one, where they are counted apart.
    cached: u64,
    /// Bytes of texts so far.
    said: usize,
}

/// An event as it is shown.
struct Parts {
    /// What ends with it and was held back, each in an event of its own: its other lines, and its data.
    rests: Vec<(Vec<u8>, Value)>,
    value: Value,
    /// Whether it is another than came.
    changed: bool,
}

impl Answers {
    /// From here on values are given back.
    pub(super) fn restoring(&mut self, restorer: Option<Restorer>) {
        self.restorer = restorer;
    }

    /// A whole answer.
    pub(super) fn whole(&mut self, body: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        let Ok(mut value) = parse(body) else {
            return masked_text(body, plan, counts);
        };
        self.count(&value);
        let vectors = if self.api == Some(Api::Embeddings) {
            take_vectors(&mut value)
        } else {
            Vec::new()
        };
        if !vectors.is_empty() {
            return with_vectors(value, vectors, plan, counts);
        }
        // As it came, where nothing inside of its strings changed.
        let masked = if inner(&mut value, plan, counts) {
            masked_text(value.to_string().as_bytes(), plan, counts)
        } else {
            masked_text(body, plan, counts)
        };
        let Some(restorer) = &self.restorer else {
            return masked;
        };
        let back = std::str::from_utf8(&masked)
            .ok()
            .and_then(|text| restorer.json(text));
        back.map_or(masked, String::into_bytes)
    }

    /// One event of a stream.
    pub(super) fn event(&mut self, raw: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        if self.stopped {
            return Vec::new();
        }
        let Some(event) = Event::read(raw) else {
            return masked_event(raw, plan, counts);
        };
        if event.data.trim_ascii() == b"[DONE]" {
            let mut out = self.ended(&Ends::All, &event, plan, counts);
            out.extend_from_slice(raw);
            return out;
        }
        let value = match parse(&event.data) {
            Ok(value) => value,
            // Pieces of a text could stand in it, where nobody joins them.
            Err(_ambiguous) if event.data.trim_ascii_start().starts_with(b"{") => {
                return self.stop(AMBIGUOUS);
            }
            Err(_no_json) => return masked_event(raw, plan, counts),
        };
        self.count(&value);
        if self.strips && only_counts(&value) {
            return Vec::new();
        }
        let other = masked_event(&event.other, plan, counts);
        let Parts {
            rests,
            value,
            changed,
        } = self.parts(value, &other, plan, counts);
        let mut out = Vec::new();
        for (other, rest) in rests {
            out.extend(event.with(&other, rest.to_string().as_bytes()));
        }
        if changed {
            out.extend(event.with(&other, value.to_string().as_bytes()));
        } else {
            out.extend(masked_event(raw, plan, counts));
        }
        out
    }

    /// One message of a WebSocket, which is an event without lines around it: what is shown, in several messages where texts
    /// end that were held back.
    pub(super) fn message(&mut self, value: Value, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>> {
        self.count(&value);
        let Parts { rests, value, .. } = self.parts(value, &[], plan, counts);
        let all = rests.into_iter().map(|(_, rest)| rest).chain([value]);
        all.map(|each| each.to_string().into_bytes()).collect()
    }

    /// No message follows: the rests of texts.
    pub(super) fn left(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>> {
        let rests = self.rests(&Ends::All, plan, counts);
        rests
            .into_iter()
            .map(|(_, rest)| rest.to_string().into_bytes())
            .collect()
    }

    /// An event, masked. `other`: its other lines, masked too.
    fn parts(&mut self, mut value: Value, other: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Parts {
        let places = places(&value);
        let mut pieces = Vec::new();
        for (at, channel) in places {
            if let Some(Value::String(piece)) = value.pointer_mut(&at).map(std::mem::take) {
                if let Some(place) = value.pointer_mut(&at) {
                    *place = Value::from("");
                }
                self.said = self.said.saturating_add(piece.len());
                pieces.push((at, channel, piece));
            }
        }
        let ends = ends(&value);
        let bare = value.clone();
        let mut changed = inner(&mut value, plan, counts);
        let plain = value.to_string();
        let masked = masked_text(plain.as_bytes(), plan, counts);
        if masked != plain.as_bytes() {
            changed = true;
            match parse(&masked) {
                Ok(masked) => value = masked,
                // Nothing of it can be shown.
                Err(_no_json) => value = Value::Null,
            }
        }
        if let Some(back) = self.restorer.as_ref().and_then(|r| r.json(&value.to_string()))
            && let Ok(back) = parse(back.as_bytes())
        {
            changed = true;
            value = back;
        }
        for (at, channel, piece) in pieces {
            let last = (other.to_vec(), template(&bare, &at), at.clone());
            let restorer = self.restorer.as_ref();
            let mut out = self.texts.push(&channel, &piece, last, (plan, restorer), counts);
            if ends.has(&channel) {
                out.push_str(&self.texts.finish(&channel, restorer, counts));
            }
            changed |= out != piece;
            if let Some(place) = value.pointer_mut(&at) {
                *place = Value::from(out);
            }
        }
        let rests = self.rests(&ends, plan, counts);
        Parts {
            rests,
            value,
            changed,
        }
    }

    /// Ends the stream with the provider's own error event.
    pub(super) fn stop(&mut self, why: &str) -> Vec<u8> {
        if std::mem::replace(&mut self.stopped, true) {
            return Vec::new();
        }
        refusal::event(self.api, why)
    }

    /// Whether nothing of it has come.
    pub(super) const fn is_silent(&self) -> bool {
        self.said == 0
    }

    /// Tokens that it takes as far as is known, and whether that is the provider's last word. `input`: an estimate of the
    /// prompt's.
    pub(super) fn tokens(&self, input: u64) -> (u64, bool) {
        let seen = of_text(self.said);
        let (input, output) = match self.tokens {
            None => (input, seen),
            Some((input, output)) if self.counted => (input, output),
            Some((input, output)) => (input, output.max(seen)),
        };
        (
            input.saturating_add(output).saturating_add(self.cached),
            self.counted,
        )
    }

    /// The stream is over.
    pub(super) fn end(&mut self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        if self.stopped {
            return Vec::new();
        }
        match Event::read(b"data:\n\n") {
            Some(event) => self.ended(&Ends::All, &event, plan, counts),
            None => Vec::new(),
        }
    }

    /// What the record says of it.
    pub(super) fn note(&self) -> String {
        match self.tokens {
            None => String::new(),
            Some((input, output)) => format!("tokens: {input} in, {output} out"),
        }
    }

    /// The rests of texts that are complete, each in an event like the one before it.
    fn ended(&mut self, ends: &Ends, event: &Event, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        let rests = self.rests(ends, plan, counts);
        rests
            .into_iter()
            .flat_map(|(other, rest)| event.with(&other, rest.to_string().as_bytes()))
            .collect()
    }

    /// The same, as the other lines of events and their data.
    fn rests(&mut self, ends: &Ends, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<(Vec<u8>, Value)> {
        let mut rests = Vec::new();
        for rest in self.texts.end(ends, self.restorer.as_ref(), counts) {
            let mut data = rest.data;
            // The same as was masked in that event; counted there.
            let mut again = MaskCounts::default();
            inner(&mut data, plan, &mut again);
            let plain = data.to_string();
            let masked = masked_text(plain.as_bytes(), plan, &mut again);
            if masked != plain.as_bytes() {
                data = parse(&masked).unwrap_or_default();
            }
            if let Some(place) = data.pointer_mut(&rest.at) {
                *place = Value::from(rest.left);
            }
            rests.push((rest.other, data));
        }
        rests
    }

    /// Providers say it more than once: the last word of each counts.
    fn count(&mut self, value: &Value) {
        let holders = ["/usage", "/response/usage", "/message/usage"];
        for usage in holders.iter().filter_map(|at| value.pointer(at)) {
            let one = |names: [&str; 2]| names.iter().find_map(|n| usage.get(*n).and_then(Value::as_u64));
            let (input, output) = (
                one(["input_tokens", "prompt_tokens"]),
                one(["output_tokens", "completion_tokens"]),
            );
            if input.is_none() && output.is_none() {
                continue;
            }
            let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
            let cached = cached
                .iter()
                .filter_map(|n| usage.get(*n).and_then(Value::as_u64));
            self.cached = self.cached.max(cached.fold(0, u64::saturating_add));
            // Anthropic's first event says what the prompt takes.
            self.counted |= value.pointer("/message/usage").is_none();
            let (before, after) = self.tokens.unwrap_or_default();
            self.tokens = Some((input.unwrap_or(before), output.unwrap_or(after)));
        }
    }
}

/// Whether an event has nothing but what was counted.
fn only_counts(value: &Value) -> bool {
    let no_choices = value
        .get("choices")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    no_choices && value.get("usage").is_some_and(Value::is_object)
}

/// Vectors of an answer: no detector reads them, and digits in them look like anything.
fn take_vectors(value: &mut Value) -> Vec<Value> {
    let mut taken = Vec::new();
    let data = value.get_mut("data").and_then(Value::as_array_mut);
    for one in data.into_iter().flatten() {
        let Some(vector) = one.get_mut("embedding") else {
            continue;
        };
        let is_vector = match &*vector {
            Value::Array(items) => items.iter().all(Value::is_number),
            Value::String(coded) => BASE64
                .decode(coded.as_bytes())
                .is_ok_and(|bytes| bytes.len() % 4 == 0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        let vector = if is_vector { vector.take() } else { Value::Null };
        taken.push(vector);
    }
    taken
}

/// The rest masked, with the vectors in their places.
fn with_vectors(mut value: Value, vectors: Vec<Value>, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
    inner(&mut value, plan, counts);
    let masked = masked_text(value.to_string().as_bytes(), plan, counts);
    let Ok(mut value) = parse(&masked) else {
        return masked;
    };
    let data = value.get_mut("data").and_then(Value::as_array_mut);
    let places = data
        .into_iter()
        .flatten()
        .filter_map(|one| one.get_mut("embedding"));
    for (place, vector) in places.zip(vectors) {
        if !vector.is_null() {
            *place = vector;
        }
    }
    value.to_string().into_bytes()
}

/// A JSON text with everything masked that stands in one string.
fn masked_text(text: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
    let (decoded, _) = coded::masked(text, plan, counts);
    masked_json(&decoded, plan, counts)
}

/// An event that carries nothing but one text: without other pieces, ends and counts.
fn template(bare: &Value, at: &str) -> Value {
    let mut value = bare.clone();
    let choice = at
        .strip_prefix("/choices/")
        .and_then(|rest| rest.split('/').next()?.parse::<usize>().ok());
    let Some(members) = value.as_object_mut() else {
        return value;
    };
    members.remove("usage");
    if let Some(choices) = members.get_mut("choices").and_then(Value::as_array_mut) {
        for (nth, one) in choices.iter_mut().enumerate() {
            let Some(one) = one.as_object_mut() else { continue };
            one.insert("finish_reason".into(), Value::Null);
            one.remove("logprobs");
            if Some(nth) != choice {
                one.insert("delta".into(), Value::Object(serde_json::Map::new()));
            } else if let Some(delta) = one.get_mut("delta") {
                without_names(delta);
            }
        }
    }
    value
}

/// Masks JSON inside of strings (arguments of tools), whose escapes hide from the outer mask, and takes out the
/// probabilities of tokens: they spell the text in pieces. Whether anything changed.
fn inner(value: &mut Value, plan: &MaskPlan, counts: &mut MaskCounts) -> bool {
    let mut changed = false;
    let mut left: Vec<&mut Value> = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
                let mut found = MaskCounts::default();
                let masked = masked_plain(text.as_bytes(), plan, &mut found);
                if found.total() > 0 {
                    counts.merge(&found);
                    *text = String::from_utf8_lossy(&masked).into_owned();
                    changed = true;
                }
            }
            Value::Array(items) => left.extend(items),
            Value::Object(members) => {
                for (name, member) in members {
                    if name == "logprobs" && !is_empty(member) {
                        *member = if member.is_array() {
                            Value::Array(Vec::new())
                        } else {
                            Value::Null
                        };
                        changed = true;
                    }
                    left.push(member);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    changed
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => false,
    }
}
