//! Statements that run longer than they may: cancelled at the target, and the process is told why.
//!
//! The clock starts when nothing that was asked before is outstanding. The target is asked as a client would ask it, with a
//! `CancelRequest`; until that is delivered nothing else is forwarded, because it would meet whatever runs then. A target that does
//! not stop loses the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::model::{Refusal, RefusalKind, duration_text};

use super::expect::{Expect, Running, Whose};
use super::frame::{Frame, write};
use super::login::LoginError;
use super::refusal::Severity;
use super::relay::Relay;

/// How long the target may take to stop.
const GRACE: Duration = Duration::from_secs(10);
/// SQLSTATE `query_canceled`.
const CANCELLED: &str = "57014";

/// A wish to stop that is on its way to the target.
pub(super) type Stopping = Pin<Box<dyn Future<Output = Result<(), LoginError>> + Send>>;

/// How far the limit of an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Something before it is not answered yet.
    Waits,
    /// It runs since then.
    Runs(Instant),
    /// The target was asked to stop it then.
    Over(Instant),
    /// The target did stop it.
    Stopped,
}

impl Relay<'_> {
    /// When the time of the operation that runs now is up; starts its clock.
    pub(super) fn time_is_up(&mut self) -> Option<Instant> {
        let running = self.runs_now()?;
        let max = running.in_flight.limits.max_time?;
        match running.clock {
            Clock::Waits => {
                let now = Instant::now();
                running.clock = Clock::Runs(now);
                now.checked_add(max)
            }
            Clock::Runs(since) => since.checked_add(max),
            Clock::Over(since) => since.checked_add(GRACE),
            Clock::Stopped => None,
        }
    }

    /// The time is up: asks the target to stop, or gives the connection up where it was asked before.
    pub(super) fn stop(&mut self) -> Option<Stopping> {
        let running = self.runs_now()?;
        if let Clock::Over(_) = running.clock {
            let refusal = refusal(running);
            self.fatal(&refusal);
            return None;
        }
        running.clock = Clock::Over(Instant::now());
        tracing::info!(operation = %running.in_flight.outcome.operation(), "an operation runs longer than it may");
        let (keys, pid) = (Arc::clone(&self.registered.keys), self.registered.pid);
        Some(Box::pin(async move { keys.stop(pid).await }))
    }

    /// An error of the target: its own words, or the limit's where it stopped because of that.
    pub(super) fn tell_error(&mut self, frame: &Frame) {
        let stopped = match self.runs_now() {
            Some(running) if matches!(running.clock, Clock::Over(_)) && is_cancelled(frame) => {
                running.clock = Clock::Stopped;
                Some(refusal(running))
            }
            Some(_) | None => None,
        };
        match stopped {
            Some(refusal) => self.to_process.refuse(&Severity::Error, &refusal),
            None => self.diagnostics(frame),
        }
    }

    /// The operation that the target works on.
    fn runs_now(&mut self) -> Option<&mut Running> {
        self.expected.iter_mut().find_map(|expect| match expect {
            Expect::Query(running) | Expect::Execute(running) | Expect::Step(_, Whose::Own(running)) => {
                Some(&mut **running)
            }
            Expect::Step(_, Whose::Nobody | Whose::Execute)
            | Expect::OwnDescribe(_)
            | Expect::Sync
            | Expect::Refused(_)
            | Expect::RefusedQuery(_)
            | Expect::Catalogue(_) => None,
        })
    }
}

/// A `Flush`: in a batch the server keeps its answers back, and nobody would know which statement runs.
pub(super) fn tell_at_once() -> BytesMut {
    let mut flush = BytesMut::new();
    write(&mut flush, b'H', |_empty| {});
    flush
}

fn refusal(running: &Running) -> Refusal {
    let max = running.in_flight.limits.max_time.unwrap_or_default();
    Refusal {
        operation: Some(running.in_flight.outcome.operation()),
        ..Refusal::new(
            RefusalKind::TimeLimit,
            format!("It ran longer than the {} that it may take.", duration_text(max)),
            "Ask for less at once, or ask whoever keeps the policies for a longer max_time.",
        )
    }
}

fn is_cancelled(frame: &Frame) -> bool {
    let mut fields = frame.fields();
    while let (Ok(kind), Ok(text)) = (fields.u8(), fields.text()) {
        if kind == b'C' {
            return text == CANCELLED;
        }
    }
    false
}
