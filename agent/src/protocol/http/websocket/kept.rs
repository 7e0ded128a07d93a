//! Messages of a target as records keep them: what is shown is read once more, frame by frame, so that each message is text
//! again.

use bytes::{Buf, Bytes};

use crate::mask::{MaskPlan, Maskable, Masked, NoData};
use crate::model::{MaskCounts, Unkept};
use crate::session::{Recording, Unkeepable};

use super::super::answer::{Masker, Next, Shape};
use super::super::escapes::{Format, masked_text};
use super::super::kept::Conceals;
use super::{BINARY, CONTINUATION, TEXT};

/// Records frames that are about to be shown.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) recording: Box<Recording>,
    /// Reveals nothing.
    plan: MaskPlan,
    /// Whether what is shown may hold more than is recorded.
    reveals: bool,
    /// Of a message that is looked at once more.
    masker: Option<Masker>,
}

impl Kept {
    /// `plan`: what the process is shown.
    pub(super) fn new(mut recording: Box<Recording>, plan: &MaskPlan) -> Self {
        recording.messages();
        Self {
            recording,
            plan: plan.for_records(),
            reveals: plan.reveals_any(),
            masker: None,
        }
    }

    /// Whole frames, as a server writes them.
    pub(super) fn frames(&mut self, shown: &Masked<Bytes>) {
        let mut rest = shown.content().clone();
        while let Some((first, payload)) = next(&mut rest) {
            let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
            match opcode {
                TEXT if self.reveals => self.begin(Shape::Text(Format::Text)),
                BINARY => self.begin(Shape::Unknown),
                TEXT | CONTINUATION => {}
                // Frames of control may come within a message.
                _ => continue,
            }
            if self.masker.is_none() {
                let end = shown.size() - rest.len();
                self.recording.push_range(shown, end - payload.len()..end);
                continue;
            }
            self.again(Some(&payload));
            if last {
                self.again(None);
                self.masker = None;
                self.recording.next_message();
            }
        }
    }

    fn begin(&mut self, shape: Shape) {
        self.masker = Some(Masker::new(shape, None, &self.plan));
    }

    fn again(&mut self, payload: Option<&[u8]>) {
        let Some(masker) = &mut self.masker else { return };
        let next = Next(masker, None, payload);
        match self.plan.apply(next, &mut MaskCounts::default()).transpose() {
            Ok(masked) if !masker.is_blind() => self.recording.push(&masked),
            Ok(_) | Err(_) => self.recording.unread(payload.unwrap_or_default()),
        }
    }
}

/// The next frame: its first byte and its payload.
fn next(rest: &mut Bytes) -> Option<(u8, Bytes)> {
    let first = rest.try_get_u8().ok()?;
    let length = match rest.try_get_u8().ok()? {
        126 => u64::from(rest.try_get_u16().ok()?),
        127 => rest.try_get_u64().ok()?,
        short => short.into(),
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= rest.len())?;
    Some((first, rest.split_to(length)))
}

/// How messages that answer one operation become what is recorded.
enum Way {
    /// As they are shown.
    Shown,
    /// Without what was put in for the process alone.
    Concealed(Conceals),
    /// Not at all: what is revealed may stand in several messages in pieces.
    Not,
}

/// Records messages that answer one operation.
pub(super) struct KeptTurn {
    recording: Box<Recording>,
    plan: MaskPlan,
    way: Way,
}

impl KeptTurn {
    /// `plan`: what the process is shown.
    pub(super) fn new(recording: Box<Recording>, plan: &MaskPlan, conceals: Option<Conceals>) -> Self {
        Self {
            recording,
            plan: plan.for_records(),
            way: match conceals {
                _ if plan.reveals_any() => Way::Not,
                Some(conceals) => Way::Concealed(conceals),
                None => Way::Shown,
            },
        }
    }

    /// Whole messages, each a text in one frame, as a server writes them; a line of the record each.
    pub(super) fn frames(&mut self, shown: &Masked<Bytes>) {
        let mut rest = shown.content().clone();
        while let Some((_first, payload)) = next(&mut rest) {
            match &self.way {
                Way::Shown => {
                    let end = shown.size() - rest.len();
                    self.recording.push_range(shown, end - payload.len()..end);
                }
                Way::Concealed(conceals) => {
                    let concealed = Concealed(conceals, &payload);
                    let masked = self.plan.apply(concealed, &mut MaskCounts::default());
                    self.recording.push(&masked);
                }
                Way::Not => self.recording.without(Unkept::Revealed, &payload),
            }
            let line = Masked::without_data(b"\n", NoData::ProtocolState);
            if !matches!(self.way, Way::Not) {
                self.recording.push(&line);
            }
        }
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) {
        self.recording.end();
    }

    /// Puts what is waiting into the log's queue. Cancel-safe.
    pub(super) async fn settle(&mut self) -> Result<(), Unkeepable> {
        self.recording.settle().await
    }
}

struct Concealed<'a>(&'a Conceals, &'a [u8]);

impl Maskable for Concealed<'_> {
    type Output = Bytes;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Bytes {
        let Self(conceals, payload) = self;
        masked_text(&conceals(payload), Format::Json, plan, counts).freeze()
    }
}
