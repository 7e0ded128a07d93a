//! Frames of the process: gathered into units, judged, forwarded.

use std::sync::Arc;

use crate::model::{Action, MaskCounts, ParameterShown, Refusal, StatementFacts, StatementKind};
use crate::session::{AgentSpeech, NeutralReason, Permit};

use super::catalogue::Asking;
use super::expect::{CopyIn, Expect, Running, Step, Whose};
use super::frame::{self, Frame, MAX_FROM_PROCESS};
use super::meaning::{Lineage, Meaning, empty, meaning};
use super::names::{Described, NameError, Portal, Text, Undo, known};
use super::relay::{Judging, Relay};
use super::time_limit::{Clock, tell_at_once};
use super::unit::{Passing, Unit, operation, refused_parse, refused_query};

/// Frames that one unit may hold.
const MAX_UNIT_FRAMES: usize = 64;

/// What is known of a unit while it is judged.
pub(super) struct Waiting {
    form: Form,
    text: Arc<Text>,
    steps: Vec<Step>,
    own_describe: Option<Described>,
    described: Vec<Described>,
    formats: Option<Arc<Vec<i16>>>,
    lineage: Vec<Lineage>,
    undos: Vec<(usize, Undo)>,
    copies_in: bool,
    changes_schema: bool,
    bytes_up: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Query,
    Execute,
    Prepare,
}

impl Waiting {
    /// The changes of names that it would make, from the first to the last.
    pub(super) fn take_undos(&mut self) -> Vec<Undo> {
        let steps = std::mem::take(&mut self.steps).into_iter().filter_map(Step::undo);
        let named = std::mem::take(&mut self.undos).into_iter().map(|(_, undo)| undo);
        steps.chain(named).collect()
    }
}

impl Step {
    pub(super) fn undo(self) -> Option<Undo> {
        match self {
            Self::Parse(undo) | Self::Bind(undo) | Self::Close(undo) => Some(undo),
            Self::DescribeStatement(_) | Self::DescribePortal(_) => None,
        }
    }
}

impl<'s> Relay<'s> {
    /// Takes frames until a unit is complete and its judgement has begun; `None` when more bytes, or answers of the
    /// target, are needed.
    pub(super) async fn next_request(&mut self) -> Result<Option<Judging<'s>>, String> {
        loop {
            let Some(kind) = self.next_kind() else {
                return Ok(None);
            };
            if self.blocked() && !matches!(kind, b'd' | b'c' | b'f') {
                if matches!(kind, b'S' | b'H') && self.copying() {
                    // The server would ignore it.
                    match self.take_frame()? {
                        Some(_) => continue,
                        None => return Ok(None),
                    }
                }
                return Ok(None);
            }
            if self.ask_again() {
                return Ok(None);
            }
            let Some(frame) = self.take_frame()? else {
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

    fn next_kind(&self) -> Option<u8> {
        let waiting = self.next_frame.as_ref().map(Frame::kind);
        waiting.or_else(|| self.process_bytes.first().copied())
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, String> {
        if let Some(frame) = self.next_frame.take() {
            return Ok(Some(frame));
        }
        frame::take(&mut self.process_bytes, MAX_FROM_PROCESS)
            .map_err(|error| format!("the process sent no frame: {error}"))
    }

    /// Whether the end of a batch is outstanding. What comes after it is judged only then: before, nobody knows which
    /// names the server has accepted, and under which settings it will read the next text.
    fn blocked(&self) -> bool {
        self.expected.iter().any(|expect| match expect {
            Expect::Query(_) | Expect::Sync | Expect::RefusedQuery(_) | Expect::Catalogue(_) => true,
            Expect::Step(..) | Expect::OwnDescribe(_) | Expect::Execute(_) | Expect::Refused(_) => false,
        })
    }

    /// Whether the server takes copied data now.
    fn copying(&self) -> bool {
        match self.expected.front() {
            Some(Expect::Query(running) | Expect::Execute(running)) => {
                running.copies_in.as_ref().is_some_and(|c| c.begun > c.ended)
            }
            Some(
                Expect::Step(..)
                | Expect::OwnDescribe(_)
                | Expect::Sync
                | Expect::Refused(_)
                | Expect::RefusedQuery(_)
                | Expect::Catalogue(_),
            )
            | None => false,
        }
    }

    /// Asks which columns are protected now, where that may have changed.
    fn ask_again(&mut self) -> bool {
        let idle = self.expected.is_empty() && self.gathered.is_empty() && !self.skipping;
        if !idle || !self.schema.is_stale(self.status) {
            return false;
        }
        let asking = Asking::new(&self.session.target().columns);
        self.to_target.say(AgentSpeech::status(asking.query()));
        self.expected.push_back(Expect::Catalogue(Box::new(asking)));
        true
    }

    async fn request(&mut self, frame: Frame) -> Result<Option<Judging<'s>>, Stop> {
        let kind = frame.kind();
        if self.skipping && !matches!(kind, b'S' | b'X') {
            return Ok(None);
        }
        if self.must_go_first(&frame)? {
            let started = self.prepare_only()?;
            self.next_frame = Some(frame);
            return Ok(started);
        }
        match kind {
            b'Q' => self.simple(frame).map(Some),
            b'P' | b'B' | b'D' | b'C' => {
                self.gather(frame)?;
                Ok(None)
            }
            b'E' => self.execute(frame).map(Some),
            b'S' | b'H' => {
                self.pass(vec![frame], NeutralReason::Synchronisation)?;
                if kind == b'S' {
                    self.skipping = false;
                    self.expected.push_back(Expect::Sync);
                }
                Ok(None)
            }
            b'd' | b'c' | b'f' => self.copied_in(frame),
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

    /// Whether what was gathered must be judged before this frame: a unit has one `Parse` and one `Bind` of it, and
    /// ends with what is no part of it.
    fn must_go_first(&self, frame: &Frame) -> Result<bool, Stop> {
        let damaged = |error: frame::FrameError| Stop::unknown(NameError::from(error).to_string(), false);
        let has = |kind: u8| {
            self.gathered
                .iter()
                .find(|(f, _)| f.kind() == kind)
                .map(|(f, _)| f)
        };
        let (parse, bind) = (has(b'P'), has(b'B'));
        Ok(match frame.kind() {
            b'Q' | b'S' | b'H' | b'X' => !self.gathered.is_empty(),
            b'P' => parse.is_some() || bind.is_some(),
            b'B' => {
                let mut fields = frame.fields();
                fields.text().map_err(damaged)?;
                let statement = fields.text().map_err(damaged)?;
                let other = parse.is_some_and(|p| p.fields().text() != Ok(statement));
                bind.is_some() || other
            }
            b'E' => {
                let portal = frame.fields().text().map_err(damaged)?;
                match bind {
                    Some(bind) => bind.fields().text() != Ok(portal),
                    None => parse.is_some(),
                }
            }
            _ => false,
        })
    }

    fn pass(&mut self, frames: Vec<Frame>, reason: NeutralReason) -> Result<(), Stop> {
        let pass = self
            .session
            .pass(Passing { frames, reason })
            .map_err(Stop::Refused)?;
        self.to_target.pass(pass);
        Ok(())
    }

    /// Data of a copy. Outside a copy the server ignores it; so does the agent.
    fn copied_in(&mut self, frame: Frame) -> Result<Option<Judging<'s>>, Stop> {
        let syncs = self.expected.iter().filter(|e| matches!(e, Expect::Sync)).count();
        let open = self.expected.iter_mut().find_map(|expect| match expect {
            Expect::Query(running) => running.copies_in.as_mut(),
            Expect::Execute(running) => running.copies_in.as_mut().filter(|c| c.ended == 0),
            Expect::Step(..)
            | Expect::OwnDescribe(_)
            | Expect::Sync
            | Expect::Refused(_)
            | Expect::RefusedQuery(_)
            | Expect::Catalogue(_) => None,
        });
        if let Some(copy) = open {
            if frame.kind() != b'd' {
                copy.ended += 1;
                copy.swallowed = syncs;
            }
            self.pass(vec![frame], NeutralReason::CopyData)?;
        }
        Ok(None)
    }

    fn simple(&mut self, frame: Frame) -> Result<Judging<'s>, Stop> {
        let unknown = |error: NameError| Stop::unknown(error.to_string(), true);
        let session = self.session;
        let text = frame.fields().text().map_err(|e| unknown(e.into()))?.to_owned();
        let text = self
            .names
            .text(&text, |t| session.shown(t))
            .map_err(|e| unknown(e.into()))?;
        let Meaning {
            facts,
            lineage,
            undos,
            copies_in,
            moving: _,
        } = meaning(&mut self.names, &text, &self.schema.protected)
            .map_err(|what| Stop::unknown(what, true))?;
        let waiting = Waiting {
            form: Form::Query,
            text: Arc::clone(&text),
            steps: Vec::new(),
            own_describe: None,
            described: Vec::new(),
            formats: None,
            lineage,
            undos,
            copies_in,
            changes_schema: changes_schema(&facts),
            bytes_up: frame.bytes().len() as u64,
        };
        let operation = operation(
            facts,
            &self.database,
            self.in_transaction(),
            (&text.text, text.shown.clone()),
            (&[], Vec::new()),
        );
        let unit = Unit {
            frames: vec![frame],
            operation: Arc::new(operation),
            describe: None,
        };
        Ok(self.judge(unit, waiting))
    }

    /// Adds a frame to the unit; names mean what they say from here on.
    fn gather(&mut self, frame: Frame) -> Result<(), Stop> {
        if self.gathered.len() >= MAX_UNIT_FRAMES {
            return Err(Stop::unknown("The batch prepares too much at once.", false));
        }
        let session = self.session;
        let step = match frame.kind() {
            b'P' => self.names.parse(&frame, |t| session.shown(t)).map(Step::Parse),
            b'B' => self.names.bind(&frame).map(Step::Bind),
            b'C' => self.names.close(&frame).map(Step::Close),
            _ => self.names.describes(&frame).map(|(what, described)| match what {
                b'S' => Step::DescribeStatement(described),
                _ => Step::DescribePortal(described),
            }),
        };
        let step = step.map_err(|error| Stop::unknown(error.to_string(), false))?;
        self.gathered.push((frame, step));
        Ok(())
    }

    /// The unit ends with an `Execute`.
    fn execute(&mut self, frame: Frame) -> Result<Judging<'s>, Stop> {
        let unknown = |error: NameError| Stop::unknown(error.to_string(), false);
        let name = frame.fields().text().map_err(|e| unknown(e.into()))?.to_owned();
        let portal = self.names.portal(&name).map_err(unknown)?.clone();
        let text = Arc::clone(&portal.prepared.text);
        let bound_here = self.gathered.iter().any(|(f, _)| f.kind() == b'B');
        let Meaning {
            facts,
            lineage,
            undos,
            copies_in,
            moving,
        } = meaning(&mut self.names, &text, &self.schema.protected)
            .map_err(|what| Stop::unknown(what, false))?;
        if moving && !bound_here {
            let back = undos.into_iter().map(|(_, undo)| undo).collect();
            self.take_back(back);
            return Err(Stop::unknown(
                "A portal over a name is executed once: bind it again.",
                false,
            ));
        }
        let (own_describe, described) = self.descriptions(&portal, moving);
        let describe = own_describe.is_some().then_some(name);
        let (mut frames, steps): (Vec<_>, Vec<_>) = std::mem::take(&mut self.gathered).into_iter().unzip();
        frames.push(frame);
        let waiting = Waiting {
            form: Form::Execute,
            text: Arc::clone(&text),
            steps,
            own_describe,
            described,
            formats: Some(Arc::clone(&portal.formats)),
            lineage,
            undos,
            copies_in,
            changes_schema: changes_schema(&facts),
            bytes_up: frames.iter().map(|f| f.bytes().len() as u64).sum(),
        };
        let session = self.session;
        let parameters = portal.shown(|value| session.shown(value));
        let operation = operation(
            facts,
            &self.database,
            self.in_transaction(),
            (&text.text, text.shown.clone()),
            (&portal.values, parameters),
        );
        let unit = Unit {
            frames,
            operation: Arc::new(operation),
            describe,
        };
        Ok(self.judge(unit, waiting))
    }

    /// Where the description of a portal's rows will be, and whether the agent must ask for it. What a statement was
    /// described as holds for a portal only where no columns are protected: the server may plan anew, over other
    /// relations of the same types.
    fn descriptions(&self, portal: &Portal, moving: bool) -> (Option<Described>, Vec<Described>) {
        let of_statement = !moving && self.schema.protected.is_empty();
        let asks = |wanted: &Described| {
            self.gathered.iter().any(|(_, step)| match step {
                Step::DescribeStatement(d) | Step::DescribePortal(d) => Arc::ptr_eq(d, wanted),
                Step::Parse(_) | Step::Bind(_) | Step::Close(_) => false,
            })
        };
        let mut described = vec![Arc::clone(&portal.described)];
        if of_statement {
            described.push(Arc::clone(&portal.prepared.described));
        }
        let there = described.iter().any(|d| known(d).is_some() || asks(d));
        let own = (!there).then(|| Arc::clone(&portal.described));
        (own, described)
    }

    /// A batch that ends without an `Execute`: preparing is an operation, describing and letting go are not.
    fn prepare_only(&mut self) -> Result<Option<Judging<'s>>, Stop> {
        let named = |kind: u8| {
            let of_kind = self.gathered.iter().find(|(f, _)| f.kind() == kind);
            of_kind.and_then(|(f, _)| f.fields().text().ok())
        };
        let unknown = |error: NameError| Stop::unknown(error.to_string(), false);
        let (verb, text) = match (named(b'P'), named(b'B')) {
            (_, Some(portal)) => ("BIND", &self.names.portal(portal).map_err(unknown)?.prepared.text),
            (Some(name), None) => ("PREPARE", &self.names.statement(name).map_err(unknown)?.text),
            (None, None) => {
                let (frames, steps): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.gathered).into_iter().unzip();
                let steps = steps.into_iter().map(|step| Expect::Step(step, Whose::Nobody));
                self.expected.extend(steps);
                self.pass(frames, NeutralReason::Description)?;
                return Ok(None);
            }
        };
        let text = Arc::clone(text);
        let facts = prepared_facts(&text, verb);
        let (frames, steps): (Vec<_>, Vec<_>) = std::mem::take(&mut self.gathered).into_iter().unzip();
        let waiting = Waiting {
            form: Form::Prepare,
            text: Arc::clone(&text),
            steps,
            own_describe: None,
            described: Vec::new(),
            formats: None,
            lineage: Vec::new(),
            undos: Vec::new(),
            copies_in: false,
            changes_schema: false,
            bytes_up: frames.iter().map(|f| f.bytes().len() as u64).sum(),
        };
        let marked = format!("{verb} {}", text.text);
        let none: (&[Option<Vec<u8>>], Vec<ParameterShown>) = (&[], Vec::new());
        let operation = operation(facts, &self.database, false, (&marked, text.shown.clone()), none);
        let unit = Unit {
            frames,
            operation: Arc::new(operation),
            describe: None,
        };
        Ok(Some(self.judge(unit, waiting)))
    }

    fn judge(&mut self, unit: Unit, waiting: Waiting) -> Judging<'s> {
        self.registered.held.set(true);
        self.waiting = Some(Box::new(waiting));
        Box::pin(self.session.authorize(unit))
    }

    /// The judgement is made: forward, or put a statement that must fail in its place.
    pub(super) fn judged(&mut self, judged: Result<Permit<Unit>, Refusal>) {
        self.registered.held.set(false);
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        let permit = match judged {
            Ok(permit) if self.skipping => {
                self.take_back(waiting.take_undos());
                return permit.withdraw("skipped after an error before it");
            }
            Ok(permit) => permit,
            Err(refusal) => {
                self.take_back(waiting.take_undos());
                if !self.skipping {
                    self.refuse(refusal, waiting.form == Form::Query);
                }
                return;
            }
        };
        let in_flight = self.to_target.forward(permit);
        if waiting.form != Form::Query && in_flight.limits.max_time.is_some() {
            self.to_target.say(AgentSpeech::status(tell_at_once()));
        }
        self.schema.changed |= waiting.changes_schema;
        self.expect(*waiting, in_flight);
    }

    fn expect(&mut self, waiting: Waiting, in_flight: crate::session::InFlight) {
        let Waiting {
            form,
            text,
            steps,
            own_describe,
            described,
            formats,
            lineage,
            undos,
            copies_in,
            changes_schema: _,
            bytes_up,
        } = waiting;
        let running = Box::new(Running {
            in_flight,
            text,
            lineage,
            at: 0,
            described,
            formats,
            columns: None,
            undos,
            copies_in: copies_in.then(CopyIn::default),
            copies_out: None,
            rows: 0,
            bytes: 0,
            bytes_up,
            masked: MaskCounts::default(),
            detail: String::new(),
            failed: false,
            clock: Clock::Waits,
        });
        let mut own = Some(running);
        for step in steps {
            // A unit that only prepares has one `Parse` or one `Bind` that matters: the last of them.
            let is_own = match form {
                Form::Prepare => matches!(step, Step::Parse(_) | Step::Bind(_)),
                Form::Query | Form::Execute => false,
            };
            let whose = match form {
                Form::Prepare if is_own => own.take().map_or(Whose::Nobody, Whose::Own),
                Form::Prepare => Whose::Nobody,
                Form::Query | Form::Execute => Whose::Execute,
            };
            self.expected.push_back(Expect::Step(step, whose));
        }
        self.expected.extend(own_describe.map(Expect::OwnDescribe));
        match (form, own) {
            (Form::Query, Some(running)) => self.expected.push_back(Expect::Query(running)),
            (Form::Execute, Some(running)) => self.expected.push_back(Expect::Execute(running)),
            (Form::Prepare, _) | (_, None) => {}
        }
    }

    /// Refuses in order: the refusal takes the place of the answer.
    pub(super) fn refuse(&mut self, refusal: Refusal, simple: bool) {
        let gathered = std::mem::take(&mut self.gathered);
        self.take_back(gathered.into_iter().filter_map(|(_, step)| step.undo()).collect());
        if simple {
            self.to_target.say(refused_query());
            self.expected.push_back(Expect::RefusedQuery(Some(refusal)));
        } else {
            self.to_target.say(refused_parse());
            self.expected.push_back(Expect::Refused(refusal));
            self.skipping = true;
        }
    }

    /// Takes changes of names back, the last one first.
    pub(super) fn take_back(&mut self, undos: Vec<Undo>) {
        for undo in undos.into_iter().rev() {
            self.names.undo(undo);
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

/// Preparing changes only the session; but binding plans, and planning may run code.
fn prepared_facts(text: &Text, verb: &'static str) -> Vec<StatementFacts> {
    let mut facts: Vec<StatementFacts> = text.script.statements.iter().map(|s| s.facts.clone()).collect();
    for fact in &mut facts {
        let code = verb == "BIND" && fact.actions.contains(&Action::SqlExecute);
        fact.kind = StatementKind(verb);
        fact.actions = [Action::SqlSession].into();
        fact.actions.extend(code.then_some(Action::SqlExecute));
    }
    if facts.is_empty() {
        facts.push(empty());
    }
    facts
}

/// Whether relations may mean something else after it.
fn changes_schema(facts: &[StatementFacts]) -> bool {
    facts.iter().flat_map(|f| &f.actions).any(|action| {
        matches!(
            action,
            Action::SqlCreate | Action::SqlAlter | Action::SqlDrop | Action::SqlAdmin | Action::SqlExecute
        )
    })
}
