//! What an approval is, once given: context for the policies, never an answer in itself.

use std::collections::BTreeSet;

use crate::model::{Group, Ticket, Timestamp};

/// One person who approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// `issuer/subject`.
    pub principal: String,
    /// The groups of the approver's own token at that time.
    pub groups: BTreeSet<Group>,
    /// When.
    pub at: Timestamp,
}

/// Consent to one operation. Made only in this room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    pub(in crate::approval) ticket: Ticket,
    pub(in crate::approval) approvers: Vec<Approver>,
}

impl Consent {
    /// The request that was approved.
    #[must_use]
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Who approved; never empty.
    #[must_use]
    pub fn approvers(&self) -> &[Approver] {
        &self.approvers
    }

    /// Every group of every approver.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<Group> {
        self.approvers
            .iter()
            .flat_map(|a| a.groups.iter().cloned())
            .collect()
    }

    /// For tests of other rooms, which cannot reach the broker.
    #[cfg(test)]
    #[must_use]
    pub fn for_tests(ticket: Ticket, approvers: Vec<Approver>) -> Self {
        Self { ticket, approvers }
    }
}
