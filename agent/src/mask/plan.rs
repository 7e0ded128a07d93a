//! What is masked for one principal, and how.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::model::{DataClass, MaskCounts};

use super::classes::{Strategy, Treatment};
use super::detect::{Detector, Found};
use super::engine::{MaskEngine, Rule, Sight};
use super::replace::{redact, replace};
use super::scan::{Event, Scanner};
use super::stream::StreamMask;
use super::view::View;
use super::{Maskable, Masked};

/// Shortest text that any detector finds something in: `a@b.io`.
const SHORTEST: usize = 6;

/// What is masked for one principal; cheap to clone.
#[derive(Debug, Clone)]
pub struct MaskPlan {
    engine: Arc<MaskEngine>,
    sight: Arc<Sight>,
}

/// What became of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellMask {
    /// Nothing in it is sensitive, or the principal may see it: use the input. Nothing was written.
    Unchanged,
    /// The masked value was appended to `out`.
    Replaced,
    /// NULL stands for it. Nothing was written.
    Null,
}

/// A value in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its class.
    pub class: DataClass,
    /// The place of its first byte.
    pub start: usize,
    /// The place behind its last byte.
    pub end: usize,
}

impl MaskPlan {
    pub(super) const fn new(engine: Arc<MaskEngine>, sight: Arc<Sight>) -> Self {
        Self { engine, sight }
    }

    /// Whether values of `class` stay as they are.
    #[must_use]
    pub fn reveals(&self, class: &DataClass) -> bool {
        self.sight.revealed.contains(class)
    }

    /// Whether values of any class stay as they are.
    #[must_use]
    pub fn reveals_any(&self) -> bool {
        !self.sight.revealed.is_empty()
    }

    /// The plan for records: every class masked, whatever this one reveals.
    #[must_use]
    pub fn for_records(&self) -> Self {
        Self::new(Arc::clone(&self.engine), Arc::clone(self.engine.nothing()))
    }

    /// Masks one whole value in text form. With `declared`, the whole value is of that class; otherwise every match of
    /// a detector in it is replaced. Total: what cannot be masked becomes redacted.
    pub fn text(
        &self,
        declared: Option<&DataClass>,
        value: &[u8],
        out: &mut BytesMut,
        counts: &mut MaskCounts,
    ) -> CellMask {
        match declared {
            Some(class) => self.whole(class, value, out, counts),
            None => self.parts(value, out, counts),
        }
    }

    /// Applies the plan to content of a protocol.
    pub fn apply<C: Maskable>(&self, content: C, counts: &mut MaskCounts) -> Masked<C::Output> {
        Masked::by_plan(content.mask(self, counts))
    }

    /// Masks text that arrives in pieces.
    #[must_use]
    pub fn stream(&self) -> StreamMask {
        StreamMask::new(self.clone())
    }

    /// A text as records and approvers see it: every class masked, whatever this plan reveals.
    #[must_use]
    pub fn shown(&self, text: &str) -> String {
        let plan = self.for_records();
        let (mut out, mut counts) = (BytesMut::new(), MaskCounts::default());
        match plan.parts(text.as_bytes(), &mut out, &mut counts) {
            CellMask::Unchanged => text.to_owned(),
            CellMask::Replaced => match String::from_utf8_lossy(&out) {
                Cow::Borrowed(masked) => masked.to_owned(),
                Cow::Owned(masked) => masked,
            },
            CellMask::Null => "[masked]".to_owned(),
        }
    }

    /// Where in a whole text there are values that this plan masks, in order and without overlaps; a private key with
    /// all its lines. Patterns of classes are looked for here, and in no text that comes back.
    #[must_use]
    pub fn spans(&self, text: &[u8]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut taken = false;
        self.scanner()
            .run(&View::new(text, true), 0, &mut |event| match event {
                Event::Gone(end) => {
                    if let Some(last) = spans.last_mut().filter(|_| taken) {
                        last.end = end;
                    }
                }
                Event::Hit(found) => {
                    let rule = self.taken(found);
                    taken = rule.is_some();
                    spans.extend(rule.map(|rule| Span {
                        class: rule.class.clone(),
                        start: found.start,
                        end: found.end,
                    }));
                }
            });
        let found = self.engine.patterns().flat_map(|(class, pattern)| {
            pattern.0.find_iter(text).map(|found| Span {
                class: class.clone(),
                start: found.start(),
                end: found.end(),
            })
        });
        let patterns: Vec<Span> = found.collect();
        if patterns.is_empty() {
            return spans;
        }
        spans.extend(patterns);
        // The first, and of those the longest.
        spans.sort_by_key(|span| (span.start, usize::MAX - span.end));
        let mut end = 0;
        spans.retain(|span| {
            let apart = span.start >= end;
            if apart {
                end = span.end;
            }
            apart
        });
        spans
    }

    /// The classes whose patterns are in a text.
    #[must_use]
    pub fn patterns_in(&self, text: &[u8]) -> BTreeSet<DataClass> {
        let found = self
            .engine
            .patterns()
            .filter(|(_, pattern)| pattern.0.is_match(text));
        found.map(|(class, _)| class.clone()).collect()
    }

    /// A text without what patterns find in it.
    #[must_use]
    pub fn without_patterns(&self, text: String) -> String {
        let mut bytes = text.into_bytes();
        for (class, pattern) in self.engine.patterns() {
            let name = format!("[{class}]");
            bytes = pattern
                .0
                .replace_all(&bytes, regex::bytes::NoExpand(name.as_bytes()))
                .into_owned();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn whole(
        &self,
        class: &DataClass,
        value: &[u8],
        out: &mut BytesMut,
        counts: &mut MaskCounts,
    ) -> CellMask {
        let treatment = self.engine.treatment(class);
        if self.reveals(class) || treatment.strategy == Strategy::Keep {
            // Of this class it may be seen; what else is in it may not.
            return self.parts(value, out, counts);
        }
        counts.add(class, 1);
        if replace(treatment, class, value, self.engine.key(), out) {
            CellMask::Replaced
        } else {
            CellMask::Null
        }
    }

    fn parts(&self, value: &[u8], out: &mut BytesMut, counts: &mut MaskCounts) -> CellMask {
        if !self.sight.usable {
            return CellMask::Null;
        }
        if value.len() < SHORTEST || self.sight.enabled.is_empty() {
            return CellMask::Unchanged;
        }
        let view = View::new(value, true);
        let mut copied = 0;
        let mut result = CellMask::Unchanged;
        let mut taken = false;
        self.scanner().run(&view, 0, &mut |event| match event {
            Event::Gone(end) => {
                if taken {
                    copied = end;
                }
            }
            Event::Hit(found) => {
                let rule = self.taken(found);
                taken = rule.is_some();
                let Some(rule) = rule else { return };
                if found.start == 0 && found.end == value.len() && is_null(rule.treatment) {
                    counts.add(&rule.class, 1);
                    result = CellMask::Null;
                } else {
                    out.put_slice(value.get(copied..found.start).unwrap_or_default());
                    self.replace(rule, found, value, out, counts);
                    result = CellMask::Replaced;
                }
                copied = found.end;
            }
        });
        if result == CellMask::Replaced {
            out.put_slice(value.get(copied..).unwrap_or_default());
        }
        result
    }

    #[cfg(test)]
    pub(super) fn shares_sight_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sight, &other.sight)
    }

    /// Whether anything at all may pass: without classes nothing tells what is sensitive.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.sight.usable
    }

    pub(super) fn scanner(&self) -> Scanner {
        Scanner::new(self.sight.enabled)
    }

    /// The rule for what was found; `None` where it stays.
    pub(super) fn taken(&self, found: Found) -> Option<&Rule> {
        let rule = self.sight.rule(found.detector);
        rule.filter(|r| r.treatment.strategy != Strategy::Keep)
    }

    /// Appends and counts what stands for a part of `text`.
    pub(super) fn replace(
        &self,
        rule: &Rule,
        found: Found,
        text: &[u8],
        out: &mut BytesMut,
        counts: &mut MaskCounts,
    ) {
        let Rule { class, treatment } = rule;
        counts.add(class, 1);
        let value = text.get(found.start..found.end).unwrap_or_default();
        // Of a private key only the first line is at hand: it has no shape to keep. Part of a text cannot be NULL.
        let whole = found.detector != Detector::PemKey;
        if !whole || !replace(*treatment, class, value, self.engine.key(), out) {
            redact(class, out);
        }
    }
}

const fn is_null(treatment: Treatment) -> bool {
    matches!(treatment.strategy, Strategy::Null | Strategy::Deny)
}
