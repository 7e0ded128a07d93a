//! Requests for consent and the grants that answer them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{Fingerprint, Group, OperationId, PolicyId, Principal, Target, Ticket, Timestamp};

use super::consent::Consent;

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

/// Why the broker could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The store failed.
    #[error("the store of approvals cannot be used: {0}")]
    Store(String),
}

/// Requests for consent and the grants that answer them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Broker {}

impl Broker {
    /// Uses up a grant for exactly this principal, target and fingerprint, where there is one.
    ///
    /// # Errors
    /// Where the store fails: then there is no consent.
    pub async fn claim(
        &self,
        _principal: &Principal,
        _target: &Target,
        _fingerprint: Fingerprint,
        _now: Timestamp,
    ) -> Result<Option<Consent>, BrokerError> {
        Ok(None)
    }

    /// Opens a request, or finds the open one for the same principal, target and fingerprint (a client that repeats
    /// itself does not make a second). Recorded before it returns.
    ///
    /// # Errors
    /// Where the store or the log fails.
    pub async fn open(&self, _ask: &Ask, _now: Timestamp) -> Result<Ticket, BrokerError> {
        Err(BrokerError::Store("not open".into()))
    }

    /// Waits for an answer, at most `patience`; `Duration::ZERO` looks once.
    ///
    /// # Errors
    /// Where the store fails: then there is no consent.
    pub async fn wait(&self, _ticket: &Ticket, _patience: Duration) -> Result<Answer, BrokerError> {
        Ok(Answer::Pending)
    }
}
