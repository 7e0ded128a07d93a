//! What a process could ask for in a session: for lists of what a server offers.

use std::sync::Arc;

use crate::audit::{Event, JudgedAs, OperationEvent, Scene};
use crate::config::{Mode, TargetConfig};
use crate::identity::Binding;
use crate::model::{Digest, Offer, Operation, OperationId, RecordingLevel, Refusal};
use crate::policy::Decision;

use super::authorize::denial_refusal;
use super::open::{Rooms, Session, owner};

/// The policies as they bear on a session, for offers that nobody took yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prospects {
    rooms: Arc<Rooms>,
    binding: Arc<Binding>,
    target: Arc<TargetConfig>,
    scene: Arc<Scene>,
}

impl Session {
    /// What could be asked for.
    #[must_use]
    pub fn prospects(&self) -> Prospects {
        Prospects {
            rooms: Arc::clone(&self.rooms),
            binding: Arc::clone(&self.binding),
            target: Arc::clone(&self.target),
            scene: Arc::clone(&self.scene),
        }
    }
}

impl Prospects {
    /// The key of whoever stands behind the session; `None` where nobody does any more.
    #[must_use]
    pub fn whose(&self) -> Option<String> {
        let principal = owner(&self.binding, &self.scene, crate::clock::now()).ok()?;
        Some(principal.key())
    }

    /// Whether refusals are only recorded.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.target.mode.unwrap_or(self.rooms.mode) == Mode::Observe
    }

    /// Whether something that the target asks of the process is permitted. Nobody can be asked for consent to it: what
    /// needs some is not. What is not permitted is recorded. In observe mode everything is permitted.
    #[must_use]
    pub fn permits(&self, operation: Operation) -> bool {
        if self.observes() {
            return true;
        }
        let now = crate::clock::now();
        let (refusal, bundle) = match owner(&self.binding, &self.scene, now) {
            Err(refusal) => (refusal, None),
            Ok(principal) => {
                let engine = self.rooms.policies.current();
                let denial = match engine.decide(&operation, &principal, &self.target.target, None, now) {
                    Decision::Allow(_) => return true,
                    Decision::Deny(denial) => denial,
                    Decision::NeedsApproval(need) => need.as_denial(),
                };
                let bundle = denial.bundle;
                (denial_refusal(denial), Some(bundle))
            }
        };
        self.record(Some(Arc::new(operation)), &refusal, bundle);
        false
    }

    /// Records that something of the target is not passed on that was not understood as an operation.
    pub fn refuse(&self, refusal: &Refusal) {
        self.record(None, refusal, None);
    }

    /// Records a refusal from where nothing can be awaited; it stays one where that fails.
    fn record(&self, operation: Option<Arc<Operation>>, refusal: &Refusal, bundle: Option<Digest>) {
        let (recording, degraded) = match self.rooms.audit.has_room() {
            Ok(()) => (self.target.recording, false),
            Err(_full) => (RecordingLevel::Metadata, true),
        };
        let event = OperationEvent {
            id: OperationId::new(),
            operation,
            judged: JudgedAs::Refused {
                policies: refusal.policies.clone(),
                reason: refusal.reason.clone(),
                kind: refusal.kind.name(),
                ticket: None,
            },
            bundle,
            recording,
            degraded,
            trace: None,
        };
        let scene = Arc::clone(&self.scene);
        match self.rooms.audit.promise() {
            Ok(slot) => slot.send(Event::Operation { scene, event }),
            Err(error) => tracing::error!(%error, "a refusal could not be recorded"),
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
        let Ok(principal) = owner(&self.binding, &self.scene, now) else {
            return false;
        };
        let engine = self.rooms.policies.current();
        engine.possible(offer, &principal, &self.target.target, now)
    }
}
