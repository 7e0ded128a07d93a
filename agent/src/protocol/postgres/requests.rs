//! Frames of the process: gathered into units, judged, forwarded.

use std::sync::Arc;

use crate::model::{Action, MaskCounts, ParameterShown, Refusal, StatementFacts, StatementKind};
use crate::session::{NeutralReason, Permit};

use super::expect::{Expect, Running};
use super::frame::{self, Frame, MAX_FROM_PROCESS};
use super::names::{Described, NameError, Text, known};
use super::relay::{Judging, Relay};
use super::sql::{SessionEffect, Statement};
use super::unit::{Passing, Unit, operation, refused_parse, refused_query};

/// Frames that one unit may hold.
const MAX_UNIT_FRAMES: usize = 64;

/// What is known of a unit while it is judged.
pub(super) struct Waiting {
    simple: bool,
    text: Arc<Text>,
    described: Vec<Described>,
    formats: Option<Arc<Vec<i16>>>,
    prepares: Vec<String>,
    describes: Vec<Described>,
    own_describe: Option<Described>,
    prepare_only: bool,
    bytes_up: u64,
}

impl<'s> Relay<'s> {
    /// Takes frames until a unit is complete and its judgement has begun; `None` when more bytes are needed.
    pub(super) async fn next_request(&mut self) -> Result<Option<(Judging<'s>, Box<Waiting>)>, String> {
        loop {
            let taken = frame::take(&mut self.process_bytes, MAX_FROM_PROCESS);
            let Some(frame) = taken.map_err(|error| format!("the process sent no frame: {error}"))? else {
                return Ok(None);
            };
            match self.request(frame).await {
                Ok(None) if self.ending.is_some() => return Ok(None),
                Ok(None) => {}
                Ok(started) => return Ok(started),
                Err(Stop::Unknown { what, simple }) => {
                    let refusal = self.session.refuse_unknown(what).await;
                    self.refuse(refusal, simple);
                }
                Err(Stop::Refused(refusal)) => self.fatal(&refusal),
            }
        }
    }

    async fn request(&mut self, frame: Frame) -> Result<Option<(Judging<'s>, Box<Waiting>)>, Stop> {
        let kind = frame.kind();
        if self.skipping && !matches!(kind, b'S' | b'X') {
            return Ok(None);
        }
        match kind {
            b'Q' => self.simple(frame).map(Some),
            b'P' | b'B' | b'D' | b'C' => {
                self.gather(frame)?;
                Ok(None)
            }
            b'E' => self.execute(frame).map(Some),
            b'S' | b'H' => {
                if !self.gathered.is_empty()
                    && let Some(started) = self.prepare_only()?
                {
                    // The Sync or Flush comes again once the unit is judged.
                    self.put_back(&frame);
                    return Ok(Some(started));
                }
                self.pass(vec![frame], NeutralReason::Synchronisation)?;
                if kind == b'S' {
                    self.skipping = false;
                    self.expected.push_back(Expect::Sync);
                }
                Ok(None)
            }
            b'd' | b'c' | b'f' => {
                // Outside a copy the server ignores them; so does the agent.
                if self.copies_in() {
                    self.pass(vec![frame], NeutralReason::CopyData)?;
                }
                Ok(None)
            }
            b'X' => {
                self.pass(vec![frame], NeutralReason::Termination)?;
                self.ending = Some("the process logged out".into());
                Ok(None)
            }
            b'F' => Err(Stop::unknown(
                "Function calls by number are not carried: use SELECT.",
                false,
            )),
            other => {
                let what = format!("The message {:?} is not one of a session.", char::from(other));
                let refusal = self.session.refuse_unknown(what).await;
                Err(Stop::Refused(refusal))
            }
        }
    }

    fn put_back(&mut self, frame: &Frame) {
        let mut bytes = bytes::BytesMut::from(frame.bytes());
        bytes.extend_from_slice(&self.process_bytes);
        self.process_bytes = bytes;
    }

    fn pass(&mut self, frames: Vec<Frame>, reason: NeutralReason) -> Result<(), Stop> {
        let pass = self
            .session
            .pass(Passing { frames, reason })
            .map_err(Stop::Refused)?;
        self.to_target.pass(pass);
        Ok(())
    }

    fn simple(&mut self, frame: Frame) -> Result<(Judging<'s>, Box<Waiting>), Stop> {
        let unknown = |error: NameError| Stop::unknown(error.to_string(), true);
        let session = self.session;
        let text = frame.fields().text().map_err(|e| unknown(e.into()))?.to_owned();
        let text = self
            .names
            .text(&text, |t| session.shown(t))
            .map_err(|e| unknown(e.into()))?;
        let (facts, prepares) = self.facts(&text).map_err(|what| Stop::unknown(what, true))?;
        let shown = text.shown.clone();
        let in_transaction = self.in_transaction();
        let operation = operation(
            facts,
            &self.database,
            in_transaction,
            (&text.text, shown),
            (&[], Vec::new()),
        );
        let bytes_up = frame.bytes().len() as u64;
        let unit = Unit {
            frames: vec![frame],
            operation: Arc::new(operation),
            describe: None,
        };
        let waiting = Waiting {
            simple: true,
            text,
            described: Vec::new(),
            formats: None,
            prepares,
            describes: Vec::new(),
            own_describe: None,
            prepare_only: false,
            bytes_up,
        };
        Ok(self.judge(unit, waiting))
    }

    /// Adds a frame to the unit; names mean what they say from here on.
    fn gather(&mut self, frame: Frame) -> Result<(), Stop> {
        if self.gathered.len() >= MAX_UNIT_FRAMES {
            return Err(Stop::unknown("The batch prepares too much at once.", false));
        }
        let session = self.session;
        let named = match frame.kind() {
            b'P' => self.names.parse(&frame, |t| session.shown(t)).map(|_name| ()),
            b'B' => self.names.bind(&frame),
            b'C' => self.names.close(&frame),
            _ => self.names.describes(&frame).map(|_described| ()),
        };
        named.map_err(|error| Stop::unknown(error.to_string(), false))?;
        self.gathered.push(frame);
        Ok(())
    }

    /// The unit ends with an `Execute`.
    fn execute(&mut self, frame: Frame) -> Result<(Judging<'s>, Box<Waiting>), Stop> {
        let unknown = |error: NameError| Stop::unknown(error.to_string(), false);
        let name = frame.fields().text().map_err(|e| unknown(e.into()))?.to_owned();
        let portal = self.names.portal(&name).map_err(unknown)?.clone();
        let text = Arc::clone(&portal.prepared.text);
        let (facts, mut prepares) = self.facts(&text).map_err(|what| Stop::unknown(what, false))?;
        prepares.extend(self.parsed());
        let session = self.session;
        let parameters = portal.shown(|value| session.shown(value));
        let operation = operation(
            facts,
            &self.database,
            self.in_transaction(),
            (&text.text, text.shown.clone()),
            (&portal.values, parameters),
        );
        let describes = self.describes()?;
        let described = known(&portal.prepared.described).is_some()
            || describes.iter().any(|d| Arc::ptr_eq(d, &portal.described));
        let own_describe = (!described).then(|| Arc::clone(&portal.described));
        let mut frames = std::mem::take(&mut self.gathered);
        frames.push(frame);
        let bytes_up = frames.iter().map(|f| f.bytes().len() as u64).sum();
        let describe = own_describe.is_some().then_some(name);
        let unit = Unit {
            frames,
            operation: Arc::new(operation),
            describe,
        };
        let waiting = Waiting {
            simple: false,
            text,
            described: vec![
                Arc::clone(&portal.described),
                Arc::clone(&portal.prepared.described),
            ],
            formats: Some(Arc::clone(&portal.formats)),
            prepares,
            describes,
            own_describe,
            prepare_only: false,
            bytes_up,
        };
        Ok(self.judge(unit, waiting))
    }

    /// A batch that ends without an `Execute`: preparing is an operation, describing and letting go are not.
    fn prepare_only(&mut self) -> Result<Option<(Judging<'s>, Box<Waiting>)>, Stop> {
        let prepares = self.parsed();
        let describes = self.describes()?;
        let frames = std::mem::take(&mut self.gathered);
        let Some(name) = prepares.last() else {
            self.expected.extend(describes.into_iter().map(Expect::Describe));
            self.pass(frames, NeutralReason::Description)?;
            return Ok(None);
        };
        let unknown = |error: NameError| Stop::unknown(error.to_string(), false);
        let text = Arc::clone(&self.names.statement(name).map_err(unknown)?.text);
        let mut facts: Vec<StatementFacts> = text.script.statements.iter().map(|s| s.facts.clone()).collect();
        for fact in &mut facts {
            fact.kind = StatementKind("PREPARE");
            fact.actions = [Action::SqlSession].into();
        }
        if facts.is_empty() {
            facts.push(empty());
        }
        let shown = text.shown.clone();
        let marked = format!("PREPARE {}", text.text);
        let none: (&[Option<Vec<u8>>], Vec<ParameterShown>) = (&[], Vec::new());
        let operation = operation(facts, &self.database, false, (&marked, shown), none);
        let bytes_up = frames.iter().map(|f| f.bytes().len() as u64).sum();
        let unit = Unit {
            frames,
            operation: Arc::new(operation),
            describe: None,
        };
        let waiting = Waiting {
            simple: false,
            text,
            described: Vec::new(),
            formats: None,
            prepares,
            describes,
            own_describe: None,
            prepare_only: true,
            bytes_up,
        };
        Ok(Some(self.judge(unit, waiting)))
    }

    fn judge(&mut self, unit: Unit, waiting: Waiting) -> (Judging<'s>, Box<Waiting>) {
        self.registered.held.set(true);
        (Box::pin(self.session.authorize(unit)), Box::new(waiting))
    }

    /// Names that the gathered frames prepare.
    fn parsed(&self) -> Vec<String> {
        let parses = self.gathered.iter().filter(|f| f.kind() == b'P');
        parses
            .filter_map(|f| f.fields().text().ok().map(str::to_owned))
            .collect()
    }

    fn describes(&self) -> Result<Vec<Described>, Stop> {
        let asked = self
            .gathered
            .iter()
            .filter(|f| f.kind() == b'D')
            .map(|f| self.names.describes(f));
        asked
            .collect::<Result<_, _>>()
            .map_err(|error| Stop::unknown(error.to_string(), false))
    }

    /// What the statements of a text do, with what `EXECUTE` runs; the names that they prepare.
    fn facts(&mut self, text: &Text) -> Result<(Vec<StatementFacts>, Vec<String>), String> {
        let mut facts = Vec::with_capacity(text.script.statements.len());
        let mut prepares = Vec::new();
        for statement in &text.script.statements {
            let mut fact = statement.facts.clone();
            match &statement.effect {
                SessionEffect::Execute { name } => {
                    let inner = self.names.statement(name).map_err(|error| error.to_string())?;
                    for inner in &inner.text.script.statements {
                        join(&mut fact, inner);
                    }
                }
                SessionEffect::Prepare { name, inner } => {
                    let script = super::sql::Script {
                        statements: vec![(**inner).clone()],
                    };
                    let inner = Text {
                        text: text.text.clone(),
                        shown: text.shown.clone(),
                        script,
                    };
                    self.names
                        .name(name.clone(), Arc::new(inner))
                        .map_err(|error| error.to_string())?;
                    prepares.push(name.clone());
                }
                SessionEffect::Set { name, value } => setting(name, value.as_deref())?,
                SessionEffect::CopyOut if self.copies_protected(statement) => {
                    return Err("COPY of a table with protected columns is not carried: use SELECT.".into());
                }
                SessionEffect::None
                | SessionEffect::Declare { .. }
                | SessionEffect::Fetch { .. }
                | SessionEffect::CopyOut
                | SessionEffect::CopyIn => {}
            }
            facts.push(fact);
        }
        if facts.is_empty() {
            facts.push(empty());
        }
        Ok((facts, prepares))
    }

    /// Copied rows carry no column numbers: where the target has protected columns, only tables known by configuration
    /// to have none could be told apart, and views could not.
    fn copies_protected(&self, _statement: &Statement) -> bool {
        !self.protected.is_empty()
    }

    fn copies_in(&self) -> bool {
        let copies = |r: &Running| {
            r.text
                .script
                .statements
                .iter()
                .any(|s| s.effect == SessionEffect::CopyIn)
        };
        self.expected.iter().any(|expect| match expect {
            Expect::Query(r) | Expect::Execute(r) => copies(r),
            Expect::Prepare(_)
            | Expect::Describe(_)
            | Expect::OwnDescribe(_)
            | Expect::Sync
            | Expect::Refused(_)
            | Expect::RefusedQuery(_) => false,
        })
    }

    /// The judgement is made: forward, or put a statement that must fail in its place.
    pub(super) fn judged(&mut self, judged: Result<Permit<Unit>, Refusal>, waiting: Waiting) {
        self.registered.held.set(false);
        let permit = match judged {
            Ok(permit) => permit,
            Err(refusal) => {
                self.forget(&waiting.prepares);
                return self.refuse(refusal, waiting.simple);
            }
        };
        if self.skipping {
            self.forget(&waiting.prepares);
            return permit.withdraw("skipped after an error before it");
        }
        let in_flight = self.to_target.forward(permit);
        self.expected
            .extend(waiting.describes.into_iter().map(Expect::Describe));
        self.expected
            .extend(waiting.own_describe.map(Expect::OwnDescribe));
        let running = Box::new(Running {
            in_flight,
            text: waiting.text,
            at: 0,
            described: waiting.described,
            formats: waiting.formats,
            columns: None,
            prepares: waiting.prepares,
            confirmed: false,
            rows: 0,
            bytes: 0,
            bytes_up: waiting.bytes_up,
            masked: MaskCounts::default(),
            detail: String::new(),
            failed: false,
        });
        self.expected
            .push_back(match (waiting.simple, waiting.prepare_only) {
                (true, _) => Expect::Query(running),
                (false, true) => Expect::Prepare(running),
                (false, false) => Expect::Execute(running),
            });
    }

    /// Refuses in order: the refusal takes the place of the answer.
    pub(super) fn refuse(&mut self, refusal: Refusal, simple: bool) {
        self.gathered.clear();
        if simple {
            self.to_target.say(refused_query());
            self.expected.push_back(Expect::RefusedQuery(Some(refusal)));
        } else {
            self.to_target.say(refused_parse());
            self.expected.push_back(Expect::Refused(refusal));
            self.skipping = true;
        }
    }

    pub(super) fn forget(&mut self, names: &[String]) {
        for name in names {
            self.names.statements.remove(name);
        }
    }
}

/// Why a frame is not forwarded.
enum Stop {
    Unknown { what: String, simple: bool },
    Refused(Refusal),
}

impl Stop {
    fn unknown(what: impl Into<String>, simple: bool) -> Self {
        Self::Unknown {
            what: what.into(),
            simple,
        }
    }
}

fn join(fact: &mut StatementFacts, inner: &Statement) {
    fact.actions.extend(inner.facts.actions.iter().copied());
    fact.reads.extend(inner.facts.reads.iter().cloned());
    fact.writes.extend(inner.facts.writes.iter().cloned());
    fact.columns.extend(inner.facts.columns.iter().cloned());
    fact.functions.extend(inner.facts.functions.iter().cloned());
    fact.bounded &= inner.facts.bounded;
}

/// An empty text: nothing happens, in the session.
fn empty() -> StatementFacts {
    StatementFacts {
        kind: StatementKind("EMPTY"),
        actions: [Action::SqlSession].into(),
        reads: [].into(),
        writes: [].into(),
        columns: [].into(),
        functions: [].into(),
        bounded: true,
    }
}

/// Settings that would change how the agent reads texts.
fn setting(name: &str, value: Option<&str>) -> Result<(), String> {
    let value = value.map(str::to_ascii_lowercase);
    let plain = value.as_deref();
    match name {
        "standard_conforming_strings" if !matches!(plain, Some("on" | "true" | "yes" | "1") | None) => {
            Err("standard_conforming_strings must stay on.".into())
        }
        "client_encoding" if !matches!(plain, Some("utf8" | "utf-8" | "unicode") | None) => {
            Err("The client encoding must stay UTF8.".into())
        }
        _ => Ok(()),
    }
}
