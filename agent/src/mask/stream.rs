//! Masking text that arrives in pieces.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};

use crate::model::MaskCounts;

use super::plan::MaskPlan;
use super::scan::{Event, Scanner};
use super::view::{LOOK_BACK, View};

/// From so many bytes on a piece that stays as it is is not copied.
const WORTH_MOVING: usize = 1024;

/// Masks text that arrives in pieces. What comes out does not depend on where the pieces were cut; it is what
/// [`MaskPlan::text`] makes of the whole, except that NULL is always redaction.
///
/// Held back is only what may still become a value: usually the last word. Tokens and keys that are redacted are certain
/// within 128 bytes; where their class has another strategy, their end is waited for (9 KiB at most).
pub struct StreamMask {
    plan: MaskPlan,
    scanner: Scanner,
    /// Bytes that are out already, for what looks back, and behind them those that are held back.
    text: BytesMut,
    /// Where the held back bytes begin.
    held: usize,
    /// Whether the value found last was replaced: then its tail goes too.
    taken: bool,
    counts: MaskCounts,
}

impl fmt::Debug for StreamMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMask")
            .field("held_back", &self.held_back())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl StreamMask {
    pub(super) fn new(plan: MaskPlan) -> Self {
        Self {
            scanner: plan.scanner(),
            plan,
            text: BytesMut::new(),
            held: 0,
            taken: false,
            counts: MaskCounts::default(),
        }
    }

    /// Takes a piece; appends what is decided to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) {
        self.text.extend_from_slice(piece);
        self.advance(false, out);
    }

    /// The same for a piece that `write` appends to what it is given, without one copy of it.
    pub fn push_by(&mut self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.text);
        self.advance(false, out);
    }

    /// The text is complete: appends the rest to `out`. Returns how much was masked.
    pub fn finish(mut self, out: &mut BytesMut) -> MaskCounts {
        self.advance(true, out);
        self.counts
    }

    /// How many bytes are held back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.text.len().saturating_sub(self.held)
    }

    fn advance(&mut self, complete: bool, out: &mut BytesMut) {
        if !self.plan.is_usable() {
            self.text.clear();
            return;
        }
        let Self {
            plan,
            scanner,
            text,
            held,
            taken,
            counts,
        } = self;
        let view = View::new(text, complete);
        let mut copied = *held;
        let decided = scanner.run(&view, *held, &mut |event| match event {
            Event::Gone(end) => {
                if *taken {
                    copied = end;
                }
            }
            Event::Hit(found) => {
                let rule = plan.taken(found);
                *taken = rule.is_some();
                if let Some(rule) = rule {
                    out.reserve(text.len() - copied);
                    out.put_slice(view.known(copied, found.start));
                    plan.replace(rule, found, text, out, counts);
                    copied = found.end;
                }
            }
        });
        let context = decided.saturating_sub(LOOK_BACK);
        if copied == *held && out.is_empty() && decided.saturating_sub(copied) >= WORTH_MOVING {
            // As it is: what follows gets the copy, which is the smaller one.
            let rest = BytesMut::from(text.get(context..).unwrap_or_default());
            *out = std::mem::replace(text, rest);
            out.truncate(decided);
            out.advance(copied);
        } else {
            out.put_slice(text.get(copied..decided).unwrap_or_default());
            text.advance(context);
        }
        *held = decided - context;
    }
}
