//! What is counted of records as they are made: figures for monitoring agree with the log because they come from it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::event::{ApprovalStep, Event, JudgedAs, OperationEvent};

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
}

/// How the log is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Events by what they are and how they turned out.
    pub counts: BTreeMap<Counted, BTreeMap<String, u64>>,
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
    counts: Mutex<BTreeMap<Counted, BTreeMap<String, u64>>>,
    commits: AtomicU64,
    committed: AtomicU64,
    committing_ns: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    pub(super) fn event(&self, event: &Event) {
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
                        self.add(Counted::Refusals, kind, 1);
                        "refused"
                    }
                };
                self.add(Counted::Operations, verdict, 1);
            }
            Event::OperationEnded { outcome, .. } => {
                self.add(Counted::Outcomes, outcome.status.name(), 1);
                for (class, count) in &outcome.masked.0 {
                    self.add(Counted::Masked, class.as_str(), *count);
                }
            }
            Event::Approval { step, .. } => self.add(Counted::Approvals, step_name(step), 1),
            Event::SessionOpened { .. } => self.add(Counted::Sessions, "opened", 1),
            Event::SessionClosed { .. } => self.add(Counted::Sessions, "closed", 1),
            Event::KernelDenied { hook, times, .. } => self.add(Counted::KernelDenials, hook, *times),
            Event::Reloaded { .. } => self.add(Counted::Reloads, "in_force", 1),
            Event::ReloadRefused { .. } => self.add(Counted::Reloads, "refused", 1),
            Event::AgentStarted { .. }
            | Event::AgentStopped { .. }
            | Event::RunStarted { .. }
            | Event::RunEnded { .. }
            | Event::WorkloadGoverned { .. }
            | Event::WorkloadReleased { .. }
            | Event::IdentityBound { .. }
            | Event::IdentityEnded { .. }
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

    fn add(&self, what: Counted, label: &str, times: u64) {
        let mut counts = self.counts();
        let labels = counts.entry(what).or_default();
        match labels.get_mut(label) {
            Some(count) => *count = count.saturating_add(times),
            None => drop(labels.insert(label.to_owned(), times)),
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Counted, BTreeMap<String, u64>>> {
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
        ApprovalStep::Used => "used",
    }
}
