//! The person or service on whose behalf a process acts.

use std::collections::BTreeSet;
use std::fmt;

use super::id::{Group, IssuerName};
use super::time::Timestamp;

/// Whether a token or only the workload stands behind a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalKind {
    /// A person or service that an issuer vouches for.
    User,
    /// Nobody but the workload itself: no token was given.
    Workload,
}

/// Who acts. Equality of `issuer` and `subject` is equality of persons: two issuers' "alice" are two persons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What stands behind it.
    pub kind: PrincipalKind,
    /// The configured name of the issuer; `None` for a workload.
    pub issuer: Option<IssuerName>,
    /// The subject claim, or the workload's name.
    pub subject: String,
    /// A name for people (e-mail or name claim); display only.
    pub display: String,
    /// Groups from the token; empty for a workload.
    pub groups: BTreeSet<Group>,
    /// When the binding ends; `None` for a workload.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Whether both are the same person or service.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.issuer == other.issuer && self.subject == other.subject
    }

    /// Whether the binding has ended at `now`.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// The unique name: `issuer/subject`, or `workload/name`.
    #[must_use]
    pub fn key(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.issuer {
            Some(issuer) => write!(f, "{issuer}/{}", self.subject),
            None => write!(f, "workload/{}", self.subject),
        }
    }
}
