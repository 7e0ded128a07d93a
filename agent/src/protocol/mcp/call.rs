//! What a message asks for: an action, the facts that policies read, and words for people.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::json::{TooMuch, canonical, facts};
use crate::mask::MaskPlan;
use crate::model::{Action, Digest, Document, Facts, Fingerprint, McpFacts, Operation};

use super::client::Abilities;
use super::ladder::QUESTION;
use super::message::Message;
use super::state;

/// Longest text of a call in records, in characters.
const SHOWN: usize = 4096;

/// Why a message is not judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("\"params\" lacks {0:?}, or it is no string")]
    Lacks(&'static str),
    #[error("the arguments are not an object")]
    Arguments,
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// A message with what matters of it taken out.
#[derive(Debug)]
pub(super) struct Call {
    /// What it does.
    pub(super) action: Action,
    /// `tools/call`.
    pub(super) method: String,
    /// Name of the tool or prompt, or URI of the resource; empty for what has none.
    pub(super) subject: String,
    /// The arguments; for what has none, all its parameters.
    pub(super) input: Map<String, Value>,
    /// What the agent's answer must carry; absent for what is not answered.
    pub(super) id: Option<Value>,
    /// Under this the client wants to hear of progress.
    pub(super) progress: Option<Value>,
    /// What the client can be asked: as it says with this request, or at `initialize`.
    pub(super) abilities: Abilities,
    /// What it answered to a question of the agent.
    pub(super) retry: Option<Retry>,
    /// The revision that the request names, where it has no session.
    pub(super) version: Option<String>,
    /// Whether the client speaks a revision without sessions (from 2026-07-28).
    pub(super) stateless: bool,
}

/// Another try of a request that the agent asked about (MCP 2026-07-28, `input_required`).
#[derive(Debug)]
pub(super) struct Retry {
    /// The agent's own state.
    pub(super) state: String,
    /// The answer to the agent's question.
    pub(super) answer: Value,
    /// The request without both: what the server gets.
    pub(super) body: Vec<u8>,
}

impl Retry {
    /// Takes what is the agent's out of the parameters. States of the server stay.
    fn taken_out(id: &Value, method: &str, params: &mut Map<String, Value>) -> Option<Self> {
        let state = params.get("requestState")?.as_str()?.to_owned();
        if !state::is_ours(&state) {
            return None;
        }
        params.remove("requestState");
        let mut answers = params.remove("inputResponses").unwrap_or_default();
        let answer = answers.get_mut(QUESTION).map(Value::take).unwrap_or_default();
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        Some(Self {
            state,
            answer,
            body: body.to_string().into_bytes(),
        })
    }
}

impl Call {
    pub(super) fn of(message: Message) -> Result<Self, CallError> {
        let (id, method, mut params) = match message {
            Message::Request { id, method, params } => (Some(id), method, params),
            Message::Notification { method, params } => (None, method, params),
            Message::Answer { id: _, content } => {
                (None, String::new(), Map::from_iter([("answer".into(), content)]))
            }
        };
        let retry = id
            .as_ref()
            .and_then(|id| Retry::taken_out(id, &method, &mut params));
        let meta = params.get("_meta").and_then(Value::as_object);
        let progress = meta.and_then(|meta| meta.get("progressToken")).cloned();
        let abilities = match method.as_str() {
            "initialize" => Abilities::of(params.get("capabilities")),
            _ => Abilities::with_request(meta),
        };
        let version = meta.and_then(|meta| meta.get("io.modelcontextprotocol/protocolVersion"));
        let version = version.and_then(Value::as_str).map(str::to_owned);
        let stateless = meta.is_some_and(|meta| meta.contains_key("io.modelcontextprotocol/protocolVersion"));
        let action = action(&method);
        let mut subject = String::new();
        let input = if action == Action::McpToolCall || action == Action::McpPromptGet {
            subject = text(&mut params, "name")?;
            arguments(&mut params)?
        } else if action == Action::McpResourceRead {
            subject = text(&mut params, "uri")?;
            without_neutral(params)
        } else {
            without_neutral(params)
        };
        Ok(Self {
            action,
            method,
            subject,
            input,
            id,
            progress,
            abilities,
            retry,
            version,
            stateless,
        })
    }

    /// The task that it is about.
    pub(super) fn task(&self) -> Option<&str> {
        let id = self
            .input
            .get("taskId")
            .filter(|_| self.action == Action::McpTask);
        id.and_then(Value::as_str)
    }

    /// The operation, for a server at `place` (whatever tells servers apart). `said` is the digest of what the tool that
    /// is called says of itself: consent to it is consent to that.
    pub(super) fn operation(
        &self,
        place: &[&[u8]],
        said: Option<&Digest>,
        plan: &MaskPlan,
    ) -> Result<Operation, CallError> {
        let input = Value::Object(self.input.clone());
        let canonical = canonical(&input);
        let named = |action: Action| {
            if self.action == action {
                self.subject.clone()
            } else {
                String::new()
            }
        };
        let document: Document = facts(&input)?;
        let mut parts: Vec<&[u8]> = vec![b"mcp"];
        parts.extend(place);
        parts.extend([
            self.method.as_bytes(),
            self.subject.as_bytes(),
            canonical.as_bytes(),
        ]);
        parts.extend(said.map(|digest| digest.as_bytes().as_slice()));
        let method = if self.action == Action::McpAnswer {
            "answer"
        } else {
            &self.method
        };
        let text = shortened(format!("{method} {} {canonical}", self.subject));
        let mut actions = BTreeSet::from([self.action]);
        if self.method == "tasks/update" {
            // It answers what the server asked for a task.
            actions.insert(Action::McpAnswer);
        }
        Ok(Operation {
            actions,
            fingerprint: Fingerprint(Digest::of_fields(&parts)),
            facts: Facts::Mcp(McpFacts {
                method: self.method.clone(),
                tool: named(Action::McpToolCall),
                uri: named(Action::McpResourceRead),
                prompt: named(Action::McpPromptGet),
                input: document,
            }),
            text: plan.shown(&text),
            parameters: Vec::new(),
        })
    }
}

/// A text as records show it, before it is masked.
pub(super) fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// What a method does. The empty method is an answer to the server.
fn action(method: &str) -> Action {
    match method {
        "initialize" | "ping" | "logging/setLevel" | "server/discover" => Action::McpSession,
        "tools/list"
        | "resources/list"
        | "resources/templates/list"
        | "prompts/list"
        | "completion/complete" => Action::McpList,
        "tools/call" => Action::McpToolCall,
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Action::McpResourceRead,
        "prompts/get" => Action::McpPromptGet,
        "subscriptions/listen" => Action::McpListen,
        "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel" | "tasks/update" => Action::McpTask,
        "" => Action::McpAnswer,
        notification if notification.starts_with("notifications/") => Action::McpSession,
        _ => Action::McpOther,
    }
}

fn text(params: &mut Map<String, Value>, name: &'static str) -> Result<String, CallError> {
    match params.remove(name) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(CallError::Lacks(name)),
    }
}

/// The arguments; what a server is told beside them is kept under names that no argument has.
fn arguments(params: &mut Map<String, Value>) -> Result<Map<String, Value>, CallError> {
    let mut arguments = match params.remove("arguments") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(CallError::Arguments),
    };
    let beside = without_neutral(std::mem::take(params));
    if !beside.is_empty() {
        arguments.insert(String::new(), Value::Object(beside));
    }
    Ok(arguments)
}

/// Without what says nothing about the operation and differs when it is sent again.
fn without_neutral(mut params: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(meta)) = params.get_mut("_meta") {
        meta.retain(|name, _| {
            name != "progressToken"
                && !name.starts_with("io.modelcontextprotocol/")
                && !matches!(name.as_str(), "traceparent" | "tracestate" | "baggage")
        });
        if meta.is_empty() {
            params.remove("_meta");
        }
    }
    params
}
