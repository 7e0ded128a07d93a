//! What running agents say of themselves, one row a run: gathered for `status` and `top`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::client::{self, Agents, ClientError};
use crate::control::metrics::Family;
use crate::control::wire::{Ask, Reply, Request, Status};

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) status: Status,
    /// `None`: this caller is not told.
    pub(super) figures: Option<Figures>,
    /// Those of each workload, where it serves several; what is the agent's (queue, space, lag) is in all of them.
    pub(super) workloads: BTreeMap<String, Figures>,
}

/// Figures of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) sessions: u64,
    pub(super) allowed: u64,
    pub(super) held: u64,
    pub(super) refused: u64,
    pub(super) kernel_denials: u64,
    pub(super) masked: u64,
    /// Connections that the kernel redirected.
    pub(super) redirected: u64,
    pub(super) queue: u64,
    pub(super) free_bytes: u64,
    /// `None`: nothing is streamed.
    pub(super) lag: Option<Duration>,
}

/// Everything, at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    pub(super) rows: Vec<Row>,
    /// Waiting requests for approval, the newest first, where this caller is told of them.
    pub(super) waiting: Vec<Request>,
}

/// Asks every agent.
///
/// # Errors
/// Where none answers.
pub(super) fn gather(agents: &Agents) -> Result<Snapshot, ClientError> {
    let statuses = client::ask_each(agents, &Ask::Status {})?;
    let metrics = client::ask_each(agents, &Ask::Metrics {}).unwrap_or_default();
    let figures: Vec<Vec<Family>> = metrics
        .into_iter()
        .filter_map(|reply| match reply {
            Reply::Metrics(families) => Some(families),
            Reply::Status(_) | Reply::Requests(_) | Reply::Request(_) | Reply::Error { .. } => None,
        })
        .collect();
    let mut rows: Vec<Row> = statuses
        .into_iter()
        .filter_map(|reply| match reply {
            Reply::Status(status) => Some(status),
            Reply::Metrics(_) | Reply::Requests(_) | Reply::Request(_) | Reply::Error { .. } => None,
        })
        .map(|status| {
            let found = figures.iter().find_map(|all| of_run(all, &status.run));
            let (figures, workloads) = found.unzip();
            Row {
                figures,
                workloads: workloads.unwrap_or_default(),
                status,
            }
        })
        .collect();
    rows.sort_by_key(|row| row.status.pid);
    let waiting = match client::ask(agents, None, &Ask::List { all: false }) {
        Ok(Reply::Requests(requests)) => requests,
        Ok(Reply::Status(_) | Reply::Metrics(_) | Reply::Request(_) | Reply::Error { .. }) | Err(_) => {
            Vec::new()
        }
    };
    Ok(Snapshot { rows, waiting })
}

/// The figures of one agent, and of each of its workloads; `None` where there are none of it.
fn of_run(families: &[Family], run: &str) -> Option<(Figures, BTreeMap<String, Figures>)> {
    let mut sums: Sums<'_> = BTreeMap::new();
    for family in families {
        for sample in &family.samples {
            let label = |name: &str| {
                sample
                    .labels
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, v)| v.as_str())
            };
            if label("run") != Some(run) {
                continue;
            }
            let kind = label("verdict").or(label("event")).unwrap_or_default();
            let value: f64 = sample.value.parse().unwrap_or_default();
            let of = (label("workload").unwrap_or_default(), family.name.as_str(), kind);
            *sums.entry(of).or_default() += value;
        }
    }
    if sums.is_empty() {
        return None;
    }
    let names: BTreeSet<&str> = sums.keys().map(|(workload, ..)| *workload).collect();
    let one = |name: &str| (name.to_owned(), figures(&sums, |of| of == name));
    let workloads = names.iter().filter(|name| !name.is_empty()).map(|name| one(name));
    Some((figures(&sums, |_any| true), workloads.collect()))
}

/// Values by workload, name and kind.
type Sums<'a> = BTreeMap<(&'a str, &'a str, &'a str), f64>;

/// The figures of some workloads together.
fn figures(sums: &Sums<'_>, of: impl Fn(&str) -> bool) -> Figures {
    let sum = |name: &str, kind: &str| -> f64 {
        let those = sums
            .iter()
            .filter(|((workload, n, k), _)| (*n, *k) == (name, kind) && of(workload));
        those.map(|(_, value)| value).sum()
    };
    let figure = |name: &str, kind: &str| whole(sum(name, kind));
    let operations = |kind: &str| figure("interdict_operations_total", kind);
    let sessions = |kind: &str| figure("interdict_sessions_total", kind);
    // The agent's own, whoever is asked for.
    let own = |name: &'static str| sums.get(&("", name, "")).copied();
    Figures {
        sessions: sessions("opened").saturating_sub(sessions("closed")),
        allowed: operations("allowed").saturating_add(operations("observed")),
        held: operations("held"),
        refused: operations("refused"),
        kernel_denials: figure("interdict_kernel_denials_total", ""),
        masked: figure("interdict_masked_values_total", ""),
        redirected: figure("interdict_kernel_redirected_total", ""),
        queue: whole(own("interdict_audit_queue_records").unwrap_or_default()),
        free_bytes: whole(own("interdict_audit_free_bytes").unwrap_or_default()),
        lag: own("interdict_sink_lag_seconds").and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    }
}

/// A count that came as text with a possible fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are never negative, and beyond 2^53 nobody reads them"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut shown = format!("{count} B");
    for unit in UNITS {
        if value < 10 * 1024 {
            break;
        }
        value /= 1024;
        shown = format!("{value} {unit}");
    }
    shown
}

/// A figure, or a dash where this caller is not told.
pub(super) fn shown(figures: Option<&Figures>, of: impl Fn(&Figures) -> u64) -> String {
    figures.map_or_else(|| "-".into(), |figures| of(figures).to_string())
}

/// How far ClickHouse is behind.
pub(super) fn lag(figures: Option<&Figures>) -> String {
    match figures.and_then(|figures| figures.lag) {
        Some(lag) => format!("{}.{} s", lag.as_secs(), lag.subsec_millis() / 100),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::control::metrics::Sample;

    use super::*;

    #[test]
    fn figures_of_a_service_are_those_of_its_workloads() {
        let sample = |workload: &str, verdict: &str, value: &str| {
            let labels = [("run", "serve"), ("workload", workload), ("verdict", verdict)];
            let named = labels.into_iter().filter(|(_, value)| !value.is_empty());
            Sample {
                labels: named.map(|(n, v)| (n.into(), v.into())).collect(),
                value: value.into(),
            }
        };
        let family = |name: &str, samples: Vec<Sample>| Family {
            name: name.into(),
            help: String::new(),
            kind: "counter".into(),
            samples,
        };
        let operations = vec![sample("a", "allowed", "3"), sample("b", "allowed", "4")];
        let families = [
            family("interdict_operations_total", operations),
            family("interdict_kernel_redirected_total", vec![sample("c", "", "9")]),
            family("interdict_audit_queue_records", vec![sample("", "", "2")]),
        ];
        let (all, workloads) = of_run(&families, "serve").expect("figures");
        assert_eq!((all.allowed, all.redirected, all.queue), (7, 9, 2));
        let names: Vec<&str> = workloads.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let of = |name: &str| workloads.get(name).cloned().unwrap_or_default();
        assert_eq!((of("b").allowed, of("c").redirected, of("a").queue), (4, 9, 2));
    }

    #[test]
    fn figures_of_one_run_are_its_own() {
        let family = |name: &str, samples: &[(&str, &str, &str, &str)]| Family {
            name: name.into(),
            help: String::new(),
            kind: "counter".into(),
            samples: samples
                .iter()
                .map(|(run, label, kind, value)| Sample {
                    labels: vec![("run".into(), (*run).into()), ((*label).into(), (*kind).into())],
                    value: (*value).into(),
                })
                .collect(),
        };
        let families = [
            family(
                "interdict_operations_total",
                &[
                    ("a", "verdict", "allowed", "3"),
                    ("b", "verdict", "allowed", "5"),
                    ("a", "verdict", "refused", "2"),
                ],
            ),
            family(
                "interdict_sessions_total",
                &[("a", "event", "opened", "4"), ("a", "event", "closed", "1")],
            ),
            family(
                "interdict_kernel_denials_total",
                &[("a", "hook", "connect4", "1"), ("a", "hook", "sendmsg4", "6")],
            ),
            family("interdict_sink_lag_seconds", &[("a", "", "", "2.500")]),
        ];
        let (found, workloads) = of_run(&families, "a").expect("figures");
        assert!(workloads.is_empty());
        assert_eq!(
            found,
            Figures {
                sessions: 3,
                allowed: 3,
                refused: 2,
                kernel_denials: 7,
                lag: Some(Duration::from_millis(2500)),
                ..Figures::default()
            }
        );
        assert_eq!(of_run(&families, "c"), None);
        assert_eq!((lag(Some(&found)), lag(None)), ("2.5 s".into(), "-".into()));
        assert_eq!(
            (bytes(9), bytes(64 << 20), bytes(20 << 30)),
            ("9 B".into(), "64 MiB".into(), "20 GiB".into())
        );
    }
}
