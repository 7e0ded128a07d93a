//! Spans of distributed traces, made from the events that become records: what is traced agrees with the log, and says nothing
//! that a record does not say.
//!
//! A span's ids are the halves of the ids of its operation or session, so that whoever holds a record finds its span and the other
//! way round. An operation stands in the trace that its process named, or begins one; the span of its session is linked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::model::{
    Facts, HttpFacts, LlmFacts, McpFacts, Operation, OperationId, Outcome, OutcomeStatus, PolicyId,
    RecordingLevel, SpanId, SqlFacts, Timestamp, TraceContext, TraceId,
};

use super::event::{Event, JudgedAs, OperationEvent, Scene};

/// Spans that wait for whoever sends them.
const WAITING: usize = 4096;
/// Operations that have begun and not ended: as many as the log can owe outcomes.
const MOST_BEGUN: usize = 8192;

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanValue {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// Several texts.
    Texts(Vec<String>),
}

/// An attribute: its name in the semantic conventions of OpenTelemetry, or `interdict.…`.
pub type Attribute = (String, SpanValue);

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub id: SpanId,
    /// Who called, where the process said so.
    pub parent: Option<TraceContext>,
    /// The session, where this is no session itself.
    pub session: Option<(TraceId, SpanId)>,
    /// What was done, in few words, such as `GET` or `SELECT customers`.
    pub name: String,
    /// Whether it is a call to a target.
    pub is_call: bool,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
    /// When it began to wait for consent.
    pub held: Option<Timestamp>,
    /// Why it did not succeed, as `error.type` says it; `None` where it did.
    pub error: Option<String>,
}

/// Makes spans, and gives them to whoever sends them.
#[derive(Debug)]
pub(super) struct Spans {
    percent: u8,
    queue: mpsc::Sender<Span>,
    begun: Mutex<BTreeMap<OperationId, Span>>,
}

impl Spans {
    /// Keeps so many of a hundred sessions, and whatever stands in a trace that its beginner keeps.
    pub(super) fn new(percent: u8) -> (Self, mpsc::Receiver<Span>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let spans = Self {
            percent,
            queue,
            begun: Mutex::default(),
        };
        (spans, waiting)
    }

    /// What a target is told where the process names a trace: that this operation's span calls. `None`: the process's words
    /// stay, because no span is made.
    pub(super) fn continues(&self, id: OperationId, asked: TraceContext) -> Option<TraceContext> {
        asked.is_sampled().then(|| asked.through(id.span()))
    }

    /// Makes what spans there are to make of `event`; returns how many had to be dropped. Never waits.
    pub(super) fn event(&self, event: &Event, workload: &str) -> u64 {
        match event {
            Event::Operation { scene, event } => self.operation(scene, event, workload),
            Event::OperationEnded { id, outcome, .. } => {
                let begun = self.begun().remove(id);
                begun.map_or(0, |span| self.give(ended(span, outcome)))
            }
            Event::SessionClosed { scene, outcome } if self.keeps(scene) => {
                self.give(session(scene, outcome, workload))
            }
            Event::SessionClosed { .. }
            | Event::AgentStarted { .. }
            | Event::AgentStopped { .. }
            | Event::Reloaded { .. }
            | Event::ReloadRefused { .. }
            | Event::RunStarted { .. }
            | Event::RunEnded { .. }
            | Event::WorkloadGoverned { .. }
            | Event::WorkloadReleased { .. }
            | Event::IdentityBound { .. }
            | Event::IdentityEnded { .. }
            | Event::SessionOpened { .. }
            | Event::Content { .. }
            | Event::ConnectionRefused { .. }
            | Event::KernelDenied { .. }
            | Event::ToolAccepted { .. }
            | Event::Uninstalled { .. }
            | Event::Approval { .. } => 0,
        }
    }

    fn operation(&self, scene: &Scene, event: &OperationEvent, workload: &str) -> u64 {
        let kept = match event.trace {
            Some(asked) => asked.is_sampled(),
            None => self.keeps(scene),
        };
        if !kept {
            return 0;
        }
        let now = crate::clock::now();
        let mut begun = self.begun();
        let earlier = begun.remove(&event.id);
        let mut span = begin(scene, event, workload, now);
        if let Some(earlier) = earlier {
            (span.start, span.held) = (earlier.start, earlier.held);
        }
        match &event.judged {
            JudgedAs::Allowed { .. } | JudgedAs::Observed { .. } => {}
            JudgedAs::Held { .. } => span.held = Some(now),
            JudgedAs::Refused { kind, .. } => {
                drop(begun);
                span.error = Some((*kind).to_owned());
                return self.give(span);
            }
        }
        begun.insert(event.id, span);
        // Who was held and went away has no end: the oldest goes.
        let crowded = begun.len() > MOST_BEGUN && begun.pop_first().is_some();
        u64::from(crowded)
    }

    fn keeps(&self, scene: &Scene) -> bool {
        scene.session.trace().is_among(self.percent)
    }

    /// How many were dropped.
    fn give(&self, span: Span) -> u64 {
        u64::from(self.queue.try_send(span).is_err())
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<OperationId, Span>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span of an operation as it is judged; its end is that of a refusal.
fn begin(scene: &Scene, event: &OperationEvent, workload: &str, now: Timestamp) -> Span {
    let OperationEvent {
        id,
        operation,
        judged,
        bundle: _,
        recording,
        degraded: _,
        trace,
    } = event;
    let mut said = Said(about(scene, workload));
    said.text("interdict.operation.id", id);
    let mut name = scene.target.name.to_string();
    if let Some(operation) = operation {
        name = said.operation(operation, *recording);
    }
    let (verdict, policies): (_, &[PolicyId]) = match judged {
        JudgedAs::Allowed { policies, .. } => ("allowed", policies),
        JudgedAs::Observed { policies, .. } => ("observed", policies),
        JudgedAs::Held { policies, .. } => ("held", policies),
        JudgedAs::Refused { policies, .. } => ("refused", policies),
    };
    said.text("interdict.verdict", verdict);
    said.texts(
        "interdict.policy.ids",
        policies.iter().map(|id| id.as_str().to_owned()),
    );
    let ticket = match judged {
        JudgedAs::Allowed { ticket, .. } | JudgedAs::Refused { ticket, .. } => ticket.as_ref(),
        JudgedAs::Held { ticket, .. } => Some(ticket),
        JudgedAs::Observed { .. } => None,
    };
    if let Some(ticket) = ticket {
        said.text("interdict.approval.ticket", ticket);
    }
    Span {
        trace: trace.map_or_else(|| id.trace(), |asked| asked.trace),
        id: id.span(),
        parent: *trace,
        session: Some((scene.session.trace(), scene.session.span())),
        name,
        is_call: true,
        start: now,
        end: now,
        attributes: said.0,
        held: None,
        error: None,
    }
}

fn ended(mut span: Span, outcome: &Outcome) -> Span {
    let Outcome {
        status,
        detail,
        rows,
        bytes_up,
        bytes_down,
        took,
        masked,
    } = outcome;
    span.end = crate::clock::now();
    // From the first judgement, the wait for consent included.
    let took = i64::try_from(took.as_nanos()).unwrap_or_default();
    span.start = Timestamp::from_nanos(span.end.as_nanos().saturating_sub(took)).min(span.start);
    let mut said = Said(span.attributes);
    said.text("interdict.outcome", status.name());
    let code = detail.get(..3).and_then(|code| code.parse::<u16>().ok());
    let http = said.has("http.request.method");
    if let Some(code) = code.filter(|code| http && (100..600).contains(code)) {
        said.number("http.response.status_code", u64::from(code));
    }
    if said.has("db.system.name") {
        said.number("db.response.returned_rows", *rows);
        if *status == OutcomeStatus::Failed && is_sqlstate(detail) {
            said.text("db.response.status_code", detail);
        }
    }
    said.number("interdict.bytes.sent", *bytes_up);
    said.number("interdict.bytes.received", *bytes_down);
    for (class, count) in &masked.0 {
        said.number(&format!("interdict.masked.{class}"), *count);
    }
    span.attributes = said.0;
    span.error = match status {
        OutcomeStatus::Completed => None,
        OutcomeStatus::Failed if code.is_some() && http => code.map(|code| code.to_string()),
        OutcomeStatus::Failed if is_sqlstate(detail) => Some(detail.clone()),
        OutcomeStatus::Failed
        | OutcomeStatus::Refused
        | OutcomeStatus::Cancelled
        | OutcomeStatus::Abandoned => Some(status.name().to_owned()),
    };
    span
}

/// Five digits and capital letters (ISO 9075).
fn is_sqlstate(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

fn session(scene: &Scene, outcome: &Outcome, workload: &str) -> Span {
    let end = crate::clock::now();
    let took = i64::try_from(outcome.took.as_nanos()).unwrap_or_default();
    let mut said = Said(about(scene, workload));
    said.text("interdict.outcome", outcome.status.name());
    Span {
        trace: scene.session.trace(),
        id: scene.session.span(),
        parent: None,
        session: None,
        name: format!("session {}", scene.target.protocol),
        is_call: false,
        start: Timestamp::from_nanos(end.as_nanos().saturating_sub(took)),
        end,
        attributes: said.0,
        held: None,
        error: None,
    }
}

/// Who and where.
fn about(scene: &Scene, workload: &str) -> Vec<Attribute> {
    let mut said = Said(Vec::with_capacity(24));
    said.text("user.id", scene.principal.key());
    said.text("interdict.run.id", scene.run);
    said.text("interdict.session.id", scene.session);
    said.text("interdict.target.name", &scene.target.name);
    said.text("deployment.environment.name", &scene.target.environment);
    said.text("server.address", scene.original.0.ip());
    said.number("server.port", u64::from(scene.original.0.port()));
    said.number("process.pid", u64::from(scene.process.tgid));
    if !scene.process.exe.path.is_empty() {
        said.text("process.executable.path", &scene.process.exe.path);
    }
    if !workload.is_empty() {
        said.text("interdict.workload", workload);
    }
    said.0
}

/// Attributes as they are gathered.
struct Said(Vec<Attribute>);

impl Said {
    fn text(&mut self, name: &str, value: impl ToString) {
        self.set(name, SpanValue::Text(value.to_string()));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.set(name, SpanValue::Number(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn texts(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let values: Vec<String> = values.collect();
        if !values.is_empty() {
            self.set(name, SpanValue::Texts(values));
        }
    }

    /// The last word counts.
    fn set(&mut self, name: &str, value: SpanValue) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// What it does; returns the span's name. Of the words of a process only those are said that its text shows: the text was
    /// masked.
    fn operation(&mut self, operation: &Operation, recording: RecordingLevel) -> String {
        self.texts(
            "interdict.actions",
            operation.actions.iter().map(|action| action.name().to_owned()),
        );
        let shown = |name: &str| !name.is_empty() && operation.text.contains(name);
        let kept = recording > RecordingLevel::Metadata;
        match &operation.facts {
            Facts::Sql(facts) => self.sql(facts, shown),
            Facts::Http(facts) => self.http(facts, kept.then_some(operation.text.as_str())),
            Facts::Mcp(facts) => self.mcp(facts, shown),
            Facts::Llm(facts) => self.llm(facts, shown),
            Facts::Dns(facts) => {
                if kept && shown(&facts.name) {
                    self.text("dns.question.name", &facts.name);
                }
                format!("DNS {}", facts.kind)
            }
            Facts::Connect(_) => "connect".to_owned(),
        }
    }

    fn sql(&mut self, facts: &SqlFacts, shown: impl Fn(&str) -> bool) -> String {
        self.text("db.system.name", "postgresql");
        let kind = facts.statements.first().map_or("SQL", |first| first.kind.0);
        self.text("db.operation.name", kind);
        if facts.statements.len() > 1 {
            let count = u64::try_from(facts.statements.len()).unwrap_or(u64::MAX);
            self.number("db.operation.batch.size", count);
            return format!("BATCH {kind}");
        }
        let tables = facts.tables();
        match tables.first() {
            Some(only) if tables.len() == 1 && shown(&only.name) => {
                self.text("db.collection.name", only);
                format!("{kind} {only}")
            }
            Some(_) | None => kind.to_owned(),
        }
    }

    fn http(&mut self, facts: &HttpFacts, text: Option<&str>) -> String {
        /// RFC 9110, and PATCH (RFC 5789): others are `_OTHER` in the conventions.
        const KNOWN: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        let method = facts.method.as_str();
        let known = KNOWN.contains(&method);
        self.text("http.request.method", if known { method } else { "_OTHER" });
        self.text("url.scheme", if facts.tls { "https" } else { "http" });
        self.text("server.address", &facts.host);
        self.number("server.port", u64::from(facts.port));
        self.number("http.request.body.size", facts.body_bytes);
        let line = text.and_then(|text| text.lines().next());
        if let Some((_, url)) = line.and_then(|line| line.split_once(' ')) {
            self.text("url.full", url);
        }
        if known { method } else { "HTTP" }.to_owned()
    }

    fn mcp(&mut self, facts: &McpFacts, shown: impl Fn(&str) -> bool) -> String {
        self.text("network.protocol.name", "mcp");
        if !shown(&facts.method) {
            return "mcp".to_owned();
        }
        self.text("mcp.method.name", &facts.method);
        for (name, value) in [
            ("gen_ai.tool.name", &facts.tool),
            ("gen_ai.prompt.name", &facts.prompt),
        ] {
            if shown(value) {
                self.text(name, value);
                return format!("{} {value}", facts.method);
            }
        }
        facts.method.clone()
    }

    fn llm(&mut self, facts: &LlmFacts, shown: impl Fn(&str) -> bool) -> String {
        let what = match facts.endpoint.as_str() {
            "chat.completions" | "responses" | "messages" => "chat",
            "completions" => "text_completion",
            "embeddings" => "embeddings",
            other => other,
        };
        self.text("gen_ai.operation.name", what);
        self.text("gen_ai.provider.name", &facts.api);
        // Of a long prompt the text shows the beginning; where nothing was found in all of it, nothing is in the name.
        let clean = facts.findings.is_empty() && !facts.model.is_empty();
        if clean || shown(&facts.model) {
            self.text("gen_ai.request.model", &facts.model);
            return format!("{what} {}", facts.model);
        }
        what.to_owned()
    }
}
