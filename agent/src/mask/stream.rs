//! Masking text that arrives in pieces.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::model::MaskCounts;

use super::plan::MaskPlan;
use super::scan::{Event, Scanner};
use super::view::{LOOK_BACK, View};

/// Masks text that arrives in pieces. What comes out does not depend on where the pieces were cut; it is what
/// [`MaskPlan::text`] makes of the whole, except that NULL is always redaction.
///
/// Held back is only what may still become a value: usually the last word. Tokens and keys that are redacted are certain
/// within 128 bytes; where their class has another strategy, their end is waited for (9 KiB at most).
pub struct StreamMask {
    plan: MaskPlan,
    scanner: Scanner,
    /// Bytes that are out already, for what looks back, and behind them those that are held back.
    text: Vec<u8>,
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
            text: Vec::new(),
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
                    out.put_slice(view.known(copied, found.start));
                    plan.replace(rule, found, text, out, counts);
                    copied = found.end;
                }
            }
        });
        out.put_slice(text.get(copied..decided).unwrap_or_default());
        let context = decided.saturating_sub(LOOK_BACK);
        text.drain(..context);
        *held = decided - context;
    }
}
