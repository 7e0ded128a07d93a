//! What a decision is. There is no error variant: whatever goes wrong while deciding is a denial.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{Digest, Group, Obligations, PolicyId};

/// What the policies answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may go.
    Allow(Allowed),
    /// It may not.
    Deny(Denial),
    /// It may go once people of certain groups consent.
    NeedsApproval(ApprovalNeed),
}

/// The witness that the policies allow an operation. Made only in this room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    pub(in crate::policy) policies: Vec<PolicyId>,
    pub(in crate::policy) obligations: Obligations,
    pub(in crate::policy) bundle: Digest,
    pub(in crate::policy) observed: Option<Denial>,
}

impl Allowed {
    /// The policies that permit it.
    #[must_use]
    pub fn policies(&self) -> &[PolicyId] {
        &self.policies
    }

    /// What it must still obey.
    #[must_use]
    pub const fn obligations(&self) -> &Obligations {
        &self.obligations
    }

    /// The digest of the policies that decided.
    #[must_use]
    pub const fn bundle(&self) -> Digest {
        self.bundle
    }

    /// In observe mode: the denial that would have been.
    #[must_use]
    pub const fn observed(&self) -> Option<&Denial> {
        self.observed.as_ref()
    }
}

/// Why the policies deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The policies that forbid it, or that failed; empty when none permits it.
    pub policies: Vec<PolicyId>,
    /// The policies' `@reason`s, or what went wrong; a sentence.
    pub reason: String,
    /// What kind of denial.
    pub cause: DenialCause,
    /// The digest of the policies that decided.
    pub bundle: Digest,
}

/// What kind of denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialCause {
    /// A policy forbids it.
    Forbidden,
    /// No policy permits it.
    NotPermitted,
    /// A policy failed to evaluate: Cedar would skip it, so the answer is no.
    EvaluationError,
}

/// Whose consent an operation needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalNeed {
    /// The policies that want it.
    pub policies: Vec<PolicyId>,
    /// Their reasons; a sentence.
    pub reason: String,
    /// One set for each policy: somebody of each set must consent. Never empty.
    pub approvers: Vec<BTreeSet<Group>>,
    /// The shortest `@hold` among the policies; `None` where none has one.
    pub hold: Option<Duration>,
    /// The largest `@min_approvals`; at least 1.
    pub min_approvals: u32,
    /// The digest of the policies that decided.
    pub bundle: Digest,
}

impl ApprovalNeed {
    /// The denial that it is without consent.
    #[must_use]
    pub fn as_denial(&self) -> Denial {
        Denial {
            policies: self.policies.clone(),
            reason: self.reason.clone(),
            cause: DenialCause::Forbidden,
            bundle: self.bundle,
        }
    }
}
