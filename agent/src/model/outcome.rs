//! How an operation ended.

use std::time::Duration;

use super::class::MaskCounts;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeStatus {
    /// The target did it.
    Completed,
    /// The target answered with an error.
    Failed,
    /// The agent did not forward it.
    Refused,
    /// The process cancelled it before it was forwarded or while it ran, or its time was up.
    Cancelled,
    /// Nobody saw its end: the connection or the agent went away.
    Abandoned,
}

impl OutcomeStatus {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
        }
    }
}

/// How an operation ended, with what was counted on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: OutcomeStatus,
    /// The target's own status: a command tag, or an error code; never data.
    pub detail: String,
    /// Rows shown to the process.
    pub rows: u64,
    /// Bytes from the process.
    pub bytes_up: u64,
    /// Bytes to the process.
    pub bytes_down: u64,
    /// From the decision to the end.
    pub took: Duration,
    /// What was masked.
    pub masked: MaskCounts,
}

impl Outcome {
    /// An outcome of which nothing else is known.
    #[must_use]
    pub fn bare(status: OutcomeStatus, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            rows: 0,
            bytes_up: 0,
            bytes_down: 0,
            took: Duration::ZERO,
            masked: MaskCounts::default(),
        }
    }
}
