//! Exactly one outcome for every operation that went on.

use std::sync::Arc;

use crate::model::{OperationId, Outcome, OutcomeStatus, Timestamp};

use super::event::{Event, Scene};
use super::log::OutcomeSlot;

/// Owes the log one outcome: `finish` pays it; dropping it records `abandoned`.
#[derive(Debug)]
#[must_use = "dropping it records the operation as abandoned"]
pub struct OutcomeGuard {
    owed: Option<(OutcomeSlot, Arc<Scene>)>,
    id: OperationId,
    started: Timestamp,
}

impl OutcomeGuard {
    /// Owes an outcome for `id` through `slot`.
    pub fn new(slot: OutcomeSlot, scene: Arc<Scene>, id: OperationId, started: Timestamp) -> Self {
        Self {
            owed: Some((slot, scene)),
            id,
            started,
        }
    }

    /// The operation.
    #[must_use]
    pub const fn operation(&self) -> OperationId {
        self.id
    }

    /// Records `outcome`; its `took` is filled in here.
    pub fn finish(mut self, outcome: Outcome) {
        self.pay(outcome);
    }

    fn pay(&mut self, mut outcome: Outcome) {
        if let Some((slot, scene)) = self.owed.take() {
            outcome.took = crate::clock::now().since(self.started);
            slot.send(Event::OperationEnded {
                scene,
                id: self.id,
                outcome,
            });
        }
    }
}

impl Drop for OutcomeGuard {
    fn drop(&mut self) {
        self.pay(Outcome::bare(OutcomeStatus::Abandoned, "nobody saw its end"));
    }
}
