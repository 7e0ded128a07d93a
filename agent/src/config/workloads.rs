//! Workloads that the service governs: which processes, on whose behalf, how.

use std::path::PathBuf;

use serde::Deserialize;

use crate::model::{RecordingLevel, WorkloadName};

use super::glob::Glob;
use super::load::Reader;
use super::raw::Text;
use super::types::Mode;
use super::value;
use super::words::{mode_of, recording_of};

/// What `interdict serve` governs as one: its own policies' principal, its own session log, its own kernel tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// Its name in records, unique.
    pub name: WorkloadName,
    /// Which cgroups it is: everything below a cgroup that matches belongs to it.
    pub selector: Selector,
    /// On whose behalf it acts.
    pub identity: WorkloadIdentity,
    /// Whether refusals refuse; `None` is the agent's mode. A target's own mode goes before it.
    pub mode: Option<Mode>,
    /// At least this much is recorded of each operation.
    pub recording: Option<RecordingLevel>,
    /// From which network namespace targets are dialled.
    pub dial_from: DialFrom,
    /// What becomes of connections that are older than the guard.
    pub on_attach: OnAttach,
}

/// Which cgroups are a workload. All that are given must match; at least one is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// The name of a systemd unit (the cgroup's own name): `mcp-*.service`.
    pub systemd_unit: Option<Glob>,
    /// A systemd slice that the cgroup is or lies in.
    pub slice: Option<String>,
    /// The path below the cgroup2 mount, without the first slash.
    pub cgroup: Option<Glob>,
    /// A process of the cgroup has this effective user id.
    pub uid: Option<u32>,
    /// A process of the cgroup runs this file (device and inode are compared).
    pub executable: Option<PathBuf>,
    /// The cgroup is a container's with this label.
    pub container_label: Option<Label>,
    /// The cgroup is a pod's in this namespace…
    pub namespace: Option<String>,
    /// … with this label…
    pub pod_label: Option<Label>,
    /// … that runs as this service account.
    pub service_account: Option<String>,
}

impl Selector {
    /// Whether processes are looked at: their comings and goings are found by looking again and again.
    #[must_use]
    pub const fn looks_at_processes(&self) -> bool {
        self.uid.is_some() || self.executable.is_some()
    }

    /// Whether it selects pods.
    #[must_use]
    pub const fn is_of_pods(&self) -> bool {
        self.namespace.is_some() || self.pod_label.is_some() || self.service_account.is_some()
    }
}

/// A label that must be there, `KEY` with any value or `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; `None` for any.
    pub value: Option<String>,
}

impl Label {
    fn new(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(format!("{text:?} is no label: write \"key\" or \"key=value\""));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }

    /// Whether it is among `labels`.
    #[must_use]
    pub fn is_in<'a>(&self, mut labels: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        labels.any(|(key, value)| key == self.key && self.value.as_deref().is_none_or(|v| v == value))
    }
}

/// On whose behalf a workload acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadIdentity {
    /// Whoever an issuer's token in this file vouches for; read again when it changes. While there is none that is
    /// accepted, everything is refused.
    TokenFile(PathBuf),
    /// Each pod for whom its own projected token vouches: the file of it, as `VOLUME/PATH`. While a pod has none that is accepted,
    /// everything of it is refused.
    PodToken(PathBuf),
    /// Nobody but the workload itself: `Workload::"workload/NAME"` in policies.
    Named(String),
}

/// From which network namespace targets are dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DialFrom {
    /// The agent's own.
    #[default]
    Host,
    /// The one that the process connected in.
    Workload,
}

/// What becomes of connections that are older than the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAttach {
    /// They are closed: nothing of a governed workload is ungoverned.
    #[default]
    Close,
    /// They go on unjudged and unrecorded until they end by themselves.
    Drain,
}

/// Where this node's pods are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// The API server: `https://`, or `http://` on loopback; without a slash at its end.
    pub api: String,
    /// The agent's own token, read again for each request.
    pub token_file: Option<PathBuf>,
    /// The cluster's CA, beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// This node's name; `NODE_NAME` of the environment, or the host's, unless configured.
    pub node: Option<String>,
    /// Where kubelet keeps the volumes of pods.
    pub kubelet_dir: PathBuf,
}

/// Where kubelet keeps what is its own, unless it is told otherwise.
const KUBELET: &str = "/var/lib/kubelet";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKubernetes {
    pub api: Text,
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub node: Option<Text>,
    pub kubelet_dir: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub name: Text,
    pub systemd_unit: Option<Text>,
    pub slice: Option<Text>,
    pub cgroup: Option<Text>,
    pub uid: Option<u32>,
    pub executable: Option<PathBuf>,
    pub container_label: Option<Text>,
    pub namespace: Option<Text>,
    pub pod_label: Option<Text>,
    pub service_account: Option<Text>,
    pub identity: Option<Text>,
    pub identity_token_file: Option<PathBuf>,
    pub identity_pod_token: Option<Text>,
    pub mode: Option<Text>,
    pub recording: Option<Text>,
    pub dial_from: Option<Text>,
    pub on_attach: Option<Text>,
}

impl Reader<'_> {
    pub(super) fn kubernetes(&mut self, raw: RawKubernetes) -> Option<KubernetesConfig> {
        let RawKubernetes {
            api,
            token_file,
            ca_file,
            node,
            kubelet_dir,
        } = raw;
        let node = node.as_ref().and_then(|t| self.take(t, value::name));
        self.take(&api, value::fetchable)?;
        Some(KubernetesConfig {
            api: api.get_ref().trim_end_matches('/').to_owned(),
            token_file: token_file.map(|file| self.path(file)),
            ca_file: ca_file.map(|file| self.path(file)),
            node,
            kubelet_dir: kubelet_dir.map_or_else(|| KUBELET.into(), |dir| self.path(dir)),
        })
    }

    /// `pods`: whether it is configured where pods are asked for.
    pub(super) fn workloads(&mut self, raw: Vec<RawWorkload>, pods: bool) -> Vec<WorkloadConfig> {
        let mut names = std::collections::BTreeSet::new();
        let mut workloads = Vec::new();
        for one in raw {
            if !names.insert(one.name.get_ref().clone()) {
                let what = format!(
                    "a second workload is named {:?}: give each its own name",
                    one.name.get_ref()
                );
                self.wrong(one.name.span(), what);
            }
            let span = one.name.span();
            let workload = self.workload(one);
            if !pods && workload.as_ref().is_some_and(|w| w.selector.is_of_pods()) {
                let what = "pods are selected, and nobody says where they are asked for: write [kubernetes] with \
                            api = \"https://kubernetes.default.svc\", token_file and ca_file";
                self.wrong(span, what);
            }
            workloads.extend(workload);
        }
        workloads
    }

    fn workload(&mut self, raw: RawWorkload) -> Option<WorkloadConfig> {
        let RawWorkload {
            name,
            systemd_unit,
            slice,
            cgroup,
            uid,
            executable,
            container_label,
            namespace,
            pod_label,
            service_account,
            identity,
            identity_token_file,
            identity_pod_token,
            mode,
            recording,
            dial_from,
            on_attach,
        } = raw;
        let mut optional = |text: &Option<Text>, read: fn(&str) -> Result<String, String>| {
            text.as_ref().and_then(|t| self.take(t, read))
        };
        let slice = optional(&slice, slice_of);
        let namespace = optional(&namespace, value::name);
        let service_account = optional(&service_account, value::name);
        let selector = Selector {
            systemd_unit: systemd_unit.as_ref().and_then(|t| self.take(t, unit_of)),
            slice,
            cgroup: cgroup.as_ref().and_then(|t| self.take(t, cgroup_of)),
            uid,
            executable: executable.map(|file| self.path(file)),
            container_label: container_label.as_ref().and_then(|t| self.take(t, Label::new)),
            namespace,
            pod_label: pod_label.as_ref().and_then(|t| self.take(t, Label::new)),
            service_account,
        };
        if selector == Selector::default() {
            let what = "the workload selects nothing: write systemd_unit, slice, cgroup, uid, executable, container_label, \
                        namespace, pod_label or service_account";
            self.wrong(name.span(), what);
        }
        if let Some(token) = identity_pod_token.as_ref().filter(|_| !selector.is_of_pods()) {
            let what = "only pods have tokens of their own: select them with namespace, pod_label or service_account, or write \
                        identity_token_file";
            self.wrong(token.span(), what);
        }
        let identity = match (identity, identity_token_file, identity_pod_token) {
            (Some(text), Some(_), _) | (Some(text), _, Some(_)) | (None, Some(_), Some(text)) => {
                let what = "write one of identity, identity_token_file and identity_pod_token, not both";
                self.wrong(text.span(), what);
                None
            }
            (None, Some(file), None) => Some(WorkloadIdentity::TokenFile(self.path(file))),
            (None, None, Some(token)) => self.take(&token, pod_token).map(WorkloadIdentity::PodToken),
            (Some(text), None, None) => self.take(&text, value::name).map(WorkloadIdentity::Named),
            (None, None, None) => Some(WorkloadIdentity::Named(name.get_ref().clone())),
        };
        let shown = self.take(&name, value::name);
        let mode = mode.as_ref().and_then(|t| self.take(t, mode_of));
        let recording = recording.as_ref().and_then(|t| self.take(t, recording_of));
        let dial_from = dial_from.as_ref().and_then(|t| self.take(t, dial_from_of));
        let on_attach = on_attach.as_ref().and_then(|t| self.take(t, on_attach_of));
        Some(WorkloadConfig {
            name: WorkloadName::new(shown?),
            selector,
            identity: identity?,
            mode,
            recording,
            dial_from: dial_from.unwrap_or_default(),
            on_attach: on_attach.unwrap_or_default(),
        })
    }
}

/// Suffixes of units that have a cgroup (systemd.unit(5)).
const UNITS: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".swap", ".slice"];

fn unit_of(text: &str) -> Result<Glob, String> {
    if text.contains('/') || !UNITS.iter().any(|end| text.ends_with(end)) {
        return Err(format!(
            "{text:?} names no unit: write one such as \"mcp-*.service\" or \"run-*.scope\""
        ));
    }
    Glob::new(text)
}

fn slice_of(text: &str) -> Result<String, String> {
    if text.ends_with(".slice") && !text.contains(['/', '*', '?']) && text != "-.slice" {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no slice: write one such as \"mcp.slice\""))
    }
}

fn cgroup_of(text: &str) -> Result<Glob, String> {
    let path = text.trim_start_matches('/').trim_end_matches('/');
    // Attached to the root, the hooks would govern the agent and the whole host.
    if path.is_empty() || path.chars().all(|c| matches!(c, '*' | '/')) {
        return Err(format!(
            "{text:?} would be the whole host: write a path below the cgroup2 mount, such as \"mcp.slice/*\""
        ));
    }
    Glob::new(path)
}

/// A file in a projected volume.
fn pod_token(text: &str) -> Result<PathBuf, String> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('~');
    let parts = text.split('/').count();
    if parts > 1 && text.split('/').all(plain) {
        Ok(text.into())
    } else {
        Err(format!(
            "{text:?} is no file of a volume: write VOLUME/PATH, such as \"interdict/token\""
        ))
    }
}

fn dial_from_of(text: &str) -> Result<DialFrom, String> {
    match text {
        "host" => Ok(DialFrom::Host),
        "workload" => Ok(DialFrom::Workload),
        other => Err(format!(
            "{other:?} is unknown: write dial_from = \"host\" or \"workload\""
        )),
    }
}

fn on_attach_of(text: &str) -> Result<OnAttach, String> {
    match text {
        "close" => Ok(OnAttach::Close),
        "drain" => Ok(OnAttach::Drain),
        other => Err(format!(
            "{other:?} is unknown: write on_attach = \"close\" or \"drain\""
        )),
    }
}
