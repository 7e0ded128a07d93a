//! Messages of a target as records keep them: what is shown is read once more, frame by frame, so that each message is text
//! again.

use bytes::{Buf, Bytes};

use crate::mask::{MaskPlan, Masked};
use crate::model::MaskCounts;
use crate::session::Recording;

use super::super::answer::{Masker, Next, Shape};
use super::super::escapes::Format;
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
