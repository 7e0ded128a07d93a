//! A target that speaks MCP, as the HTTP relay asks about it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Notify;

use crate::mask::MaskPlan;
use crate::model::{
    Action, Digest, Document, Facts, Fingerprint, MaskCounts, McpFacts, Operation, Refusal, RefusalKind,
};
use crate::protocol::http::coded;
use crate::protocol::http::dialect::{Asked, Cut, Dialect, Held, Speaks, Words, masked_event, masked_json};
use crate::protocol::http::later::Later;
use crate::protocol::llm::event::Event;
use crate::session::Prospects;

use super::call::Call;
use super::client::{Abilities, Clients, Question, is_no};
use super::headers::agree;
use super::ladder::{Asking, LONGEST, ROUND, ROUNDS, aloud, asking, elicitation};
use super::look::Look;
use super::message::{Message, MessageError};
use super::offers::{Sifted, has_offers, sift};
use super::pins::Pins;
use super::polled::{OfTasks, ours};
use super::refusal;
use super::state::{self, StateError};
use super::tasks::Tasks;

/// JSON-RPC: what came is not JSON.
const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: what came is no request.
pub(super) const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC: the parameters are wrong.
pub(super) const INVALID_PARAMS: i64 = -32602;
/// MCP 2026-07-28: fields and body disagree.
pub(super) const HEADER_MISMATCH: i64 = -32020;

/// Names a session (MCP up to 2025-11-25).
const SESSION: &str = "mcp-session-id";

/// In the place of a question that the client may not be asked, and of a notification that is not for it.
const NOT_PASSED_ON: &[u8] = b": Interdict did not pass on what the server sent\n\n";

/// A server that speaks MCP.
#[derive(Debug, Default)]
pub struct McpServer {
    shared: Arc<Shared>,
}

/// What all exchanges with a server share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Signs what clients bring back; without it they are not asked.
    key: Option<hmac::Key>,
    /// Where people approve.
    link: Option<String>,
    /// Tools as they were accepted.
    pub(super) pins: Option<Pins>,
    pub(super) clients: Clients,
    /// Calls that wait as tasks.
    pub(super) tasks: Arc<Tasks>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            key: state::key(),
            link: None,
            pins: None,
            clients: Clients::default(),
            tasks: Arc::default(),
        }
    }
}

impl McpServer {
    /// A server with tools as they were accepted, whose clients may be shown where people approve: a link with
    /// `{ticket}` in it. The default remembers no tools.
    #[must_use]
    pub fn new(link: Option<String>, pins: Pins) -> Self {
        let shared = Shared {
            link,
            pins: Some(pins),
            ..Shared::default()
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl McpServer {
    /// For one request and its answer.
    pub(super) fn one(&self) -> Exchange {
        Exchange {
            shared: Arc::clone(&self.shared),
            abilities: Abilities::default(),
            bound: None,
            round: 0,
            events: false,
            stop: Arc::new(Notify::new()),
            question: None,
            own: None,
            body: None,
            call: None,
            malformed: None,
            cut: Cut::Http,
            unseen: 0,
            prospects: None,
            sifts: false,
            left_out: 0,
            held_back: BTreeSet::new(),
            flagged: BTreeSet::new(),
            path: String::new(),
            session: String::new(),
            elsewhere: false,
            not_asked: BTreeSet::new(),
            unheard: 0,
            plain: None,
            tasks: OfTasks::default(),
        }
    }
}

impl Speaks for McpServer {
    fn exchange(&self) -> Box<dyn Dialect> {
        Box::new(self.one())
    }
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) call: Option<Call>,
    /// What the client can be asked.
    abilities: Abilities,
    /// Who asks for what; `None` where nobody can be asked about it.
    bound: Option<Digest>,
    /// How often the client was asked about it.
    round: u8,
    /// Whether the client takes an answer in events.
    events: bool,
    /// Somebody does not want to wait.
    stop: Arc<Notify>,
    /// The question that is open.
    question: Option<Question>,
    pub(super) own: Option<Words>,
    pub(super) body: Option<Vec<u8>>,
    /// How the answer is cut.
    pub(super) cut: Cut,
    /// Contents of the answer that no detector reads.
    pub(super) unseen: u64,
    /// What policies say about offers.
    pub(super) prospects: Option<Prospects>,
    /// Whether the answer can have lists of offers.
    pub(super) sifts: bool,
    /// Offers that are not shown.
    pub(super) left_out: u64,
    /// Tools that are not shown because nobody accepted what they say.
    pub(super) held_back: BTreeSet<String>,
    /// Tools that are shown although they changed.
    pub(super) flagged: BTreeSet<String>,
    /// Where the server is.
    pub(super) path: String,
    /// Its session; empty without one.
    pub(super) session: String,
    /// Whether the answer goes over another stream (the transport of 2024-11-05).
    pub(super) elsewhere: bool,
    /// What the server asked the client for, and may not.
    pub(super) not_asked: BTreeSet<String>,
    /// Notifications about resources that are not passed on.
    pub(super) unheard: u64,
    /// Masks what records show of the server's questions.
    plain: Option<MaskPlan>,
    /// What it has to do with tasks.
    pub(super) tasks: OfTasks,
    /// The code for a refusal that the body itself is the reason of.
    pub(super) malformed: Option<i64>,
}

impl Exchange {
    pub(super) fn wrong(&mut self, code: i64, why: &dyn std::fmt::Display) -> Refusal {
        self.malformed = Some(code);
        Refusal::new(
            RefusalKind::NotUnderstood,
            format!("Interdict does not carry this message: {why}."),
            "Send one JSON-RPC 2.0 message as MCP has it.",
        )
    }
}

impl Exchange {
    /// What a call means; refused where its tool does not say what was accepted.
    pub(super) fn meaning(
        &mut self,
        asked: &Asked<'_>,
        call: Call,
        plan: &MaskPlan,
    ) -> Result<Operation, Refusal> {
        let place: [&[u8]; 3] = [
            asked.host.as_bytes(),
            asked.path.as_bytes(),
            asked.query.unwrap_or_default().as_bytes(),
        ];
        self.elsewhere = self.shared.clients.is_endpoint(asked.path, asked.query);
        asked.path.clone_into(&mut self.path);
        let said = match &self.shared.pins {
            Some(pins) if call.action == Action::McpToolCall => pins.called(asked.path, &call.subject),
            Some(_) | None => Ok(None),
        };
        let observes = self.prospects.as_ref().is_some_and(Prospects::observes);
        let (said, not_accepted) = match said {
            Ok(said) => (said, None),
            Err(refusal) => (None, Some(refusal).filter(|_| !observes)),
        };
        let operation = call.operation(&place, said.as_ref(), plan);
        let agreed = agree(asked.headers, &call);
        self.sifts = has_offers(&call.method);
        self.call = Some(call);
        agreed.map_err(|error| self.wrong(HEADER_MISMATCH, &error))?;
        let operation = operation.map_err(|error| self.wrong(INVALID_PARAMS, &error))?;
        not_accepted.map_or(Ok(operation), Err)
    }

    /// A message of the server without offers that are not for this session, and without questions that are not for
    /// this client.
    pub(super) fn sifted(&mut self, text: &[u8]) -> Sifted {
        // Metadata of its authorization is no message.
        let is_mcp = self.call.is_some() || self.sifts;
        let Some(prospects) = self.prospects.clone().filter(|_| is_mcp) else {
            return Sifted::AsIs;
        };
        let (lists, plan) = (self.sifts, self.plain.clone());
        let mut look = Look {
            exchange: self,
            prospects,
            plan,
        };
        sift(text, lists, &mut look)
    }

    /// In the place of an answer that cannot be read.
    fn unreadable(&self) -> Vec<u8> {
        let id = self.call.as_ref().and_then(|call| call.id.as_ref());
        refusal::withheld(id).to_string().into_bytes()
    }

    fn sifted_whole(&mut self, answer: &[u8]) -> Option<Vec<u8>> {
        match self.sifted(answer) {
            Sifted::AsIs => None,
            Sifted::Changed(message) => Some(message.to_string().into_bytes()),
            // A request stands in no place of an answer.
            Sifted::Withheld | Sifted::Unreadable => Some(self.unreadable()),
        }
    }

    fn sifted_event(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        // At the beginning of a stream clients skip it (HTML standard, 9.2.5).
        let bare = raw.strip_prefix(b"\xef\xbb\xbf");
        let event = Event::read(bare.unwrap_or(raw))?;
        if self.call.is_none() && event.other.starts_with(b"event: endpoint") {
            self.shared
                .clients
                .sends_to(&String::from_utf8_lossy(&event.data));
            return None;
        }
        let json = event.data.trim_ascii_start().starts_with(b"{")
            || event.data.trim_ascii_start().starts_with(b"[");
        let message = match self.sifted(&event.data) {
            Sifted::AsIs => return bare.map(<[u8]>::to_vec),
            Sifted::Changed(message) => message.to_string().into_bytes(),
            Sifted::Withheld => return Some(NOT_PASSED_ON.to_vec()),
            Sifted::Unreadable if json => self.unreadable(),
            // A priming event, a ping: nobody takes it for a message.
            Sifted::Unreadable => return bare.map(<[u8]>::to_vec),
        };
        Some(event.with(&event.other, &message))
    }
}

impl Dialect for Exchange {
    fn foresee(&mut self, prospects: Prospects) {
        self.prospects = Some(prospects);
    }

    fn request(
        &mut self,
        asked: &Asked<'_>,
        body: &[u8],
        plan: &MaskPlan,
    ) -> Result<Vec<Operation>, Refusal> {
        let place: [&[u8]; 3] = [
            asked.host.as_bytes(),
            asked.path.as_bytes(),
            asked.query.unwrap_or_default().as_bytes(),
        ];
        self.plain = Some(plan.clone());
        text(asked.headers, SESSION)
            .unwrap_or_default()
            .clone_into(&mut self.session);
        if asked.method == Method::GET && accepts_events(asked.headers) {
            // A stream that goes on where it broke off may carry any answer.
            self.sifts = true;
            asked.path.clone_into(&mut self.path);
            return Ok(vec![bare(Action::McpListen, "listen", &place)]);
        }
        if asked.method == Method::DELETE
            && let Some(session) = text(asked.headers, SESSION)
        {
            self.shared.clients.forget(session);
            return Ok(vec![bare(Action::McpSession, "end the session", &place)]);
        }
        if asked.method != Method::POST || is_form(asked.headers) {
            // Not MCP: metadata of its authorization, a health check.
            return Ok(Vec::new());
        }
        if asked.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(self.wrong(INVALID_REQUEST, &"its body is compressed"));
        }
        let message = Message::parse(body).map_err(|error| {
            let code = match &error {
                MessageError::Json(_) => PARSE_ERROR,
                MessageError::Batch | MessageError::Shape(_) => INVALID_REQUEST,
            };
            self.wrong(code, &error)
        })?;
        let mut answers = None;
        if let Message::Answer { id, content } = &message {
            if self.shared.clients.answered(id, content) {
                self.own = Some(refusal::accepted());
                return Ok(Vec::new());
            }
            answers = Some(self.shared.clients.answers(&self.session, id));
        }
        let mut call = Call::of(message).map_err(|error| self.wrong(INVALID_PARAMS, &error))?;
        if let Some(method) = answers {
            call.method = method;
        }
        if ours(&call).is_some() {
            return self.polled(asked, (call, body), plan);
        }
        let operation = self.meaning(asked, call, plan)?;
        self.events = accepts_events(asked.headers);
        self.meet(asked.headers, &operation)?;
        self.may_become_a_task(asked, body);
        Ok(vec![operation])
    }

    fn own(&mut self) -> Option<Words> {
        self.own.take()
    }

    fn body(&mut self) -> Option<Vec<u8>> {
        self.body.take()
    }

    fn later(&mut self) -> Option<Later> {
        self.tasks.later.take()
    }

    fn fields(&mut self) -> Option<HeaderMap> {
        self.tasks.fields.take()
    }

    fn held(&mut self, pending: &Refusal, usual: Duration) -> Held {
        let silent = |patience| Held {
            patience,
            aloud: None,
        };
        if self.tasks.can() || self.tasks.turn.is_some() {
            // It waits as a task.
            return silent(Duration::ZERO);
        }
        let Some((call, id)) = self.call.as_ref().and_then(|call| Some((call, call.id.clone()?))) else {
            return silent(usual);
        };
        let progress = call.progress.clone();
        let asking = self.asking(pending);
        let patience = match &asking {
            // It is asked first, and waits with its next try.
            Some(_) if call.stateless && self.round == 0 => return silent(Duration::ZERO),
            Some(_) if call.stateless => usual.min(ROUND),
            Some(_) | None if progress.is_some() => usual,
            Some(_) | None => usual.min(LONGEST),
        };
        if !self.events || self.elsewhere {
            return silent(patience);
        }
        let question = asking.filter(|_| !call.stateless).and_then(|asking| {
            let question = self.shared.clients.ask(&self.stop)?;
            let params = elicitation(&asking, pending, Some(&question.0));
            let asked = json!({
                "jsonrpc": "2.0", "id": question.0, "method": "elicitation/create", "params": params,
            });
            self.question = Some(question);
            Some(asked)
        });
        let aloud = aloud(pending, progress, question, &id);
        Held {
            patience,
            aloud: Some(aloud),
        }
    }

    fn stop(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(&self.stop))
    }

    fn response(&mut self, _status: StatusCode, headers: &HeaderMap) -> Cut {
        let call = self.call.as_ref();
        if let Some(call) = call.filter(|call| call.method == "initialize")
            && let Some(session) = text(headers, SESSION)
        {
            self.shared.clients.remember(session, call.abilities);
        }
        let kind = media_type(headers);
        self.cut = match kind.as_str() {
            "text/event-stream" => Cut::Events,
            "application/json" => Cut::Whole,
            // Not MCP: metadata, pages, errors of what is in between.
            _ if self.tasks.turn.is_none() => Cut::Http,
            _ => Cut::Whole,
        };
        self.cut
    }

    fn response_event(&mut self, event: &[u8], plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        if let Some(task) = self.kept(event, plan, counts) {
            return task;
        }
        let sifted = match self.cut {
            Cut::Whole => self.sifted_whole(event),
            Cut::Events => self.sifted_event(event),
            Cut::Http => None,
        };
        let (decoded, unseen) = coded::masked(sifted.as_deref().unwrap_or(event), plan, counts);
        self.unseen = self.unseen.saturating_add(unseen);
        match self.cut {
            Cut::Whole => masked_json(&decoded, plan, counts),
            Cut::Events | Cut::Http => masked_event(&decoded, plan, counts),
        }
    }

    fn refusal(&self, refusal: &Refusal) -> Option<Words> {
        let words = self.words(refusal)?;
        // There, what answers a message is not read unless it says that the message was not taken.
        let status = if self.elsewhere {
            StatusCode::FORBIDDEN
        } else {
            words.status
        };
        Some(Words { status, ..words })
    }

    fn note(&self) -> String {
        self.notes()
    }
}

impl Exchange {
    fn words(&self, refusal: &Refusal) -> Option<Words> {
        if let Some(turn) = &self.tasks.turn {
            return Some(turn.refusal_words(refusal));
        }
        match (self.malformed, &self.call) {
            (Some(code), call) => {
                let id = call.as_ref().and_then(|call| call.id.as_ref());
                Some(refusal::malformed(id, code, refusal))
            }
            (None, Some(call)) => self
                .task(call, refusal)
                .or_else(|| self.question(call, refusal))
                .or_else(|| refusal::words(call, refusal)),
            (None, None) => None,
        }
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        if self.left_out > 0 {
            notes.push(format!(
                "{} offers left out that no policy could permit",
                self.left_out
            ));
        }
        let named = |names: &BTreeSet<String>| {
            let shown: Vec<String> = names.iter().take(8).map(|name| format!("{name:.40?}")).collect();
            format!("{} ({})", names.len(), shown.join(", "))
        };
        if !self.held_back.is_empty() {
            notes.push(format!(
                "{} tools left out that nobody accepted",
                named(&self.held_back)
            ));
        }
        if !self.flagged.is_empty() {
            notes.push(format!(
                "{} tools changed since they were accepted",
                named(&self.flagged)
            ));
        }
        if !self.not_asked.is_empty() {
            notes.push(format!(
                "questions of the server not passed on: {}",
                named(&self.not_asked)
            ));
        }
        if self.unheard > 0 {
            notes.push(format!(
                "{} notifications about resources left out that no policy could permit",
                self.unheard
            ));
        }
        if self.unseen > 0 {
            notes.push(format!("{} binary contents not looked into", self.unseen));
        }
        notes.join("; ")
    }
}

impl Exchange {
    /// What the client can be asked, and what it answered already.
    fn meet(&mut self, headers: &HeaderMap, operation: &Operation) -> Result<(), Refusal> {
        let Some(call) = &self.call else { return Ok(()) };
        self.abilities = if call.stateless {
            call.abilities
        } else {
            self.shared.clients.of(text(headers, SESSION))
        };
        let can_be_asked = matches!(
            call.action,
            Action::McpToolCall | Action::McpPromptGet | Action::McpResourceRead
        );
        // A question of the server was answered: its state and ours do not fit into one.
        let between = call.input.contains_key("requestState")
            || call
                .input
                .get("")
                .is_some_and(|beside| beside.get("requestState").is_some());
        let whose = self.prospects.as_ref().and_then(Prospects::whose);
        self.bound = whose.filter(|_| can_be_asked && !between).map(|whose| {
            let fingerprint = operation.fingerprint.0;
            Digest::of_fields(&[b"mcp request", whose.as_bytes(), fingerprint.as_bytes()])
        });
        let Some(retry) = &call.retry else { return Ok(()) };
        let opened = match (&self.shared.key, &self.bound) {
            (Some(key), Some(bound)) => state::open(key, &retry.state, bound, crate::clock::now()),
            (None, _) | (_, None) => Err(StateError::Foreign),
        };
        let (no, body) = (is_no(&retry.answer), retry.body.clone());
        self.round = opened.map_err(|error| self.wrong(INVALID_PARAMS, &error))?;
        if no {
            // Not asked again: the answer is a text.
            self.bound = None;
            return Err(Refusal::new(
                RefusalKind::Cancelled,
                "Whoever was asked does not want to wait for approval.",
                "The request stays open: once it is approved, the identical call goes through.",
            ));
        }
        self.body = Some(body);
        Ok(())
    }

    /// How the client is asked about a call that waits.
    fn asking(&self, refusal: &Refusal) -> Option<Asking> {
        let RefusalKind::PendingApproval { ticket, .. } = &refusal.kind else {
            return None;
        };
        let asks = self.bound.is_some() && self.shared.key.is_some() && self.round < ROUNDS;
        asks.then(|| asking(self.abilities, self.shared.link.as_deref(), ticket))?
    }

    /// The question in place of a refusal, for a client that tries again with the answer.
    fn question(&self, call: &Call, refusal: &Refusal) -> Option<Words> {
        let asking = self.asking(refusal).filter(|_| call.stateless)?;
        let (key, bound) = (self.shared.key.as_ref()?, self.bound.as_ref()?);
        let round = self.round.saturating_add(1);
        let state = state::seal(key, round, bound, crate::clock::now());
        let params = elicitation(&asking, refusal, None);
        Some(refusal::asks(call.id.as_ref()?, refusal, &params, &state))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(question) = &self.question {
            self.shared.clients.withdraw(question);
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An operation without a message.
fn bare(action: Action, text: &str, place: &[&[u8]]) -> Operation {
    let mut parts: Vec<&[u8]> = vec![b"mcp", text.as_bytes()];
    parts.extend(place);
    Operation {
        actions: [action].into(),
        facts: Facts::Mcp(McpFacts {
            method: String::new(),
            tool: String::new(),
            uri: String::new(),
            prompt: String::new(),
            input: Document::default(),
        }),
        text: text.to_owned(),
        fingerprint: Fingerprint(Digest::of_fields(&parts)),
        parameters: Vec::new(),
    }
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok());
    accepted.any(|value| value.to_ascii_lowercase().contains("text/event-stream"))
}

fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/x-www-form-urlencoded"
}

/// The media type of a body, lower case, without parameters.
fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}
