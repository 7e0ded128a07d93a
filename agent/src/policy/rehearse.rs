//! What the policies would answer, in plain values: for cases kept beside them. No witness comes of it, so that nothing that
//! was only imagined can be forwarded.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{DataClass, Group, Limits, Operation, PolicyId, Principal, PromptMask, Target, Timestamp};

use super::decision::{Allowed, ApprovalNeed, Decision, Denial};
use super::engine::{Engine, scene_key};
use super::question::Word;

/// The answer in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may go.
    Allow,
    /// It may not.
    Deny,
    /// It waits for consent.
    Hold,
}

impl Answer {
    /// The name in case files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hold => "hold",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::Deny, Self::Hold]
            .into_iter()
            .find(|answer| answer.name() == name)
    }
}

/// What the policies would answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// The answer.
    pub answer: Answer,
    /// The policies that determined it; none where no policy permits it.
    pub policies: Vec<PolicyId>,
    /// Why it was not allowed.
    pub reason: String,
    /// Whose consent it needs.
    pub approvers: BTreeSet<Group>,
    /// How many must consent.
    pub min_approvals: Option<u32>,
    /// How long it would wait for that.
    pub hold: Option<Duration>,
    /// What would be shown as it is.
    pub reveals: BTreeSet<DataClass>,
    /// Bounds on it.
    pub limits: Limits,
    /// What would be masked in a prompt.
    pub prompt: PromptMask,
}

impl Engine {
    /// What the policies would answer, with the consent of somebody of these groups where given.
    #[must_use]
    pub fn rehearse(
        &self,
        operation: &Operation,
        principal: &Principal,
        target: &Target,
        consent: Option<&BTreeSet<Group>>,
        now: Timestamp,
    ) -> Rehearsal {
        let decided = self
            .scene(scene_key(principal, target), principal, target, now)
            .and_then(|scene| {
                let word = consent.map(Word::Imagined);
                self.evaluate(&scene, operation, principal, target, word, now)
            })
            .unwrap_or_else(|unsayable| Decision::Deny(self.failed(Vec::new(), &unsayable)));
        match decided {
            Decision::Allow(allowed) => of_allowed(allowed),
            Decision::Deny(denial) => of_denial(denial),
            Decision::NeedsApproval(need) => of_need(need),
        }
    }
}

fn plain(answer: Answer, policies: Vec<PolicyId>, reason: String) -> Rehearsal {
    Rehearsal {
        answer,
        policies,
        reason,
        approvers: BTreeSet::new(),
        min_approvals: None,
        hold: None,
        reveals: BTreeSet::new(),
        limits: Limits::default(),
        prompt: PromptMask::default(),
    }
}

fn of_allowed(allowed: Allowed) -> Rehearsal {
    let Allowed {
        policies,
        obligations,
        bundle: _,
        observed: _,
    } = allowed;
    let crate::model::Obligations {
        revealed,
        recording: _,
        limits,
        prompt,
    } = obligations;
    Rehearsal {
        reveals: revealed,
        limits,
        prompt: prompt.mask,
        ..plain(Answer::Allow, policies, String::new())
    }
}

fn of_denial(denial: Denial) -> Rehearsal {
    let Denial {
        policies,
        reason,
        cause: _,
        bundle: _,
    } = denial;
    plain(Answer::Deny, policies, reason)
}

fn of_need(need: ApprovalNeed) -> Rehearsal {
    let ApprovalNeed {
        policies,
        reason,
        approvers,
        hold,
        min_approvals,
        bundle: _,
    } = need;
    Rehearsal {
        approvers: approvers.into_iter().flatten().collect(),
        min_approvals: Some(min_approvals),
        hold,
        ..plain(Answer::Hold, policies, reason)
    }
}
