//! What is masked for one principal, and how.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;

use crate::model::{DataClass, MaskCounts};

/// Detectors, validators and strategies, compiled once.
#[derive(Debug, Default)]
pub struct MaskEngine {}

impl MaskEngine {
    /// The plan for somebody who may see `revealed` as it is.
    #[must_use]
    pub fn plan(self: &Arc<Self>, revealed: &BTreeSet<DataClass>) -> MaskPlan {
        MaskPlan {
            _engine: Arc::clone(self),
            revealed: Arc::new(revealed.clone()),
        }
    }
}

/// What is masked for one principal; cheap to clone.
#[derive(Debug, Clone)]
pub struct MaskPlan {
    _engine: Arc<MaskEngine>,
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

    /// Masks one whole value in text form. With `declared`, the whole value is of that class; otherwise every match of
    /// a detector in it is replaced. Total: what cannot be masked becomes redacted.
    pub fn text(
        &self,
        _declared: Option<&DataClass>,
        _value: &[u8],
        _out: &mut BytesMut,
        _counts: &mut MaskCounts,
    ) -> CellMask {
        CellMask::Unchanged
    }

    /// Applies the plan to content of a protocol.
    pub fn apply<C: super::Maskable>(&self, content: C, counts: &mut MaskCounts) -> super::Masked<C::Output> {
        super::Masked::by_plan(content.mask(self, counts))
    }
}
