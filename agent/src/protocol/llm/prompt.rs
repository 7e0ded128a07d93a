//! What a prompt asks for: the facts that policies read, and words for people.

use std::collections::BTreeSet;

use hyper::header::HeaderMap;
use serde_json::{Map, Value};

use crate::json::{JsonError, canonical, parse, replaced};
use crate::mask::MaskPlan;
use crate::model::{Digest, Facts, Fingerprint, LlmFacts, MaskCounts, Operation};
use crate::protocol::http::coded::{self, Carried};
use crate::protocol::http::dialect::{Asked, masked_json, masked_plain};

use super::endpoint::Api;

/// Longest text of a prompt in records, in characters.
const SHOWN: usize = 4096;

/// Types of parts that are no text.
const ATTACHED: [&str; 12] = [
    "image",
    "image_url",
    "input_image",
    "image_file",
    "audio",
    "input_audio",
    "file",
    "input_file",
    "document",
    "container_upload",
    "video",
    "input_video",
];

/// Why a prompt is not judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum PromptError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("it is no object")]
    Shape,
    #[error("{0:?} is not what the API has there")]
    Member(&'static str),
    #[error("it has a body, and such a request has none")]
    Body,
}

/// Tokens of a picture, or of anything else that is no text, as long as nobody counted them.
const PICTURE: u64 = 1500;
/// Bytes of a text that are a token at least: letters of English are more, code and other scripts fewer.
const TOKEN: u64 = 3;

/// The members of a prompt.
pub(super) fn members(body: &[u8]) -> Result<Map<String, Value>, PromptError> {
    match parse(body)? {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(PromptError::Shape)
        }
    }
}

/// The operation that a prompt with these members is.
pub(super) fn asking(
    api: Api,
    asked: &Asked<'_>,
    members: Map<String, Value>,
    plan: &MaskPlan,
) -> Result<Operation, PromptError> {
    let value = Value::Object(members);
    let canonical = canonical(&value);
    let Value::Object(members) = value else {
        return Err(PromptError::Shape);
    };
    let (shown, findings) = findings(&canonical, &members, plan);
    let text = text(asked.path, &shown);
    let facts = LlmFacts {
        api: api.provider(asked.headers).to_owned(),
        endpoint: api.name().to_owned(),
        model: model(&members)?.unwrap_or_else(|| api.model_at(asked.path)),
        tools: tools(&members)?,
        findings,
        bytes: 0,
        attachments: false,
        stored: stored(api, &members)?,
        usage: None,
    };
    // What changes what the provider does, and stands in no body.
    let mut fields: Vec<(&str, &[u8])> = asked
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| name.starts_with("openai-") || name.starts_with("anthropic-"))
        .collect();
    fields.sort_unstable();
    let mut parts: Vec<&[u8]> = vec![b"llm", asked.path.as_bytes(), canonical.as_bytes()];
    for (name, value) in fields {
        parts.extend([name.as_bytes(), value]);
    }
    let (bytes, attachments) = said(&members);
    Ok(Operation {
        actions: [api.action()].into(),
        fingerprint: Fingerprint(Digest::of_fields(&parts)),
        facts: Facts::Llm(LlmFacts {
            bytes,
            attachments,
            ..facts
        }),
        text,
        parameters: Vec::new(),
    })
}

/// A request that asks for what the provider has.
pub(super) fn reading(api: Api, asked: &Asked<'_>, body: &[u8]) -> Result<Operation, PromptError> {
    if !body.is_empty() {
        return Err(PromptError::Body);
    }
    let parts: [&[u8]; 3] = [b"llm", asked.method.as_str().as_bytes(), asked.path.as_bytes()];
    Ok(Operation {
        actions: [api.action()].into(),
        fingerprint: Fingerprint(Digest::of_fields(&parts)),
        facts: Facts::Llm(LlmFacts {
            api: api.provider(asked.headers).to_owned(),
            endpoint: api.name().to_owned(),
            model: api.model_at(asked.path),
            ..LlmFacts::default()
        }),
        text: format!("{} {}", asked.method, asked.path),
        parameters: Vec::new(),
    })
}

/// How many tokens a prompt takes, roughly: until the provider says it.
pub(super) fn estimate(body: &str) -> u64 {
    let mut tokens = 0_u64;
    replaced(body, &mut |one| {
        let text = one.text.as_bytes();
        // What has no blanks for so long is no text.
        let coded = text.len() > 512 && !text.iter().take(512).any(u8::is_ascii_whitespace);
        let more = if coded { PICTURE } else { of_text(text.len()) };
        tokens = tokens.saturating_add(more);
        None
    });
    tokens
}

/// Tokens of a text of so many bytes.
pub(super) fn of_text(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).div_ceil(TOKEN)
}

/// What records show of a prompt.
fn text(path: &str, shown: &str) -> String {
    let mut text = format!("{path} {shown}");
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// What records show of a prompt that was masked, and the classes of what is in it all the same.
pub(super) fn masked(path: &str, body: &str, plan: &MaskPlan) -> (String, BTreeSet<String>) {
    let members = match parse(body.as_bytes()) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    };
    let (shown, findings) = findings(body, &members, plan);
    (text(path, &shown), findings)
}

/// The prompt as records show it, and the classes of what was found in it. `plan` reveals nothing: what it masks is what
/// there is. JSON inside of strings (arguments of tools) and base64 are looked into as well.
fn findings(canonical: &str, members: &Map<String, Value>, plan: &MaskPlan) -> (String, BTreeSet<String>) {
    let mut counts = MaskCounts::default();
    let (decoded, _) = coded::masked(canonical.as_bytes(), plan, &mut counts);
    let shown = masked_json(&decoded, plan, &mut counts);
    each(members.values(), &mut |value| {
        if let Value::String(text) = value
            && text.trim_start().starts_with(['{', '['])
        {
            masked_plain(text.as_bytes(), plan, &mut counts);
        }
    });
    let mut classes: BTreeSet<String> = counts.0.keys().map(ToString::to_string).collect();
    texts_in(canonical, 0, &mut |text| {
        classes.extend(plan.patterns_in(text).iter().map(ToString::to_string));
    });
    let shown = plan.shown(&String::from_utf8_lossy(&shown));
    (plan.without_patterns(shown), classes)
}

/// Every text in a JSON text: names, strings, what they carry as base64, and the same of JSON in them.
fn texts_in(text: &str, depth: u8, look: &mut dyn FnMut(&[u8])) {
    const DEPTH: u8 = 8;
    replaced(text, &mut |one| {
        let mut below = |text: &[u8]| match std::str::from_utf8(text) {
            Ok(inner)
                if depth < DEPTH && inner.trim_start().starts_with(['{', '[']) && parse(text).is_ok() =>
            {
                texts_in(inner, depth + 1, look);
            }
            Ok(_) | Err(_) => look(text),
        };
        if let Some(carried) = Carried::by(one.text) {
            below(&carried.content);
        }
        below(one.text.as_bytes());
        None
    });
}

/// Azure names the model in the path: none is said then.
fn model(members: &Map<String, Value>) -> Result<Option<String>, PromptError> {
    match members.get("model") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(model)) => Ok(Some(model.clone())),
        Some(_) => Err(PromptError::Member("model")),
    }
}

/// Tools by their names, those of the provider's own by their types, and servers of MCP that the provider calls.
fn tools(members: &Map<String, Value>) -> Result<BTreeSet<String>, PromptError> {
    let mut names = BTreeSet::new();
    for list in ["tools", "functions", "mcp_servers"] {
        let tools = match members.get(list) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(tools)) => tools,
            Some(_) => return Err(PromptError::Member(list)),
        };
        for tool in tools {
            let at = |path: &str| tool.pointer(path).and_then(Value::as_str);
            let named = [
                "/name",
                "/function/name",
                "/custom/name",
                "/server_label",
                "/type",
            ];
            let name = named.iter().find_map(|path| at(path));
            names.insert(name.ok_or(PromptError::Member(list))?.to_owned());
        }
    }
    Ok(names)
}

/// Responses are kept unless the provider is told otherwise; chat completions the other way round.
fn stored(api: Api, members: &Map<String, Value>) -> Result<bool, PromptError> {
    match members.get("store") {
        _ if api.provider(&HeaderMap::new()) == "anthropic" => Ok(false),
        Some(Value::Bool(store)) => Ok(*store),
        None | Some(Value::Null) => Ok(api == Api::Responses),
        Some(_) => Err(PromptError::Member("store")),
    }
}

/// Length of all texts, and whether something is no text. Descriptions of tools count as text only.
fn said(members: &Map<String, Value>) -> (u64, bool) {
    let (mut bytes, mut attached) = (0_u64, false);
    for (name, member) in members {
        let of_tools = matches!(name.as_str(), "tools" | "functions" | "response_format" | "text");
        each([member].into_iter(), &mut |value| match value {
            Value::String(text) => {
                bytes = bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
            }
            Value::Object(part) => {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                attached |= !of_tools && (ATTACHED.contains(&kind) || part.contains_key("file_id"));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
        });
    }
    (bytes, attached)
}

/// Every value below, the outer ones first; without recursion of depth, the parser bounds it.
fn each<'v>(values: impl Iterator<Item = &'v Value>, look: &mut impl FnMut(&'v Value)) {
    let mut left: Vec<&Value> = values.collect();
    while let Some(value) = left.pop() {
        look(value);
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
