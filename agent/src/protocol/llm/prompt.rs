//! What a prompt asks for: the facts that policies read, and words for people.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::json::{JsonError, canonical, parse};
use crate::mask::MaskPlan;
use crate::model::{Action, Digest, Facts, Fingerprint, LlmFacts, MaskCounts, Operation};
use crate::protocol::http::coded;
use crate::protocol::http::dialect::{Asked, masked_json, masked_plain};

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

/// An API, by what its requests look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages, and the counting of their tokens.
    Messages,
}

impl Api {
    /// The API at a path; providers and gateways put different things before its end.
    pub(super) fn at(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/').to_ascii_lowercase();
        let ends = |end: &str| path.ends_with(end);
        if ends("/chat/completions") {
            Some(Self::Chat)
        } else if ends("/responses") || ends("/responses/input_tokens") || ends("/responses/compact") {
            Some(Self::Responses)
        } else if ends("/messages") || ends("/messages/count_tokens") {
            Some(Self::Messages)
        } else {
            None
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses => "openai",
            Self::Messages => "anthropic",
        }
    }
}

/// Why a prompt is not judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum PromptError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("it is no object")]
    Shape,
    #[error("{0:?} is not what the API has there")]
    Member(&'static str),
}

/// The operation that a request is.
pub(super) fn operation(
    api: Api,
    asked: &Asked<'_>,
    body: &[u8],
    plan: &MaskPlan,
) -> Result<Operation, PromptError> {
    let value = parse(body)?;
    let canonical = canonical(&value);
    let Value::Object(members) = value else {
        return Err(PromptError::Shape);
    };
    let (shown, findings) = findings(&canonical, &members, plan);
    let text = text(asked.path, &shown);
    let facts = LlmFacts {
        api: api.name().to_owned(),
        model: model(&members)?,
        tools: tools(&members)?,
        findings,
        bytes: 0,
        attachments: false,
        stored: stored(api, &members)?,
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
        actions: [Action::LlmPrompt].into(),
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
    let classes = counts.0.keys().map(ToString::to_string).collect();
    (plan.shown(&String::from_utf8_lossy(&shown)), classes)
}

/// Azure names the model in the path: none is said then.
fn model(members: &Map<String, Value>) -> Result<String, PromptError> {
    match members.get("model") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(model)) => Ok(model.clone()),
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
    match (api, members.get("store")) {
        (Api::Messages, _) => Ok(false),
        (_, Some(Value::Bool(store))) => Ok(*store),
        (Api::Responses, None | Some(Value::Null)) => Ok(true),
        (Api::Chat, None | Some(Value::Null)) => Ok(false),
        (_, Some(_)) => Err(PromptError::Member("store")),
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
