//! What is asked, what people say to it, and what comes of it.

use std::collections::BTreeSet;

use crate::model::{Fingerprint, Group, OperationId, PolicyId, Principal, Target};

use super::consent::Consent;
use super::terms::Terms;

/// A request for consent.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The operation that asks.
    pub operation: OperationId,
    /// Whose it is.
    pub principal: Principal,
    /// The target.
    pub target: Target,
    /// What the consent is bound to.
    pub fingerprint: Fingerprint,
    /// What approvers are shown: the action.
    pub action: String,
    /// What approvers are shown: the statement, masked.
    pub text: String,
    /// What approvers are shown: the process (`comm`, pid, executable).
    pub process: String,
    /// The policies that want consent.
    pub policies: Vec<PolicyId>,
    /// Their reason.
    pub reason: String,
    /// Somebody of each set must consent.
    pub approvers: Vec<BTreeSet<Group>>,
    /// How many different people must consent.
    pub min_approvals: u32,
}

/// How a wait for consent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Consent: used up by this answer.
    Granted(Consent),
    /// Nobody has decided yet; the request stays.
    Pending,
    /// Somebody said no.
    Denied {
        /// Who (`issuer/subject`).
        by: String,
        /// Why.
        comment: String,
    },
    /// Nobody decided within the time that a request can be decided.
    Expired,
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vote {
    /// Yes.
    Approve {
        /// How often and how long.
        terms: Terms,
        /// Why; recorded.
        comment: String,
    },
    /// No, and why. Takes back what was granted and is not used yet.
    Deny {
        /// Why.
        comment: String,
    },
}

/// Who says it, and from where.
#[derive(Debug, Clone)]
pub struct Voter {
    /// The person, by their own token.
    pub principal: Principal,
    /// The local user on the control socket.
    pub uid: Option<u32>,
}
