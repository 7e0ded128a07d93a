//! Tasks in an exchange: a call that waits is answered with one, and what its client asks of a task of the agent's is
//! answered, or carried on with the call that it stands for.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::mask::MaskPlan;
use crate::model::{Action, Digest, MaskCounts, Operation, Refusal};
use crate::protocol::http::coded;
use crate::protocol::http::dialect::{Asked, Cut, Words, masked_json};
use crate::protocol::http::later::{Later, Told};
use crate::protocol::llm::event::Event;
use crate::session::Prospects;

use super::call::Call;
use super::headers::agree;
use super::message::Message;
use super::offers::Sifted;
use super::refusal;
use super::server::{Exchange, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST};
use super::tasks::{EXTENSION, Gone, Original, Step, Turn, is_ours};

/// What an exchange has to do with tasks.
#[derive(Debug, Default)]
pub(super) struct OfTasks {
    /// A call as it came, and who asks where, for a client that can be given a task for it.
    candidate: Option<(Arc<Original>, Digest)>,
    /// The right to go on with a task: the answer of the server is the task's.
    pub(super) turn: Option<Arc<Turn>>,
    /// The answer was there.
    answered: bool,
    /// The id of a task at the server, and that of the agent's that stands for it.
    renamed: Option<(String, String)>,
    pub(super) later: Option<Later>,
    pub(super) fields: Option<HeaderMap>,
}

impl OfTasks {
    /// Whether a call that waits is answered with a task.
    pub(super) const fn can(&self) -> bool {
        self.candidate.is_some()
    }

    /// Puts the agent's id in the place of the server's in a message; whether it did.
    pub(super) fn rename(&self, message: &mut Value) -> bool {
        let Some((theirs, ours)) = &self.renamed else {
            return false;
        };
        match message.pointer_mut("/result/taskId") {
            Some(id) if *id == theirs.as_str() => {
                *id = json!(ours);
                true
            }
            Some(_) | None => false,
        }
    }
}

/// The task that a call is about, where it is one of the agent's.
pub(super) fn ours(call: &Call) -> Option<&str> {
    call.task().filter(|id| is_ours(id))
}

impl Exchange {
    /// Keeps a call for a client that can be given a task for it.
    pub(super) fn may_become_a_task(&mut self, asked: &Asked<'_>, body: &[u8]) {
        let able = self.call.as_ref().is_some_and(|call| {
            let asks = call.action == Action::McpToolCall && call.id.is_some() && call.retry.is_none();
            asks && call.stateless && call.abilities.tasks
        });
        if !able || self.elsewhere {
            return;
        }
        let fields = asked
            .headers
            .iter()
            .filter(|(name, _value)| is_about_the_call(name));
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        self.tasks.candidate = Original::new(body, fields.collect())
            .zip(self.whose(asked))
            .map(|(original, whose)| (Arc::new(original), whose));
    }

    /// The answer to a call that waits, where its client has tasks and there is room for one.
    pub(super) fn task(&self, call: &Call, pending: &Refusal) -> Option<Words> {
        let (original, whose) = self.tasks.candidate.as_ref()?;
        let id = call.id.as_ref()?;
        let task = self.shared.tasks.open(*whose, original, pending)?;
        Some(refusal::task(id, pending, task))
    }

    /// Who asks, and where.
    fn whose(&self, asked: &Asked<'_>) -> Option<Digest> {
        let whose = self.prospects.as_ref().and_then(Prospects::whose)?;
        Some(Digest::of_fields(&[
            b"mcp task",
            whose.as_bytes(),
            asked.host.as_bytes(),
            asked.path.as_bytes(),
            asked.query.unwrap_or_default().as_bytes(),
        ]))
    }

    /// A request about a task of the agent's.
    pub(super) fn polled(
        &mut self,
        asked: &Asked<'_>,
        (call, body): (Call, &[u8]),
        plan: &MaskPlan,
    ) -> Result<Vec<Operation>, Refusal> {
        let id = call.task().unwrap_or_default().to_owned();
        let (method, rpc, able) = (call.method.clone(), call.id.clone(), call.abilities.tasks);
        let agreed = agree(asked.headers, &call);
        self.call = Some(call);
        agreed.map_err(|error| self.wrong(HEADER_MISMATCH, &error))?;
        let rpc = rpc.ok_or_else(|| self.wrong(INVALID_REQUEST, &"it has no id"))?;
        if !able {
            self.own = Some(refusal::no_tasks(Some(&rpc)));
            return Ok(Vec::new());
        }
        let whose = self.whose(asked).ok_or_else(|| self.gone(Gone))?;
        let tasks = Arc::clone(&self.shared.tasks);
        let step = match method.as_str() {
            "tasks/get" => tasks.asked(&id, &whose, &rpc),
            "tasks/cancel" | "tasks/update" => tasks
                .theirs(&id, &whose)
                .map(|theirs| theirs.map_or(Step::Told, Step::Theirs)),
            // What there was before the extension.
            _ => Err(Gone),
        };
        let told = match step.map_err(|gone| self.gone(gone))? {
            Step::Turn(turn, ticket, original) => {
                self.tasks.turn = Some(Arc::clone(&turn));
                let operation = self.goes_on(asked, &original, plan)?;
                self.tasks.later = Some(Later::Runs { ticket, shelf: turn });
                return Ok(vec![operation]);
            }
            Step::Theirs(theirs) => return self.stands_for(asked, body, (theirs, id), plan),
            Step::Told => match method.as_str() {
                "tasks/get" => tasks.told(&id, &rpc),
                "tasks/cancel" => {
                    let ticket = tasks.cancelled(&id, &whose);
                    let ticket = ticket.map_err(|gone| self.gone(gone))?;
                    let told = done(&rpc);
                    let Some(ticket) = ticket else {
                        self.tasks.later = Some(Later::Told(told));
                        return Ok(Vec::new());
                    };
                    self.tasks.later = Some(Later::Ends { ticket, told });
                    return Ok(Vec::new());
                }
                // Nobody asked for anything.
                _ => done(&rpc),
            },
        };
        self.tasks.later = Some(Later::Told(told));
        Ok(Vec::new())
    }

    fn gone(&mut self, gone: Gone) -> Refusal {
        self.malformed = Some(INVALID_PARAMS);
        gone.into()
    }

    /// The call that a task stands for: as it came, with what is the client's own from who asks now.
    pub(super) fn goes_on(
        &mut self,
        asked: &Asked<'_>,
        original: &Original,
        plan: &MaskPlan,
    ) -> Result<Operation, Refusal> {
        let mut fields = asked.headers.clone();
        let about: Vec<HeaderName> = fields
            .keys()
            .filter(|name| is_about_the_call(name))
            .cloned()
            .collect();
        for name in about {
            fields.remove(name);
        }
        for (name, value) in original.fields() {
            fields.append(name, value.clone());
        }
        let message = Message::parse(original.body()).map_err(|error| self.wrong(INVALID_REQUEST, &error))?;
        let call = Call::of(message).map_err(|error| self.wrong(INVALID_PARAMS, &error))?;
        let asked = Asked {
            headers: &fields,
            ..*asked
        };
        let operation = self.meaning(&asked, call, plan)?;
        self.body = Some(original.body().to_vec());
        self.tasks.fields = Some(fields);
        Ok(operation)
    }

    /// A request about a task that the server knows by another id.
    pub(super) fn stands_for(
        &mut self,
        asked: &Asked<'_>,
        body: &[u8],
        (theirs, ours): (String, String),
        plan: &MaskPlan,
    ) -> Result<Vec<Operation>, Refusal> {
        let mut message: Value =
            crate::json::parse(body).map_err(|error| self.wrong(INVALID_REQUEST, &error))?;
        if let Some(id) = message.pointer_mut("/params/taskId") {
            *id = json!(theirs);
        }
        let body = message.to_string().into_bytes();
        let mut fields = asked.headers.clone();
        if let Some(name) = fields.get_mut("mcp-name") {
            *name = coded_field(&theirs);
        }
        let message = Message::parse(&body).map_err(|error| self.wrong(INVALID_REQUEST, &error))?;
        let call = Call::of(message).map_err(|error| self.wrong(INVALID_PARAMS, &error))?;
        let asked = Asked {
            headers: &fields,
            ..*asked
        };
        let operation = self.meaning(&asked, call, plan)?;
        self.body = Some(body);
        self.tasks.fields = Some(fields);
        self.tasks.renamed = Some((theirs, ours));
        // What changes in it is looked for.
        self.sifts = true;
        Ok(vec![operation])
    }

    /// A piece of the answer that becomes a task's: nothing but the task. `None` where it is no task's.
    pub(super) fn kept(&mut self, piece: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Option<Vec<u8>> {
        let turn = Arc::clone(self.tasks.turn.as_ref()?);
        let events = self.cut == Cut::Events;
        let text = match events {
            true => Event::read(piece)
                .map(|event| event.data.clone())
                .unwrap_or_default(),
            false => piece.to_vec(),
        };
        let message = match self.sifted(&text) {
            Sifted::AsIs => crate::json::parse(&text).unwrap_or_default(),
            Sifted::Changed(message) => message,
            Sifted::Withheld | Sifted::Unreadable => Value::Null,
        };
        let id = self.call.as_ref().and_then(|call| call.id.as_ref());
        let is_the_answer = message.get("id") == id && message.get("method").is_none();
        // Progress and logs have nobody who hears them.
        if self.tasks.answered || (events && !is_the_answer) {
            return Some(Vec::new());
        }
        self.tasks.answered = true;
        let task = turn.answered(&message).to_string();
        let (decoded, unseen) = coded::masked(task.as_bytes(), plan, counts);
        self.unseen = self.unseen.saturating_add(unseen);
        Some(masked_json(&decoded, plan, counts))
    }
}

/// An empty acknowledgement.
fn done(rpc: &Value) -> Told {
    let answer = json!({"jsonrpc": "2.0", "id": rpc, "result": {"resultType": "complete"}});
    Told {
        before: answer.to_string().into_bytes(),
        kept: None,
        behind: Vec::new(),
    }
}

/// Fields that repeat what a call says (MCP 2026-07-28, "Streamable HTTP").
fn is_about_the_call(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "mcp-method" | "mcp-name") || name.starts_with("mcp-param-")
}

/// A text as a field: what cannot stand there as it is in base64.
fn coded_field(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.starts_with("=?");
    let coded = match plain {
        true => text.to_owned(),
        false => format!("=?base64?{}?=", STANDARD.encode(text)),
    };
    HeaderValue::try_from(coded).unwrap_or_else(|_never| HeaderValue::from_static(""))
}

impl Exchange {
    /// Says among what a server can (`server/discover`) that calls may be answered with tasks: its clients take none
    /// otherwise. Only to those that have them.
    pub(super) fn offers_tasks(&self, message: &mut Value) -> bool {
        let has = |call: &Call| call.method == "server/discover" && call.abilities.tasks;
        if !self.call.as_ref().is_some_and(has) {
            return false;
        }
        let Some(Value::Object(result)) = message.get_mut("result") else {
            return false;
        };
        let Some(Value::Object(can)) = result.get_mut("capabilities") else {
            return false;
        };
        let extensions = can.entry("extensions").or_insert_with(|| json!({}));
        let Some(extensions) = extensions.as_object_mut() else {
            return false;
        };
        extensions.insert(EXTENSION.to_owned(), json!({})).is_none()
    }
}
