//! What a process could ask for in a session: for lists of what a server offers.

use std::sync::Arc;

use crate::config::{Mode, TargetConfig};
use crate::identity::Binding;
use crate::model::{Offer, Operation};
use crate::policy::Decision;

use super::open::{Rooms, Session};

/// The policies as they bear on a session, for offers that nobody took yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prospects {
    rooms: Arc<Rooms>,
    binding: Arc<Binding>,
    target: Arc<TargetConfig>,
}

impl Session {
    /// What could be asked for.
    #[must_use]
    pub fn prospects(&self) -> Prospects {
        Prospects {
            rooms: Arc::clone(&self.rooms),
            binding: Arc::clone(&self.binding),
            target: Arc::clone(&self.target),
        }
    }
}

impl Prospects {
    /// The key of whoever stands behind the session; `None` where nobody does any more.
    #[must_use]
    pub fn whose(&self) -> Option<String> {
        let principal = self.binding.current(crate::clock::now()).ok()?;
        Some(principal.key())
    }

    /// Whether refusals are only recorded.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.target.mode.unwrap_or(self.rooms.mode) == Mode::Observe
    }

    /// Whether something that the target asks of the process is permitted. Nobody can be asked for consent to it: what
    /// needs some is not. In observe mode everything is.
    #[must_use]
    pub fn permits(&self, operation: &Operation) -> bool {
        if self.observes() {
            return true;
        }
        let now = crate::clock::now();
        let Ok(principal) = self.binding.current(now) else {
            return false;
        };
        let engine = self.rooms.policies.current();
        match engine.decide(operation, &principal, &self.target.target, None, now) {
            Decision::Allow(_) => true,
            Decision::Deny(_) | Decision::NeedsApproval(_) => false,
        }
    }

    /// Whether some arguments of it could be permitted, with the consent of whoever is needed. In observe mode
    /// everything is. Nobody stands behind the session any more: nothing is.
    #[must_use]
    pub fn possible(&self, offer: &Offer) -> bool {
        if self.observes() {
            return true;
        }
        let now = crate::clock::now();
        let Ok(principal) = self.binding.current(now) else {
            return false;
        };
        let engine = self.rooms.policies.current();
        engine.possible(offer, &principal, &self.target.target, now)
    }
}
