//! Records of what the kernel denied, and never so many that a process could fill the disk with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::audit::{AuditLog, Event};
use crate::guard::{Denial, Denials};
use crate::model::{Executable, NetnsCookie, OriginalDst, Process, RunId};

/// Denials of the same kind within this time share a record.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest such time, in pauses: it doubles while there are too many kinds, and is one again afterwards.
const MAX_PAUSES: u32 = 64;
/// Kinds that are told apart within it. Whatever differs beyond is counted for each hook.
const MAX_KINDS: usize = 64;

/// How long the ring is looked at for the last time.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What makes two denials the same: process, hook, destination, reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Exact(u32, &'static str, Option<OriginalDst>, String),
    Any(&'static str),
}

/// Records what the hooks deny: the first of a kind at once, the same again at the end of the pause with its count.
/// When the run is `ending`, what is still unread is recorded, and then it is done.
pub(super) async fn record(
    mut denials: Denials,
    audit: AuditLog,
    run: RunId,
    mut ending: watch::Receiver<()>,
) {
    let mut budget = Budget::default();
    let mut tick = tokio::time::interval(PAUSE);
    let mut lost = 0;
    loop {
        let ended = tokio::select! {
            denial = denials.next() => {
                let Some(denial) = denial else { return };
                if let Some(first) = budget.take(denial) {
                    write(first, 1, &audit, run).await;
                }
                continue;
            }
            _ = tick.tick() => false,
            _ = ending.changed() => true,
        };
        if ended {
            // All that could be denied has ended: what is in the ring is the rest.
            while let Ok(Some(denial)) = timeout(LAST_LOOK, denials.next()).await {
                if let Some(first) = budget.take(denial) {
                    write(first, 1, &audit, run).await;
                }
            }
        }
        let again = if ended { budget.rest() } else { budget.tick() };
        for (denial, times) in again {
            write(denial, times, &audit, run).await;
        }
        let now = denials.lost();
        if now > lost {
            write(unread(), now - lost, &audit, run).await;
            lost = now;
        }
        if ended {
            return;
        }
    }
}

/// Decides which denials get a record of their own.
#[derive(Debug)]
struct Budget {
    kinds: HashMap<Kind, (Denial, u64)>,
    overflowed: bool,
    pauses: u32,
    waited: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
            overflowed: false,
            pauses: 1,
            waited: 0,
        }
    }
}

impl Budget {
    /// The denial back, where it is to be recorded now.
    fn take(&mut self, mut denial: Denial) -> Option<Denial> {
        let exact = Kind::Exact(
            denial.process.tgid,
            denial.hook,
            denial.original,
            denial.reason.clone(),
        );
        let known = self.kinds.contains_key(&exact);
        let kind = if known || self.kinds.len() < MAX_KINDS {
            exact
        } else {
            self.overflowed = true;
            denial.original = None;
            denial.reason = format!(
                "more kinds at once than are told apart; the last: {}",
                denial.reason
            );
            Kind::Any(denial.hook)
        };
        if let Some((last, times)) = self.kinds.get_mut(&kind) {
            *times += 1;
            *last = denial;
            return None;
        }
        // The first that does not fit is one of many: they are recorded together.
        let first = matches!(kind, Kind::Exact(..));
        self.kinds.insert(kind, (denial.clone(), u64::from(!first)));
        first.then_some(denial)
    }

    /// At the end of each pause: what came again, and how often.
    fn tick(&mut self) -> Vec<(Denial, u64)> {
        self.waited += 1;
        if self.waited < self.pauses {
            return Vec::new();
        }
        self.waited = 0;
        self.pauses = if self.overflowed {
            (self.pauses * 2).min(MAX_PAUSES)
        } else {
            1
        };
        self.overflowed = false;
        self.rest()
    }

    /// What came again, however short ago.
    fn rest(&mut self) -> Vec<(Denial, u64)> {
        let kinds = std::mem::take(&mut self.kinds);
        kinds.into_values().filter(|(_, times)| *times > 0).collect()
    }
}

/// Denials that came faster than they were read.
fn unread() -> Denial {
    Denial {
        hook: "any",
        process: Process {
            tgid: 0,
            start_ns: 0,
            uid: 0,
            gid: 0,
            exe: Executable::default(),
            cgroup: 0,
            netns: NetnsCookie(0),
            comm: String::new(),
        },
        original: None,
        reason: "denied, but more at once than the agent was told of".into(),
    }
}

async fn write(denial: Denial, times: u64, audit: &AuditLog, run: RunId) {
    let Denial {
        hook,
        process,
        original,
        reason,
    } = denial;
    tracing::info!(hook, pid = process.tgid, %reason, times, "denied in the kernel");
    let event = Event::KernelDenied {
        run,
        process: Arc::new(process),
        hook,
        original,
        reason,
        times,
    };
    if let Err(error) = audit.post(event).await {
        tracing::error!(%error, "a denial could not be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(port: u16) -> Denial {
        let original = OriginalDst(([10, 0, 0, 7], port).into());
        Denial {
            hook: "sendmsg",
            original: Some(original),
            reason: "UDP".into(),
            ..unread()
        }
    }

    #[test]
    fn the_first_is_recorded_at_once_and_the_rest_is_counted() {
        let mut budget = Budget::default();
        assert_eq!(budget.take(denial(1)), Some(denial(1)));
        assert_eq!(budget.take(denial(1)), None);
        assert_eq!(budget.take(denial(1)), None);
        assert_eq!(budget.take(denial(2)), Some(denial(2)));
        assert_eq!(budget.tick(), [(denial(1), 2)]);
        assert_eq!(budget.tick(), []);
        assert_eq!(budget.take(denial(1)), Some(denial(1)));
    }

    /// An hour of a process that denies itself something else ten thousand times a second.
    #[test]
    fn a_flood_of_kinds_is_a_few_records() {
        let mut budget = Budget::default();
        let (mut records, mut denied) = (0usize, 0u64);
        for _second in 0..3600 {
            for port in 0..10_000 {
                let first = budget.take(denial(port)).is_some();
                records += usize::from(first);
                denied += u64::from(first);
            }
            let again = budget.tick();
            records += again.len();
            denied += again.iter().map(|(_, times)| times).sum::<u64>();
        }
        assert!(records < 10_000, "{records}");
        let waiting: u64 = budget.kinds.values().map(|(_, times)| times).sum();
        assert_eq!(denied + waiting, 36_000_000, "every one is counted");
        // And afterwards each is told apart again.
        for _second in 0..=MAX_PAUSES {
            budget.tick();
        }
        assert_eq!(budget.take(denial(7)), Some(denial(7)));
    }
}
