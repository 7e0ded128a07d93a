//! What the target owes, in the order in which it was asked.

use std::sync::Arc;

use crate::model::{MaskCounts, Outcome, OutcomeStatus, Refusal};
use crate::session::InFlight;

use super::columns::ColumnPlan;
use super::names::{Described, Text};

/// One answer that the target owes.
pub(super) enum Expect {
    /// A simple query: ends with `ReadyForQuery`.
    Query(Box<Running>),
    /// An `Execute`: ends with its completion.
    Execute(Box<Running>),
    /// A batch that only prepares: ends with `ParseComplete`.
    Prepare(Box<Running>),
    /// A `Describe` of the process.
    Describe(Described),
    /// A `Describe` of the agent: its answer is kept from the process.
    OwnDescribe(Described),
    /// `ReadyForQuery` after a `Sync`.
    Sync,
    /// The error of the statement that stands in for a refused one, in a batch.
    Refused(Refusal),
    /// The same for a simple query: error, then `ReadyForQuery`.
    RefusedQuery(Option<Refusal>),
}

/// An operation that runs on the target.
pub(super) struct Running {
    pub(super) in_flight: InFlight,
    /// The text, for the lineage of its results.
    pub(super) text: Arc<Text>,
    /// Which statement of the text answers now.
    pub(super) at: usize,
    /// Where its description will be: the portal's, or the statement's.
    pub(super) described: Vec<Described>,
    /// Result formats of the portal; `None`: as described.
    pub(super) formats: Option<Arc<Vec<i16>>>,
    /// What is done with each column of the result that arrives now.
    pub(super) columns: Option<Vec<ColumnPlan>>,
    /// Names that it prepares, and whether the server has confirmed them.
    pub(super) prepares: Vec<String>,
    /// See `prepares`.
    pub(super) confirmed: bool,
    /// Rows shown.
    pub(super) rows: u64,
    /// Bytes shown.
    pub(super) bytes: u64,
    /// Bytes from the process.
    pub(super) bytes_up: u64,
    /// Values masked.
    pub(super) masked: MaskCounts,
    /// The last command tag, or the error code.
    pub(super) detail: String,
    /// Whether an error came.
    pub(super) failed: bool,
}

impl Running {
    /// Records how it ended.
    pub(super) fn finish(self) {
        let status = if self.failed {
            OutcomeStatus::Failed
        } else {
            OutcomeStatus::Completed
        };
        let Self {
            in_flight,
            rows,
            bytes,
            bytes_up,
            masked,
            detail,
            ..
        } = self;
        let outcome = Outcome {
            rows,
            bytes_up,
            bytes_down: bytes,
            masked,
            ..Outcome::bare(status, detail)
        };
        in_flight.outcome.finish(outcome);
    }

    /// Records that the server skipped it after an error before it.
    pub(super) fn skipped(self) {
        self.in_flight.outcome.finish(Outcome::bare(
            OutcomeStatus::Cancelled,
            "skipped after an error before it",
        ));
    }
}
