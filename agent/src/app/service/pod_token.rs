//! Pods that act as their own service accounts: the projected token of each, read where kubelet puts it, again when kubelet
//! replaces it. The guard says which pods there are and where their tokens lie (`file`), and opens these; the proxy reads and judges
//! them (`identity::pod`).
//!
//! Kubelet's directory and not `/proc/PID/root`: what lies there was written by kubelet, and not by whoever runs in the pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::audit::AuditLog;
use crate::guard::GovernedPod;
use crate::identity::{Binding, IdentityChange, Issuers, PodBindings, PodName, TokenSource};
use crate::model::{Principal, RunId};
use crate::task::{Task, spawn};

use super::super::proxy::record_identity;

/// Changes of identities that wait to be recorded.
const CHANGES: usize = 64;

/// Where the token of a pod is: `volume` is `VOLUME/PATH` of its projected volume.
pub(super) fn file(kubelet: &Path, uid: &str, volume: &Path) -> PathBuf {
    let volumes = Path::new("pods")
        .join(uid)
        .join("volumes/kubernetes.io~projected");
    kubelet.join(volumes).join(volume)
}

/// The tokens of a workload's pods.
pub(super) struct PodTokens {
    volume: PathBuf,
    issuers: Issuers,
    bindings: Arc<PodBindings>,
    watched: BTreeMap<String, Task<()>>,
    changes: mpsc::Sender<IdentityChange>,
    _recording: Task<()>,
}

impl PodTokens {
    /// Of no pod yet, and what stands behind the workload meanwhile: whoever the token of each process's pod vouches for, and
    /// nobody for `workload` itself.
    pub(super) fn new(
        volume: PathBuf,
        issuers: Issuers,
        workload: Principal,
        (audit, run): (AuditLog, RunId),
    ) -> (Self, Binding) {
        let (changes, told) = mpsc::channel(CHANGES);
        let bindings = Arc::new(PodBindings::new(crate::guard::holds_cgroup));
        let binding = Binding::of_pods(workload, Arc::clone(&bindings));
        let tokens = Self {
            volume,
            issuers,
            bindings,
            watched: BTreeMap::new(),
            changes,
            _recording: spawn("identity records", record_identity(told, audit, run)),
        };
        (tokens, binding)
    }

    /// A pod is governed.
    pub(super) fn begin(&mut self, pod: GovernedPod) {
        let GovernedPod {
            uid,
            namespace,
            name,
            service_account,
            directory,
            token,
        } = pod;
        if self.watched.contains_key(&uid) {
            return;
        }
        let pod = PodName {
            uid: uid.clone(),
            namespace,
            name,
            service_account,
        };
        let binding = Arc::new(Binding::to_come_of_pod(&pod, &self.volume));
        self.bindings.add(&uid, &directory, Arc::clone(&binding));
        let source = TokenSource::Pod(token, pod);
        let watching = binding.watch(source, self.issuers.clone(), self.changes.clone());
        self.watched.insert(uid, spawn("pod identity", watching));
    }

    /// It is governed no longer.
    pub(super) fn end(&mut self, uid: &str) {
        if let Some(watching) = self.watched.remove(uid) {
            watching.abort();
            self.bindings.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_kubelet_puts_projected_volumes() {
        let path = file(
            Path::new("/var/lib/kubelet"),
            "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a51",
            Path::new("interdict/token"),
        );
        let expected = "/var/lib/kubelet/pods/7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a51/volumes/kubernetes.io~projected/interdict/token";
        assert_eq!(path, Path::new(expected));
    }
}
