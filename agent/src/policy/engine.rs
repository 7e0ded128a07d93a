//! One loaded set of policies, and the handle through which a reload replaces it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::approval::Consent;
use crate::model::{Digest, Limits, Obligations, Operation, Principal, RecordingLevel, Target, Timestamp};

use super::decision::{Allowed, Decision, Denial, DenialCause};

/// One loaded, validated set of policies.
#[derive(Debug)]
pub struct Engine {
    bundle: Digest,
}

impl Engine {
    /// An engine without policies: denies everything.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bundle: Digest::of(b""),
        }
    }

    /// The digest of all policies, the schema included.
    #[must_use]
    pub const fn bundle(&self) -> Digest {
        self.bundle
    }

    /// Decides `operation`. Pure, synchronous, total: reads nothing but its arguments.
    #[must_use]
    pub fn decide(
        &self,
        _operation: &Operation,
        _principal: &Principal,
        _target: &Target,
        _consent: Option<&Consent>,
        _now: Timestamp,
    ) -> Decision {
        Decision::Deny(Denial {
            policies: Vec::new(),
            reason: "No policy permits this.".into(),
            cause: DenialCause::NotPermitted,
            bundle: self.bundle,
        })
    }

    /// Observe mode: lets pass what `denial` would have refused, with the obligations that the principal has anyway.
    #[must_use]
    pub fn observe(
        &self,
        _operation: &Operation,
        _principal: &Principal,
        _target: &Target,
        denial: Denial,
        _now: Timestamp,
    ) -> Allowed {
        let obligations = Obligations {
            revealed: std::collections::BTreeSet::new(),
            recording: RecordingLevel::Operations,
            limits: Limits::default(),
        };
        Allowed {
            policies: Vec::new(),
            obligations,
            bundle: self.bundle,
            observed: Some(denial),
        }
    }
}

/// The current set of policies; a reload replaces it at once for every decision that starts later.
#[derive(Debug)]
pub struct Policies {
    current: ArcSwap<Engine>,
}

impl Policies {
    /// Starts with `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            current: ArcSwap::from_pointee(engine),
        }
    }

    /// The set to decide with now.
    #[must_use]
    pub fn current(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// Replaces the set.
    pub fn replace(&self, engine: Engine) {
        self.current.store(Arc::new(engine));
    }
}
