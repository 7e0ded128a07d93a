//! What the target owes, in the order in which it was asked.

use std::sync::Arc;

use crate::model::{DataClass, MaskCounts, Outcome, OutcomeStatus, Refusal, duration_text};
use crate::session::{Ended, InFlight};

use super::catalogue::Asking;
use super::columns::ColumnPlan;
use super::meaning::Lineage;
use super::names::{Described, Text, Undo};
use super::sql::CopyFormat;
use super::time_limit::Clock;

/// One answer that the target owes.
pub(super) enum Expect {
    /// A simple query: ends with `ReadyForQuery`.
    Query(Box<Running>),
    /// A step towards an operation: ends with its own completion.
    Step(Step, Whose),
    /// A `Describe` of the agent: its answer is kept from the process.
    OwnDescribe(Described),
    /// An `Execute`: ends with its completion.
    Execute(Box<Running>),
    /// `ReadyForQuery` after a `Sync`.
    Sync,
    /// The error of the statement that stands in for a refused one, in a batch.
    Refused(Refusal),
    /// The same for a simple query: error, then `ReadyForQuery`.
    RefusedQuery(Option<Refusal>),
    /// The agent's own question about protected columns: ends with `ReadyForQuery`, and is kept from the process.
    Catalogue(Box<Asking>),
}

/// A message that prepares, describes or lets go.
#[derive(Debug)]
pub(super) enum Step {
    /// `Parse`.
    Parse(Undo),
    /// `Bind`.
    Bind(Undo),
    /// `Close`.
    Close(Undo),
    /// `Describe` of a statement: parameters, then columns.
    DescribeStatement(Described),
    /// `Describe` of a portal.
    DescribePortal(Described),
}

/// Whose outcome ends with a step that fails.
pub(super) enum Whose {
    /// Nobody's: it is no operation.
    Nobody,
    /// The next `Execute`'s: the step is part of it.
    Execute,
    /// The step is the operation.
    Own(Box<Running>),
}

/// Copies from the process. The server swallows each `Sync` and `Flush` that it reads during one.
#[derive(Debug, Default)]
pub(super) struct CopyIn {
    /// How many have begun.
    pub(super) begun: usize,
    /// How many the process has ended; it may be ahead of the server.
    pub(super) ended: usize,
    /// How many `Sync` it had sent by then.
    pub(super) swallowed: usize,
}

/// A copy to the process, out of a database with protected columns.
pub(super) struct CopiesOut {
    pub(super) format: CopyFormat,
    /// Whether the next row is one of names.
    pub(super) names_first: bool,
    /// The class of each field.
    pub(super) classes: Vec<Option<DataClass>>,
}

/// An operation that runs on the target.
pub(super) struct Running {
    pub(super) in_flight: InFlight,
    /// The text.
    pub(super) text: Arc<Text>,
    /// Where the results of each of its statements come from.
    pub(super) lineage: Vec<Lineage>,
    /// Which statement of the text answers now.
    pub(super) at: usize,
    /// Where its description will be: the portal's, or the statement's.
    pub(super) described: Vec<Described>,
    /// Result formats of the portal; `None`: as described.
    pub(super) formats: Option<Arc<Vec<i16>>>,
    /// What is done with each column of the result that arrives now.
    pub(super) columns: Option<Vec<ColumnPlan>>,
    /// Names that its statements give, by statement.
    pub(super) undos: Vec<(usize, Undo)>,
    /// The copy from the process, where it is one.
    pub(super) copies_in: Option<CopyIn>,
    /// The copy to the process, where it needs one.
    pub(super) copies_out: Option<CopiesOut>,
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
    /// How far its time is.
    pub(super) clock: Clock,
}

impl Running {
    /// What to take back after a failure: what the statement that failed and those after it would have named.
    pub(super) fn take_undos(&mut self) -> impl Iterator<Item = Undo> + use<> {
        let at = self.at;
        let undos = std::mem::take(&mut self.undos);
        undos
            .into_iter()
            .filter(move |(i, _)| *i >= at)
            .map(|(_, undo)| undo)
    }

    /// Whether it has shown more rows than it may.
    pub(super) fn over(&self) -> bool {
        self.in_flight.limits.max_rows.is_some_and(|max| self.rows > max)
    }

    /// Records how it ended, or gives what has to be recorded before.
    pub(super) fn finish(self) -> Option<Ended> {
        let status = match self.clock {
            Clock::Stopped => OutcomeStatus::Cancelled,
            Clock::Waits | Clock::Runs(_) | Clock::Over(_) if self.failed => OutcomeStatus::Failed,
            Clock::Waits | Clock::Runs(_) | Clock::Over(_) => OutcomeStatus::Completed,
        };
        let Self {
            in_flight,
            rows,
            bytes,
            bytes_up,
            masked,
            mut detail,
            clock,
            ..
        } = self;
        if let (Clock::Stopped, Some(max)) = (clock, in_flight.limits.max_time) {
            detail = format!("{detail} max_time {}", duration_text(max));
        }
        let outcome = Outcome {
            rows,
            bytes_up,
            bytes_down: bytes,
            masked,
            ..Outcome::bare(status, detail)
        };
        in_flight.finish(outcome)
    }

    /// Records the end after an error in its batch: its own, or one before it, which made the server skip it.
    pub(super) fn failed_or_skipped(self) -> Option<Ended> {
        if self.failed {
            return self.finish();
        }
        self.in_flight.finish(Outcome::bare(
            OutcomeStatus::Cancelled,
            "skipped after an error before it",
        ))
    }
}
