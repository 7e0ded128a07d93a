//! What an allowed operation must still obey.

use std::collections::BTreeSet;
use std::time::Duration;

use super::class::DataClass;

/// How much of an operation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordingLevel {
    /// Who, what kind, where, the verdict; no statement text.
    Metadata,
    /// Statement text and parameters too, masked.
    Operations,
    /// What the process was shown too.
    Full,
}

impl RecordingLevel {
    /// The name in configuration and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Operations => "operations",
            Self::Full => "full",
        }
    }
}

/// Bounds on one operation; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Rows that the process may be shown.
    pub max_rows: Option<u64>,
    /// Time that the operation may take.
    pub max_time: Option<Duration>,
}

impl Limits {
    /// The narrower of both, bound by bound.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rows = [self.max_rows, other.max_rows];
        let times = [self.max_time, other.max_time];
        Self {
            max_rows: rows.into_iter().flatten().min(),
            max_time: times.into_iter().flatten().min(),
        }
    }
}

/// What an allowed operation must still obey. Always destructure it without `..`: a new obligation must not compile
/// until every room honours it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligations {
    /// Classes that the principal may see as they are; all others are masked.
    pub revealed: BTreeSet<DataClass>,
    /// How much is kept.
    pub recording: RecordingLevel,
    /// Bounds.
    pub limits: Limits,
}
