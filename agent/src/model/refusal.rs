//! What the process is told when an operation is not forwarded.

use std::collections::BTreeSet;
use std::fmt;

use super::id::{Group, OperationId, PolicyId, Ticket};

/// Why an operation is not forwarded. Each protocol has one total table from this to its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// A policy forbids it, or none permits it (then `policies` is empty).
    Denied,
    /// It waits for somebody's consent: the same operation goes through once the ticket is approved.
    PendingApproval {
        /// What the approver needs.
        ticket: Ticket,
        /// Who may approve.
        approvers: BTreeSet<Group>,
    },
    /// An approver said no.
    ApprovalDenied {
        /// The request that was denied.
        ticket: Ticket,
    },
    /// The identity behind the process has ended or could not be established.
    Identity,
    /// The bytes are not understood, or use a part of the protocol that the agent does not carry.
    NotUnderstood,
    /// The record could not be made durable.
    NotRecorded,
    /// A limit of the agent or of a policy.
    Limit,
    /// It ran longer than it may, and was stopped.
    TimeLimit,
    /// The target cannot be reached, or could not be verified.
    Unreachable,
    /// The process itself cancelled it while it waited.
    Cancelled,
}

impl RefusalKind {
    /// The name in records.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::PendingApproval { .. } => "pending_approval",
            Self::ApprovalDenied { .. } => "approval_denied",
            Self::Identity => "identity",
            Self::NotUnderstood => "not_understood",
            Self::NotRecorded => "not_recorded",
            Self::Limit => "limit",
            Self::TimeLimit => "time_limit",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What the process is told when an operation is not forwarded. Holds nothing that came from the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub kind: RefusalKind,
    /// One sentence for people, with full stop: the policy's `@reason` where there is one.
    pub reason: String,
    /// The policies that led to it.
    pub policies: Vec<PolicyId>,
    /// What to do next, with full stop; empty when there is nothing.
    pub next_step: String,
    /// The reference to quote: the record has it too.
    pub operation: Option<OperationId>,
}

impl Refusal {
    /// A refusal that no policy led to.
    #[must_use]
    pub fn new(kind: RefusalKind, reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            policies: Vec::new(),
            next_step: next_step.into(),
            operation: None,
        }
    }
}

impl fmt::Display for Refusal {
    /// The reason, the policies and the reference in one line; the next step is apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.policies.is_empty() {
            let names: Vec<&str> = self.policies.iter().map(PolicyId::as_str).collect();
            write!(f, " [policy {}]", names.join(", "))?;
        }
        if let Some(operation) = self.operation {
            write!(f, " [reference {operation}]")?;
        }
        Ok(())
    }
}
