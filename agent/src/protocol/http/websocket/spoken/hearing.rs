//! Target to process: each message is masked for the operation that it answers, whose outcome is recorded at its end.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::mask::{MaskPlan, Maskable, Masked};
use crate::model::{MaskCounts, Outcome, OutcomeStatus};
use crate::session::{AgentSpeech, Downstream, InFlight};

use super::super::super::answer::{Redact, Spellings};
use super::super::super::conversation::{Conversation, Over, Turn};
use super::super::frames::{control, frame};
use super::super::kept::{Kept, KeptTurn};
use super::super::sent::{Control, Reader, Sent, TOO_LARGE};
use super::super::{CHUNK, Stop, TEXT};
use super::Talk;

/// Largest message of a target, in bytes: as large as a whole answer of a dialect.
const MOST: usize = 16 * 1024 * 1024;

/// What the other direction says to this one.
pub(super) enum Told {
    /// The message that the process gets in the place of an answer.
    Refused(Vec<u8>),
    /// A message that is about to be sent.
    Sent(Turn, Box<Flying>),
}

/// An operation whose answer is not complete.
pub(super) struct Flying {
    /// What is owed, but for its recording.
    pub(super) in_flight: InFlight,
    pub(super) kept: Option<KeptTurn>,
    /// When its answer must have begun; `None`: it has, or needs not.
    pub(super) until: Option<Instant>,
    pub(super) counts: MaskCounts,
    /// Bytes that were sent, and bytes that the process was shown.
    pub(super) up: u64,
    pub(super) down: u64,
    /// How often the credential was taken out.
    pub(super) echoed: u64,
    /// Its place among what may be open.
    pub(super) _open: OwnedSemaphorePermit,
}

impl Flying {
    /// Records its end, behind what it was shown.
    async fn end(self, status: OutcomeStatus, mut detail: String) {
        let Self {
            in_flight,
            kept,
            until: _,
            counts,
            up,
            down,
            echoed,
            _open,
        } = self;
        if let Some(mut kept) = kept {
            kept.end();
            if let Err(error) = kept.settle().await {
                tracing::error!(%error, "the end of a recording is missing");
            }
        }
        if echoed > 0 {
            detail.push_str(": it sent the credential back, which was taken out");
        }
        let mut outcome = Outcome::bare(status, detail);
        outcome.bytes_up = up;
        outcome.bytes_down = down;
        outcome.masked = counts;
        in_flight.outcome.finish(outcome);
    }
}

pub(super) struct Hearing {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: Downstream<WriteHalf<TokioIo<Upgraded>>>,
    reader: Reader,
    talk: Talk,
    told: mpsc::Receiver<Told>,
    turns: BTreeMap<Turn, Flying>,
    /// For what answers no operation: reveals nothing.
    plan: MaskPlan,
    kept: Option<Kept>,
    counts: MaskCounts,
    shown: u64,
    pub(super) spellings: Option<Spellings>,
    pub(super) max_answer: Option<u64>,
}

impl Hearing {
    /// `nobodys`: how what answers no operation is masked and recorded.
    pub(super) fn new(
        (from, to): (
            ReadHalf<TokioIo<Upgraded>>,
            Downstream<WriteHalf<TokioIo<Upgraded>>>,
        ),
        talk: Talk,
        told: mpsc::Receiver<Told>,
        nobodys: (MaskPlan, Option<Kept>),
    ) -> Self {
        Self {
            from,
            to,
            reader: Reader::of_target(MOST),
            talk,
            told,
            turns: BTreeMap::new(),
            plan: nobodys.0,
            kept: nobodys.1,
            counts: MaskCounts::default(),
            shown: 0,
            spellings: None,
            max_answer: None,
        }
    }

    /// Both ends, for a goodbye.
    pub(super) const fn ends(
        &mut self,
    ) -> (
        &mut Downstream<WriteHalf<TokioIo<Upgraded>>>,
        &mut ReadHalf<TokioIo<Upgraded>>,
    ) {
        (&mut self.to, &mut self.from)
    }

    /// Bytes and values of what answered no operation.
    pub(super) fn nobodys(self) -> (u64, MaskCounts) {
        (self.shown, self.counts)
    }

    pub(super) async fn run(&mut self) -> Result<(), Stop> {
        enum Next {
            Told(Told),
            Read(bool),
            Late,
        }
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let until = self.turns.values().filter_map(|turn| turn.until).min();
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                Some(told) = self.told.recv() => Next::Told(told),
                read = self.from.read_buf(&mut buffer) => Next::Read(matches!(read, Ok(1..))),
                () = late => Next::Late,
            };
            let goes_on = match next {
                Next::Late => return Err("an answer did not begin in the time that a policy gives it"),
                Next::Told(told) => {
                    self.hear(told);
                    true
                }
                Next::Read(false) => false,
                Next::Read(true) => {
                    self.reader.push(&buffer.split());
                    self.take().await?
                }
            };
            if self.to.flush().await.is_err() {
                return Ok(());
            }
            if !goes_on {
                if let Err(error) = self.to.shutdown().await {
                    tracing::debug!(%error, "process was gone");
                }
                return Ok(());
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Refused(words) => {
                let mut out = BytesMut::new();
                frame(true, TEXT, &words, &mut out);
                self.to.say(AgentSpeech::status(out.freeze()));
            }
            Told::Sent(turn, flying) => {
                self.turns.insert(turn, *flying);
            }
        }
    }

    /// Takes what is complete; whether more may come.
    async fn take(&mut self) -> Result<bool, Stop> {
        while let Some(came) = self.reader.next().map_err(large)? {
            // What was sent is known before its answer.
            while let Ok(told) = self.told.try_recv() {
                self.hear(told);
            }
            match came {
                Sent::Message(true, text) => self.message(&text).await?,
                Sent::Message(false, _bytes) => return Err("a message is binary, and only texts are read"),
                Sent::Control(control) => {
                    let closes = control.closes();
                    if closes {
                        self.left().await;
                    }
                    let plan = self.plan.clone();
                    let masked = plan.apply(Controls(&control), &mut self.counts);
                    self.to.answer(masked);
                    if closes {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    async fn message(&mut self, text: &Bytes) -> Result<(), Stop> {
        let talk = self.talk.clone();
        let turn = talk.lock().whose(text)?;
        let whole = |talk: &mut dyn Conversation, plan: &MaskPlan, counts: &mut MaskCounts| {
            talk.shown(turn, text, plan, counts)
        };
        self.show(turn, whole).await?;
        let over = talk.lock().over();
        for Over { turn, status, detail } in over {
            if let Some(flying) = self.turns.remove(&turn) {
                flying.end(status, detail).await;
            }
        }
        Ok(())
    }

    /// Shows what a turn has to say, once it is in the queue of the log.
    async fn show<F>(&mut self, turn: Option<Turn>, says: F) -> Result<(), Stop>
    where
        F: FnOnce(&mut dyn Conversation, &MaskPlan, &mut MaskCounts) -> Result<Vec<Vec<u8>>, Stop>,
    {
        let mut redact = self.spellings.clone().map(Redact::new);
        let talk = self.talk.clone();
        let mut flying = turn.and_then(|turn| self.turns.get_mut(&turn));
        let (plan, counts) = match &mut flying {
            Some(flying) => (flying.in_flight.plan.clone(), &mut flying.counts),
            None => (self.plan.clone(), &mut self.counts),
        };
        let masked = {
            let mut talk = talk.lock();
            let heard = Heard(talk.as_mut(), says, redact.as_mut());
            plan.apply(heard, counts).transpose()?
        };
        let size = u64::try_from(masked.size()).unwrap_or(u64::MAX);
        let settled = match flying {
            Some(flying) => {
                flying.until = None;
                flying.down = flying.down.saturating_add(size);
                flying.echoed += redact.map_or(0, |redact| redact.count);
                if self.max_answer.is_some_and(|most| flying.down > most) {
                    return Err("an answer is larger than the target may answer (max_answer)");
                }
                match &mut flying.kept {
                    None => Ok(()),
                    Some(kept) => {
                        kept.frames(&masked);
                        kept.settle().await
                    }
                }
            }
            None => {
                self.shown = self.shown.saturating_add(size);
                match &mut self.kept {
                    None => Ok(()),
                    Some(kept) => {
                        kept.frames(&masked);
                        kept.recording.settle().await
                    }
                }
            }
        };
        if let Err(error) = settled {
            tracing::error!(%error, "a message is not shown");
            return Err("its record could not be made");
        }
        self.write(masked).await;
        Ok(())
    }

    async fn write(&mut self, masked: Masked<Bytes>) {
        self.to.answer(masked);
        // Whoever is gone is seen to be gone at the next flush.
        let _gone = self.to.flush().await;
    }

    /// The target says goodbye: what is held back of its answers.
    async fn left(&mut self) {
        let turns: Vec<Turn> = self.turns.keys().copied().collect();
        for turn in turns {
            let left = |talk: &mut dyn Conversation, plan: &MaskPlan, counts: &mut MaskCounts| {
                Ok(talk.left(turn, plan, counts))
            };
            if let Err(why) = self.show(Some(turn), left).await {
                tracing::debug!(why, "the end of an answer is not shown");
            }
        }
    }

    /// Nothing more comes: one outcome for everything that is open.
    pub(super) async fn end(&mut self, broken: Option<Stop>) {
        self.told.close();
        while let Ok(told) = self.told.try_recv() {
            self.hear(told);
        }
        for (turn, flying) in std::mem::take(&mut self.turns) {
            let note = self.talk.lock().abandoned(turn);
            let (status, mut detail) = match broken {
                Some(why) => (OutcomeStatus::Failed, format!("the answer was cut off, {why}")),
                None => (
                    OutcomeStatus::Abandoned,
                    "the WebSocket ended before its answer".into(),
                ),
            };
            if !note.is_empty() {
                detail.push_str("; ");
                detail.push_str(&note);
            }
            flying.end(status, detail).await;
        }
        if let Some(kept) = &mut self.kept {
            kept.recording.end();
            if let Err(error) = kept.recording.settle().await {
                tracing::error!(%error, "the end of a recording is missing");
            }
        }
    }
}

/// Why a message of the target is not read: its bounds are not those of the process.
fn large(why: Stop) -> Stop {
    if why == TOO_LARGE {
        return "a message is larger than 16 MiB";
    }
    why
}

/// A message, or what is left of one.
struct Heard<'a, F>(&'a mut dyn Conversation, F, Option<&'a mut Redact>);

impl<F> Maskable for Heard<'_, F>
where
    F: FnOnce(&mut dyn Conversation, &MaskPlan, &mut MaskCounts) -> Result<Vec<Vec<u8>>, Stop>,
{
    type Output = Result<Bytes, Stop>;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Self::Output {
        let Self(talk, says, mut redact) = self;
        let mut out = BytesMut::new();
        for message in says(talk, plan, counts)? {
            // Last, when escapes are undone.
            let without = redact.as_mut().and_then(|redact| redact.whole(&message));
            frame(true, TEXT, without.as_deref().unwrap_or(&message), &mut out);
        }
        Ok(out.freeze())
    }
}

/// A frame of control.
struct Controls<'a>(&'a Control);

impl Maskable for Controls<'_> {
    type Output = Bytes;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Bytes {
        let mut out = BytesMut::new();
        control(self.0.opcode, &self.0.payload, plan, counts, &mut out);
        out.freeze()
    }
}
