//! Which workload a cgroup is.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{Selector, WorkloadConfig};
use crate::guard::Seen;

/// What is known of a cgroup beside its path.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its own processes; looked at only where a selector needs them.
    pub(super) processes: Vec<Seen>,
    /// The labels of the container that it is.
    pub(super) container: Option<BTreeMap<String, String>>,
    /// The pod that it is.
    pub(super) pod: Option<Pod>,
}

/// A pod, as its cgroup is matched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// The first workload that a cgroup is; `None` for none.
pub(super) fn workload_of<'w>(
    path: &str,
    known: &Known,
    workloads: impl Iterator<Item = &'w WorkloadConfig>,
) -> Option<&'w WorkloadConfig> {
    let mut workloads = workloads;
    workloads.find(|workload| matches(&workload.selector, path, known))
}

fn matches(selector: &Selector, path: &str, known: &Known) -> bool {
    let Selector {
        systemd_unit,
        slice,
        cgroup,
        uid,
        executable,
        container_label,
        namespace,
        pod_label,
        service_account,
    } = selector;
    let name = path.rsplit('/').next().unwrap_or(path);
    let unit = systemd_unit.as_ref().is_none_or(|glob| glob.matches(name));
    let slice = slice
        .as_ref()
        .is_none_or(|wanted| path.split('/').any(|part| part == wanted));
    let cgroup = cgroup.as_ref().is_none_or(|glob| glob.matches(path));
    if !(unit && slice && cgroup) {
        return false;
    }
    let container = container_label.as_ref().is_none_or(|label| {
        known
            .container
            .as_ref()
            .is_some_and(|labels| label.is_in(pairs(labels)))
    });
    let pod = !selector.is_of_pods()
        || known.pod.as_ref().is_some_and(|pod| {
            namespace.as_ref().is_none_or(|wanted| *wanted == pod.namespace)
                && service_account
                    .as_ref()
                    .is_none_or(|wanted| *wanted == pod.service_account)
                && pod_label
                    .as_ref()
                    .is_none_or(|label| label.is_in(pairs(&pod.labels)))
        });
    let file = executable.as_deref().map(file);
    let process = |seen: &Seen| {
        uid.is_none_or(|wanted| seen.uid == wanted)
            && file.is_none_or(|wanted| wanted.is_some() && seen.executable == wanted)
    };
    container && pod && (!selector.looks_at_processes() || known.processes.iter().any(process))
}

fn pairs(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn file(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether `path` is `parent` or lies below it.
pub(super) fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workloads(text: &str) -> Vec<WorkloadConfig> {
        crate::config::parse(text, "interdict.toml".as_ref())
            .expect("valid")
            .workloads
    }

    #[test]
    fn all_that_is_given_must_match_and_the_first_workload_wins() {
        let workloads = workloads(
            "[kubernetes]\napi = \"https://kubernetes.default.svc\"\n\
             [[workload]]\nname = \"a\"\nsystemd_unit = \"mcp-*.service\"\nslice = \"tools.slice\"\n\
             [[workload]]\nname = \"b\"\nslice = \"tools.slice\"\n\
             [[workload]]\nname = \"c\"\ncgroup = \"one/*\"\n\
             [[workload]]\nname = \"d\"\nuid = 1000\nexecutable = \"/proc/self/exe\"\n\
             [[workload]]\nname = \"e\"\nnamespace = \"prod\"\npod_label = \"app=mcp\"\n\
             [[workload]]\nname = \"f\"\ncontainer_label = \"interdict\"\n",
        );
        let me = file(Path::new("/proc/self/exe"));
        let mine = |uid| Known {
            processes: vec![Seen {
                pid: 7,
                uid,
                executable: me,
                namespace: None,
            }],
            ..Known::default()
        };
        let labelled = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let pod = |app: &str| Known {
            pod: Some(Pod {
                namespace: "prod".into(),
                name: "mcp-1".into(),
                service_account: "default".into(),
                labels: labelled("app", app),
            }),
            ..Known::default()
        };
        let container = Known {
            container: Some(labelled("interdict", "yes")),
            ..Known::default()
        };
        let table: [(&str, Known, Option<&str>); 11] = [
            ("tools.slice/mcp-x.service", Known::default(), Some("a")),
            ("tools.slice/web.service", Known::default(), Some("b")),
            ("tools.slice", Known::default(), Some("b")),
            ("mcp-x.service", Known::default(), None),
            ("one/two", Known::default(), Some("c")),
            ("one/two/three", Known::default(), None),
            ("x", mine(1000), Some("d")),
            ("x", mine(1001), None),
            ("x", pod("mcp"), Some("e")),
            ("x", pod("web"), None),
            ("x", container, Some("f")),
        ];
        for (path, known, expected) in table {
            let found = workload_of(path, &known, workloads.iter()).map(|w| w.name.as_str());
            assert_eq!(found, expected, "{path} {known:?}");
        }
    }

    #[test]
    fn a_name_that_begins_alike_is_not_within() {
        assert!(is_within("a/b", "a") && is_within("a", "a"));
        assert!(!is_within("ab", "a") && !is_within("a", "a/b"));
    }
}
