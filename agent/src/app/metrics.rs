//! The figures of a running agent. Their names are listed in `deploy/metrics.md`, which a test holds against them.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::audit::{AuditLog, Counted, lag};
use crate::control::metrics::{Family, Sample};
use crate::guard::{CounterReader, Counters, Standing};

/// Where figures come from.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) run: String,
    pub(super) audit: AuditLog,
    /// The log's directory, where it is streamed to ClickHouse.
    pub(super) streamed: Option<PathBuf>,
    pub(super) kernel: Readers,
    /// Whether the Landlock domain of this process is whole; `None` where this is no proxy.
    pub(super) domain: Option<bool>,
}

/// The kernel's counters of each workload, by its name; of the one run under no name.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Arc<ArcSwap<Vec<(String, CounterReader)>>>);

impl Readers {
    /// Those of a run.
    pub(super) fn one(reader: CounterReader) -> Self {
        let readers = Self::default();
        readers.replace(vec![(String::new(), reader)]);
        readers
    }

    /// In the place of those before.
    pub(super) fn replace(&self, readers: Vec<(String, CounterReader)>) {
        self.0.store(Arc::new(readers));
    }
}

const COUNTED: [(Counted, &str, &str, &str); 9] = [
    (
        Counted::Operations,
        "interdict_operations_total",
        "verdict",
        "Judged operations; held ones are judged again.",
    ),
    (
        Counted::Refusals,
        "interdict_refusals_total",
        "kind",
        "Refused operations.",
    ),
    (
        Counted::Outcomes,
        "interdict_outcomes_total",
        "status",
        "Ended operations.",
    ),
    (
        Counted::Masked,
        "interdict_masked_values_total",
        "class",
        "Values that were masked.",
    ),
    (
        Counted::Approvals,
        "interdict_approvals_total",
        "step",
        "Steps of approvals.",
    ),
    (
        Counted::Sessions,
        "interdict_sessions_total",
        "event",
        "Sessions, opened and closed.",
    ),
    (
        Counted::KernelDenials,
        "interdict_kernel_denials_total",
        "hook",
        "What the kernel's hooks denied and reported.",
    ),
    (
        Counted::Reloads,
        "interdict_policy_reloads_total",
        "result",
        "Changes of the policies.",
    ),
    (
        Counted::Spans,
        "interdict_trace_spans_total",
        "result",
        "Spans of traces.",
    ),
];

impl Meters {
    /// All figures as they are now.
    pub(super) fn read(&self) -> Vec<Family> {
        let measures = self.audit.measures();
        let mut families = vec![self.one(
            "interdict_info",
            "gauge",
            "The agent.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            "1".into(),
        )];
        families.extend(self.standing());
        for (what, name, label, help) in COUNTED {
            let labels = measures.counts.get(&what);
            let samples = labels.into_iter().flatten().map(|((workload, value), count)| {
                let of = [("workload", workload.as_str()), (label, value)];
                let labels = if workload.is_empty() { &of[1..] } else { &of };
                self.sample(labels, count.to_string())
            });
            families.push(family(name, "counter", help, samples.collect()));
        }
        let number = |name: &str, kind: &str, help: &str, value: u64| {
            self.one(name, kind, help, &[], value.to_string())
        };
        families.extend([
            number(
                "interdict_audit_queue_records",
                "gauge",
                "Records that wait to be written, or for which a place is reserved.",
                measures.queued,
            ),
            number(
                "interdict_audit_commits_total",
                "counter",
                "Group commits of the audit log.",
                measures.commits,
            ),
            number(
                "interdict_audit_records_total",
                "counter",
                "Durable records.",
                measures.committed,
            ),
            self.one(
                "interdict_audit_commit_seconds_total",
                "counter",
                "Time that group commits took.",
                &[],
                format!("{:.6}", measures.committing.as_secs_f64()),
            ),
            number(
                "interdict_audit_failures_total",
                "counter",
                "Group commits that the disk did not take.",
                measures.failures,
            ),
            number(
                "interdict_audit_free_bytes",
                "gauge",
                "Free bytes where the log lives, as last seen.",
                measures.free_bytes,
            ),
        ]);
        families.extend(self.sink());
        families.extend(self.kernel());
        families
    }

    /// What authority this process has left: none, where all is well.
    fn standing(&self) -> Option<Family> {
        let domain = self.domain?;
        let Standing {
            uid,
            capabilities,
            no_new_privs,
            filtered,
        } = Standing::own().ok()?;
        let word = |yes: bool| if yes { "yes" } else { "no" };
        Some(self.one(
            "interdict_proxy_info",
            "gauge",
            "The proxy's user, how many capabilities it has, and what confines it.",
            &[
                ("uid", &uid.to_string()),
                ("capabilities", &capabilities.count_ones().to_string()),
                ("no_new_privs", word(no_new_privs)),
                ("seccomp", word(filtered)),
                ("landlock", word(domain)),
            ],
            "1".into(),
        ))
    }

    /// How far ClickHouse is behind.
    fn sink(&self) -> Vec<Family> {
        let Some(lag) = self.streamed.as_deref().and_then(|dir| lag(dir).ok()) else {
            return Vec::new();
        };
        let now = crate::clock::now().as_nanos();
        let behind = lag
            .oldest_ns
            .map_or(0, |oldest| now.saturating_sub(oldest).max(0));
        vec![
            self.one(
                "interdict_sink_lag_bytes",
                "gauge",
                "Bytes of the log that ClickHouse has not acknowledged.",
                &[],
                lag.bytes.to_string(),
            ),
            self.one(
                "interdict_sink_lag_seconds",
                "gauge",
                "Age of the oldest record that ClickHouse has not acknowledged.",
                &[],
                format!("{}.{:03}", behind / 1_000_000_000, behind / 1_000_000 % 1000),
            ),
        ]
    }

    fn kernel(&self) -> Vec<Family> {
        let readers = self.kernel.0.load();
        let read = |(name, reader): &(String, CounterReader)| Some((name.clone(), reader.read().ok()?));
        let counted: Vec<_> = readers.iter().filter_map(read).collect();
        if counted.is_empty() {
            return Vec::new();
        }
        self.counted_there(&counted)
    }

    fn counted_there(&self, counted: &[(String, Counters)]) -> Vec<Family> {
        let number = |name: &str, help: &str, value: fn(&Counters) -> u64| {
            let sample = |(workload, counters): &(String, Counters)| {
                let label = ("workload", workload.as_str());
                let labels = if workload.is_empty() {
                    &[][..]
                } else {
                    &[label][..]
                };
                self.sample(labels, value(counters).to_string())
            };
            family(name, "counter", help, counted.iter().map(sample).collect())
        };
        vec![
            number(
                "interdict_kernel_redirected_total",
                "Connections that were redirected.",
                |counters| counters.redirected,
            ),
            number(
                "interdict_kernel_flows_full_total",
                "Connections that were refused because too many waited to be accepted.",
                |counters| counters.flows_full,
            ),
            number(
                "interdict_kernel_datagrams_full_total",
                "Questions for names that were dropped because too many waited to be read.",
                |counters| counters.datagrams_full,
            ),
            number(
                "interdict_kernel_denials_lost_total",
                "Denials that could not be reported, because they came faster than they were read.",
                |counters| counters.denials_lost,
            ),
        ]
    }

    fn one(&self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: String) -> Family {
        family(name, kind, help, vec![self.sample(labels, value)])
    }

    fn sample(&self, labels: &[(&str, &str)], value: String) -> Sample {
        let run = ("run", self.run.as_str());
        let labels = [run]
            .into_iter()
            .chain(labels.iter().copied())
            .map(|(n, v)| (n.to_owned(), v.to_owned()));
        Sample {
            labels: labels.collect(),
            value,
        }
    }
}

fn family(name: &str, kind: &str, help: &str, samples: Vec<Sample>) -> Family {
    Family {
        name: name.into(),
        help: help.into(),
        kind: kind.into(),
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_documented() {
        let dir = tempfile::tempdir().expect("temp dir");
        let meters = Meters {
            run: "run".into(),
            audit: AuditLog::in_memory(),
            streamed: Some(dir.path().to_owned()),
            kernel: Readers::default(),
            domain: Some(true),
        };
        let documented = include_str!("../../../deploy/metrics.md");
        let kernel = meters.counted_there(&[("mcp".into(), Counters::default())]);
        for family in meters.read().into_iter().chain(kernel) {
            let line = format!("`{}`", family.name);
            assert!(
                documented.contains(&line),
                "{line} is missing in deploy/metrics.md"
            );
        }
    }
}
