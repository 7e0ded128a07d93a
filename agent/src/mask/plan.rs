//! What is masked for one principal, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;

use crate::model::{DataClass, MaskCounts};

use super::classes::{Classes, Strategy};
use super::detect::{Detector, Detectors};
use super::key::MaskKey;
use super::replace::{redact, replace};
use super::{Maskable, Masked};

/// Detectors, validators and strategies, compiled once.
#[derive(Debug)]
pub struct MaskEngine {
    detectors: Option<Detectors>,
    classes: BTreeMap<DataClass, Strategy>,
    by_detector: BTreeMap<Detector, DataClass>,
    names: BTreeSet<DataClass>,
    key: MaskKey,
    nothing: Arc<BTreeSet<DataClass>>,
}

impl MaskEngine {
    /// Compiles the classes.
    #[must_use]
    pub fn new(classes: Classes, key: MaskKey) -> Self {
        let Classes {
            strategies,
            detectors,
        } = classes;
        let names = strategies.keys().cloned().collect();
        let compiled = Detectors::compile();
        if compiled.is_none() {
            tracing::error!("the detectors do not compile: every value is redacted");
        }
        Self {
            detectors: compiled,
            classes: strategies,
            by_detector: detectors,
            names,
            key,
            nothing: Arc::default(),
        }
    }

    /// Every class that there is.
    #[must_use]
    pub const fn classes(&self) -> &BTreeSet<DataClass> {
        &self.names
    }

    /// The plan for somebody who may see `revealed` as it is.
    #[must_use]
    pub fn plan(self: &Arc<Self>, revealed: &BTreeSet<DataClass>) -> MaskPlan {
        let revealed = if revealed.is_empty() {
            Arc::clone(&self.nothing)
        } else {
            Arc::new(revealed.clone())
        };
        MaskPlan {
            engine: Arc::clone(self),
            revealed,
        }
    }
}

/// What is masked for one principal; cheap to clone.
#[derive(Debug, Clone)]
pub struct MaskPlan {
    engine: Arc<MaskEngine>,
    revealed: Arc<BTreeSet<DataClass>>,
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

impl MaskPlan {
    /// Whether values of `class` stay as they are.
    #[must_use]
    pub fn reveals(&self, class: &DataClass) -> bool {
        self.revealed.contains(class)
    }

    /// The strategy for a class; `Keep` for a revealed one, `Redact` for one that nobody described.
    fn strategy(&self, class: &DataClass) -> Strategy {
        if self.reveals(class) {
            return Strategy::Keep;
        }
        self.engine
            .classes
            .get(class)
            .copied()
            .unwrap_or(Strategy::Redact)
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

    fn whole(
        &self,
        class: &DataClass,
        value: &[u8],
        out: &mut BytesMut,
        counts: &mut MaskCounts,
    ) -> CellMask {
        let strategy = self.strategy(class);
        if strategy == Strategy::Keep {
            // Of this class it may be seen; what else is in it may not.
            return self.parts(value, out, counts);
        }
        counts.add(class, 1);
        if replace(strategy, class, value, &self.engine.key, out) {
            CellMask::Replaced
        } else {
            CellMask::Null
        }
    }

    fn parts(&self, value: &[u8], out: &mut BytesMut, counts: &mut MaskCounts) -> CellMask {
        let Some(detectors) = &self.engine.detectors else {
            return CellMask::Null;
        };
        let mut copied = 0;
        let mut changed = false;
        detectors.find(value, |found| {
            let Some(class) = self.engine.by_detector.get(&found.detector) else {
                return;
            };
            let strategy = self.strategy(class);
            if strategy == Strategy::Keep {
                return;
            }
            changed = true;
            counts.add(class, 1);
            out.extend_from_slice(value.get(copied..found.start).unwrap_or_default());
            let hit = value.get(found.start..found.end).unwrap_or_default();
            if !replace(strategy, class, hit, &self.engine.key, out) {
                // Part of a value cannot be NULL.
                redact(class, out);
            }
            copied = found.end;
        });
        if !changed {
            return CellMask::Unchanged;
        }
        out.extend_from_slice(value.get(copied..).unwrap_or_default());
        CellMask::Replaced
    }
}
