//! What is counted of records as they are made: figures for monitoring agree with the log because they come from it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::event::{ApprovalStep, Event, JudgedAs, OperationEvent};
use super::spans::Spans;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Judged operations, by verdict.
    Operations,
    /// Refused operations, by the kind of refusal.
    Refusals,
    /// Ended operations, by how.
    Outcomes,
    /// Masked values, by class.
    Masked,
    /// Steps of approvals.
    Approvals,
    /// Sessions, opened and closed.
    Sessions,
    /// What the kernel denied, by hook.
    KernelDenials,
    /// Changes of policies, in force or refused.
    Reloads,
    /// Spans of traces, by what became of them.
    Spans,
}

/// The workload of a serving agent (empty for a run, and for the agent as a whole), and how it turned out.
pub type Labels = (String, String);

/// How the log is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Events by what they are, whose they are and how they turned out.
    pub counts: BTreeMap<Counted, BTreeMap<Labels, u64>>,
    /// Records that wait to be written, or for which a place is reserved.
    pub queued: u64,
    /// Group commits.
    pub commits: u64,
    /// Records in them.
    pub committed: u64,
    /// Time that they took, the disk's included.
    pub committing: Duration,
    /// Commits that the disk did not take.
    pub failures: u64,
    /// Free bytes where the log lives, as last seen.
    pub free_bytes: u64,
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Mutex<BTreeMap<Counted, BTreeMap<Labels, u64>>>,
    commits: AtomicU64,
    committed: AtomicU64,
    committing_ns: AtomicU64,
    failures: AtomicU64,
    /// Where traces are kept.
    pub(super) spans: ArcSwapOption<Spans>,
}

impl Tally {
    /// Counts `event`, of this workload, and makes its span where traces are kept.
    pub(super) fn event(&self, event: &Event, workload: &str) {
        if let Some(spans) = &*self.spans.load() {
            let dropped = spans.event(event, workload);
            if dropped > 0 {
                self.add("", Counted::Spans, "dropped", dropped);
            }
        }
        self.count(event, workload);
    }

    fn count(&self, event: &Event, workload: &str) {
        let add = |what, label: &str, times| self.add(workload, what, label, times);
        match event {
            Event::Operation {
                event: OperationEvent { judged, .. },
                ..
            } => {
                let verdict = match judged {
                    JudgedAs::Allowed { .. } => "allowed",
                    JudgedAs::Observed { .. } => "observed",
                    JudgedAs::Held { .. } => "held",
                    JudgedAs::Refused { kind, .. } => {
                        add(Counted::Refusals, kind, 1);
                        "refused"
                    }
                };
                add(Counted::Operations, verdict, 1);
            }
            Event::OperationEnded { outcome, .. } => {
                add(Counted::Outcomes, outcome.status.name(), 1);
                for (class, count) in &outcome.masked.0 {
                    add(Counted::Masked, class.as_str(), *count);
                }
            }
            Event::Approval { step, .. } => add(Counted::Approvals, step_name(step), 1),
            Event::SessionOpened { .. } => add(Counted::Sessions, "opened", 1),
            Event::SessionClosed { .. } => add(Counted::Sessions, "closed", 1),
            Event::KernelDenied { hook, times, .. } => add(Counted::KernelDenials, hook, *times),
            Event::Reloaded { .. } => add(Counted::Reloads, "in_force", 1),
            Event::ReloadRefused { .. } => add(Counted::Reloads, "refused", 1),
            Event::Content { .. }
            | Event::AgentStarted { .. }
            | Event::AgentStopped { .. }
            | Event::RunStarted { .. }
            | Event::RunEnded { .. }
            | Event::WorkloadGoverned { .. }
            | Event::WorkloadReleased { .. }
            | Event::IdentityBound { .. }
            | Event::IdentityEnded { .. }
            | Event::ToolAccepted { .. }
            | Event::Uninstalled { .. }
            | Event::ConnectionRefused { .. } => {}
        }
    }

    pub(super) fn commit(&self, records: u64, took: Duration, done: bool) {
        if !done {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.committed.fetch_add(records, Ordering::Relaxed);
        self.committing_ns.fetch_add(took, Ordering::Relaxed);
    }

    pub(super) fn measures(&self, queued: u64, free_bytes: u64) -> Measures {
        Measures {
            counts: self.counts().clone(),
            queued,
            commits: self.commits.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
            committing: Duration::from_nanos(self.committing_ns.load(Ordering::Relaxed)),
            failures: self.failures.load(Ordering::Relaxed),
            free_bytes,
        }
    }

    pub(super) fn add(&self, workload: &str, what: Counted, label: &str, times: u64) {
        let mut counts = self.counts();
        let count = counts
            .entry(what)
            .or_default()
            .entry((workload.to_owned(), label.to_owned()))
            .or_default();
        *count = count.saturating_add(times);
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Counted, BTreeMap<Labels, u64>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn step_name(step: &ApprovalStep) -> &'static str {
    match step {
        ApprovalStep::Requested { .. } => "requested",
        ApprovalStep::Viewed => "viewed",
        ApprovalStep::Approved { .. } => "approved",
        ApprovalStep::Denied { .. } => "denied",
        ApprovalStep::Rejected { .. } => "rejected",
        ApprovalStep::Expired => "expired",
        ApprovalStep::Withdrawn => "withdrawn",
        ApprovalStep::Used => "used",
    }
}
