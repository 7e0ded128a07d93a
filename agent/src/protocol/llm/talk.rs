//! What is said in a WebSocket of OpenAI's responses API (its guide to WebSocket mode, and the reference of its events): each
//! `response.create` is a prompt as over HTTP, `response.steer` one that goes on with a response of the same WebSocket. What
//! the provider says are the events of a stream; `lanes` tells whose each is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Map, Value};

use crate::json::{JsonError, parse};
use crate::mask::MaskPlan;
use crate::model::{Facts, LlmFacts, MaskCounts, Operation, OutcomeStatus, Refusal, RefusalKind};
use crate::protocol::http::conversation::{Conversation, Over, Question, Turn};
use crate::protocol::http::dialect::{Asked, Conceals, Dialect, masked_plain};

use super::ModelApi;
use super::answer::Answers;
use super::api::Exchange;
use super::endpoint::Api;
use super::lanes::{Lanes, Said};
use super::refusal;

/// Longest name of a stream, in bytes.
const LONGEST: usize = 256;

/// With what the provider works on a prompt: who steers it leaves that as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    model: String,
    tools: BTreeSet<String>,
    stored: bool,
}

impl Settings {
    fn of(operation: &Operation) -> Self {
        match &operation.facts {
            Facts::Llm(facts) => Self {
                model: facts.model.clone(),
                tools: facts.tools.clone(),
                stored: facts.stored,
            },
            Facts::Sql(_) | Facts::Connect(_) | Facts::Http(_) | Facts::Mcp(_) | Facts::Dns(_) => {
                Self::default()
            }
        }
    }

    pub(super) fn into_facts(self, facts: &mut LlmFacts) {
        let Self { model, tools, stored } = self;
        facts.model = model;
        facts.tools = tools;
        facts.stored = stored;
    }
}

/// What a message of the process is.
#[derive(Debug)]
enum Kind {
    Create,
    /// The response that it steers, and with what.
    Steer(String, Value),
    /// Nothing that is known.
    Unknown,
}

/// A message of the process that is neither refused nor over.
#[derive(Debug)]
struct Line {
    kind: Kind,
    /// The stream that it names.
    stream: Option<String>,
    /// The response that it goes on with.
    previous: Option<String>,
    /// Until it is asked about.
    members: Option<Result<Map<String, Value>, Wrong>>,
    exchange: Exchange,
    settings: Settings,
}

/// Why a message is not read.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("it is no object")]
    Shape,
    #[error("its type is neither response.create nor response.steer")]
    Type,
    #[error("its stream_id is no short text without data in it")]
    Stream,
    #[error("its members stand below \"response\", and the API has them beside the type")]
    Nested,
    #[error("a response in the background is not for WebSockets")]
    Background,
    #[error("a response is steered with its previous_response_id and input, and nothing else")]
    Steer,
    #[error("the response that it steers was not made in this WebSocket")]
    Stranger,
}

/// One WebSocket.
#[derive(Debug)]
pub(super) struct Talk {
    api: ModelApi,
    principal: String,
    host: String,
    path: String,
    /// What the handshake said to the provider.
    headers: HeaderMap,
    lines: BTreeMap<Turn, Line>,
    lanes: Lanes,
    /// The last message of the provider, read.
    heard: Option<Value>,
    over: Vec<Over>,
    /// For what answers nothing.
    nobodys: Answers,
}

impl Talk {
    pub(super) fn new(api: ModelApi, principal: &str, handshake: &Asked<'_>) -> Self {
        Self {
            api,
            principal: principal.to_owned(),
            host: handshake.host.to_owned(),
            path: handshake.path.to_owned(),
            headers: said_to_provider(handshake.headers),
            lines: BTreeMap::new(),
            lanes: Lanes::default(),
            heard: None,
            over: Vec::new(),
            nobodys: Answers::default(),
        }
    }

    fn reads(&mut self, turn: Turn, text: &Bytes, plan: &MaskPlan) -> Result<Question, Refusal> {
        let Some(line) = self.lines.get_mut(&turn) else {
            return Err(wrong(&Wrong::Type));
        };
        let members = line.members.take().unwrap_or(Err(Wrong::Type));
        let mut members = members.map_err(|error| wrong(&error))?;
        let goes_on = match &line.kind {
            Kind::Unknown => return Err(wrong(&Wrong::Type)),
            Kind::Create => {
                created(&members, line.stream.as_deref(), plan).map_err(|error| wrong(&error))?;
                // What only the WebSocket has.
                members.remove("type");
                members.remove("stream_id");
                None
            }
            Kind::Steer(previous, _) => {
                let known = ["type", "previous_response_id", "input"];
                if members.keys().any(|name| !known.contains(&name.as_str())) {
                    return Err(wrong(&Wrong::Steer));
                }
                let made = self.lanes.made(previous);
                Some(made.ok_or_else(|| wrong(&Wrong::Stranger))?)
            }
        };
        let asked = Asked {
            method: &Method::POST,
            host: &self.host,
            path: &self.path,
            query: None,
            headers: &self.headers,
        };
        let exchange = &mut line.exchange;
        let operation = exchange.prompt(
            (Api::Responses, &asked),
            members,
            text.clone(),
            plan,
            goes_on.as_ref(),
        )?;
        line.settings = Settings::of(&operation);
        let obliged = exchange.obliged().ok_or_else(|| wrong(&Wrong::Type))?;
        Ok(Question { operation, obliged })
    }

    /// A turn is over: what its record says.
    fn ends(&mut self, turn: Turn, status: OutcomeStatus, mut detail: String) {
        let Some(line) = self.lines.remove(&turn) else {
            return;
        };
        let note = line.exchange.note();
        if !note.is_empty() {
            detail.push_str("; ");
            detail.push_str(&note);
        }
        self.over.push(Over { turn, status, detail });
    }
}

/// What the API does not have in a WebSocket, or where nobody would look.
fn created(members: &Map<String, Value>, stream: Option<&str>, plan: &MaskPlan) -> Result<(), Wrong> {
    match (members.get("stream_id"), stream) {
        (None | Some(Value::Null), _) => {}
        (Some(Value::String(_)), Some(stream)) => {
            let mut counts = MaskCounts::default();
            masked_plain(stream.as_bytes(), plan, &mut counts);
            // It comes back in every event, and must be the same there.
            if stream.len() > LONGEST || counts.total() > 0 || !plan.patterns_in(stream.as_bytes()).is_empty()
            {
                return Err(Wrong::Stream);
            }
        }
        (Some(_), _) => return Err(Wrong::Stream),
    }
    if members.get("response").is_some_and(|value| !value.is_null()) {
        return Err(Wrong::Nested);
    }
    match members.get("background") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(_) => Err(Wrong::Background),
    }
}

/// The fields that change what the provider does.
fn said_to_provider(headers: &HeaderMap) -> HeaderMap {
    let fields = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("openai-"));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn wrong(why: &Wrong) -> Refusal {
    Refusal::new(
        RefusalKind::NotUnderstood,
        format!("Interdict does not carry this message: {why}."),
        "Send events as the provider's API has them in a WebSocket.",
    )
}

fn text_of(members: &Map<String, Value>, name: &str) -> Option<String> {
    members.get(name).and_then(Value::as_str).map(str::to_owned)
}

impl Conversation for Talk {
    fn received(&mut self, turn: Turn, text: &[u8]) -> String {
        let members = match parse(text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                Err(Wrong::Shape)
            }
            Err(error) => Err(Wrong::Json(error)),
        };
        let nothing = Map::new();
        let read = members.as_ref().unwrap_or(&nothing);
        let (stream, previous) = (text_of(read, "stream_id"), text_of(read, "previous_response_id"));
        let (kind, lane) = match text_of(read, "type").as_deref() {
            Some("response.create") => (
                Kind::Create,
                stream
                    .as_ref()
                    .map_or_else(String::new, |stream| format!("stream {stream}")),
            ),
            Some("response.steer") => {
                let input = read.get("input").cloned().unwrap_or_default();
                (
                    Kind::Steer(previous.clone().unwrap_or_default(), input),
                    "steer".to_owned(),
                )
            }
            Some(_) | None => (Kind::Unknown, "unknown".to_owned()),
        };
        let mut exchange = Exchange::new(self.api.clone());
        exchange.asks(&self.principal);
        let line = Line {
            kind,
            stream,
            previous,
            members: Some(members),
            exchange,
            settings: Settings::default(),
        };
        self.lines.insert(turn, line);
        lane
    }

    fn asked(&mut self, turn: Turn, text: &Bytes, plan: &MaskPlan) -> Result<Question, Refusal> {
        self.reads(turn, text, plan)
    }

    fn refused(&mut self, turn: Turn, refusal: &Refusal) -> Vec<u8> {
        let line = self.lines.remove(&turn);
        match line.as_ref().map(|line| (&line.kind, line.stream.as_deref())) {
            Some((Kind::Steer(previous, input), _)) => refusal::not_steered(previous, input, refusal),
            Some((Kind::Create | Kind::Unknown, stream)) => {
                refusal::message(stream.filter(|stream| stream.len() <= LONGEST), refusal)
            }
            None => refusal::message(None, refusal),
        }
    }

    fn sent(&mut self, turn: Turn) {
        let Some(line) = self.lines.get_mut(&turn) else {
            return;
        };
        let (settings, previous) = (line.settings.clone(), line.previous.clone());
        match &line.kind {
            Kind::Steer(of, _) => self.lanes.steers(turn, of.clone(), settings),
            Kind::Create | Kind::Unknown => {
                self.lanes.asks(turn, line.stream.clone(), previous, settings);
            }
        }
    }

    fn whose(&mut self, text: &[u8]) -> Result<Option<Turn>, &'static str> {
        let value = parse(text).map_err(|_ambiguous| "an event could be read in two ways, or not at all")?;
        if !value.is_object() {
            return Err("a message is no event");
        }
        let turn = self.lanes.whose(&value);
        self.heard = Some(value);
        Ok(turn)
    }

    fn shown(
        &mut self,
        turn: Option<Turn>,
        text: &[u8],
        plan: &MaskPlan,
        counts: &mut MaskCounts,
    ) -> Result<Vec<Vec<u8>>, &'static str> {
        let heard = self.heard.take();
        let value = match heard {
            Some(value) => value,
            None => parse(text).map_err(|_ambiguous| "an event could be read in two ways")?,
        };
        let said = Said::of(&value);
        let line = turn.and_then(|turn| self.lines.get_mut(&turn));
        let out = match line {
            Some(line) => {
                if said.refused {
                    line.exchange.fails();
                }
                line.exchange.message(value, plan, counts)
            }
            None => self.nobodys.message(value, plan, counts),
        };
        for turn in self.lanes.along() {
            self.ends(
                turn,
                OutcomeStatus::Completed,
                "went on with another message".into(),
            );
        }
        if let (Some(turn), Some((status, detail))) = (turn, said.ends) {
            self.lanes.over(turn);
            self.ends(turn, status, detail);
        }
        Ok(out)
    }

    fn over(&mut self) -> Vec<Over> {
        std::mem::take(&mut self.over)
    }

    fn left(&mut self, turn: Turn, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<Vec<u8>> {
        let line = self.lines.get_mut(&turn);
        line.map(|line| line.exchange.left(plan, counts))
            .unwrap_or_default()
    }

    fn abandoned(&mut self, turn: Turn) -> String {
        let line = self.lines.remove(&turn);
        line.map(|line| line.exchange.note()).unwrap_or_default()
    }

    fn conceals(&self, turn: Turn) -> Option<Conceals> {
        self.lines.get(&turn)?.exchange.conceals()
    }
}
