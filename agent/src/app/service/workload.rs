//! One governed workload, as its guard sees it: its hooks and tables, its cgroups, its namespaces. What serves its connections
//! is in the proxy (`served`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{Config, OnAttach, WorkloadConfig, WorkloadIdentity};
use crate::guard::{
    AgentPins, GovernedPod, GuardError, Namespace, NamespaceId, NamespaceListeners, ServiceProxy,
    WorkloadGuard, close_older, count_older, processes_below,
};
use crate::task::Task;

use super::super::rooms::host_dns;
use super::containers::pod_of;
use super::notify::Notifier;
use super::pod_token;
use super::select::Pod;

/// Whom a workload's guard speaks to.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) proxy: ServiceProxy,
    pub(super) notifier: Notifier,
}

/// A governed cgroup.
#[derive(Debug)]
struct Governed {
    id: u64,
    /// Whether connections that are older than the guard may be left.
    drains: bool,
}

/// A namespace that is listened in.
struct Served {
    kept_as: String,
    ports: BTreeSet<u16>,
    // Keeps its inode from being another namespace's.
    namespace: Arc<Namespace>,
}

/// A governed workload.
pub(super) struct Workload {
    pub(super) config: WorkloadConfig,
    pub(super) number: u32,
    guard: WorkloadGuard,
    governed: BTreeMap<String, Governed>,
    namespaces: BTreeMap<NamespaceId, Served>,
    // Tells the proxy what is denied.
    forwarding: Option<Task<()>>,
}

impl Workload {
    /// Loads its hooks. Nothing is attached yet that was not before.
    pub(super) fn open(
        config: WorkloadConfig,
        number: u32,
        whole: &Config,
        pins: &AgentPins,
    ) -> Result<Self, GuardError> {
        let mut guard = WorkloadGuard::open(pins, &config.name, &host_dns().servers)?;
        guard.allow_inbound(&whole.inbound)?;
        for (feature, lost) in &guard.features().missing {
            tracing::warn!(workload = %config.name, feature, lost, "this kernel lacks a feature");
        }
        Ok(Self {
            config,
            number,
            guard,
            governed: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            forwarding: None,
        })
    }

    /// Has the proxy serve it, which says when it does.
    pub(super) async fn offer(
        &mut self,
        whole: &Config,
        around: &Around,
        homeless: mpsc::Sender<u32>,
    ) -> Result<(), GuardError> {
        let resolvers = host_dns().servers;
        around
            .proxy
            .workload(self.number, &self.guard, (whole, &self.config), &resolvers)
            .await?;
        if let Some(mut denials) = self.guard.take_denials() {
            denials.tell_homeless(homeless);
            self.forwarding = Some(around.proxy.forward(self.number, denials));
        }
        Ok(())
    }

    /// The proxy serves it: from now on the hooks redirect, in the agent's own namespace too.
    pub(super) async fn begin(&mut self, kept: &mut BTreeMap<String, Vec<TcpListener>>, around: &Around) {
        self.take_back(kept, around).await;
        self.guard.live(&around.proxy);
        self.open_namespace(Namespace::own(), around).await;
    }

    /// The cgroups that are governed.
    pub(super) fn cgroups(&self) -> impl Iterator<Item = &str> {
        self.governed.keys().map(String::as_str)
    }

    /// Its hooks.
    pub(super) fn hooks(&self) -> &[String] {
        &self.guard.features().attached
    }

    /// Listeners that were kept over the restart go on in their namespaces.
    async fn take_back(&mut self, kept: &mut BTreeMap<String, Vec<TcpListener>>, around: &Around) {
        let prefix = format!("listen.{}.", self.config.name);
        let names: Vec<String> = kept
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        for name in names {
            let Some(sockets) = kept.remove(&name) else {
                continue;
            };
            let listeners = match NamespaceListeners::kept(sockets) {
                Ok(Some(listeners)) => listeners,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(name, %error, "kept listeners cannot be used");
                    around.notifier.forget(&name);
                    continue;
                }
            };
            // Sockets do not say whose process they belong to: the namespace is found again by them.
            match listeners.namespace() {
                Ok(namespace) => self.serve_namespace(namespace, listeners, name, around).await,
                Err(error) => {
                    tracing::warn!(name, %error, "the namespace of kept listeners is not found");
                    around.notifier.forget(&name);
                }
            }
        }
        // Nobody listens there any more: denied, and not sent to a port that might be somebody's.
        let known: BTreeSet<_> = self.namespaces.values().map(|s| s.namespace.cookie()).collect();
        for cookie in self.guard.listened() {
            if !known.contains(&cookie) {
                self.guard.unlisten(cookie);
            }
        }
    }

    async fn open_namespace(&mut self, namespace: std::io::Result<Namespace>, around: &Around) {
        let namespace = match namespace {
            Ok(namespace) => namespace,
            Err(error) => return tracing::debug!(%error, "a namespace was gone"),
        };
        if self.namespaces.contains_key(&namespace.id()) {
            return;
        }
        match namespace.listen() {
            Ok(listeners) => {
                let name = format!("listen.{}.{}", self.config.name, namespace.cookie().0);
                let sockets: Vec<_> = listeners.sockets().collect();
                around.notifier.keep(&name, &sockets);
                drop(sockets);
                self.serve_namespace(namespace, listeners, name, around).await;
            }
            Err(error) => {
                tracing::error!(workload = %self.config.name, %error, "the agent cannot listen in a namespace of the workload: connections there stay denied");
            }
        }
    }

    /// What is redirected before the proxy has the listeners waits in them.
    async fn serve_namespace(
        &mut self,
        namespace: Namespace,
        mut listeners: NamespaceListeners,
        kept_as: String,
        around: &Around,
    ) {
        let (id, cookie) = (namespace.id(), namespace.cookie());
        listeners.open_names(&namespace);
        if let Err(error) = self.guard.listen(&listeners) {
            return tracing::error!(workload = %self.config.name, %error, "connections of a namespace stay denied");
        }
        let served = Served {
            kept_as,
            ports: listeners.ports().collect(),
            namespace: Arc::new(namespace),
        };
        self.namespaces.insert(id, served);
        self.tell_namespaces(around);
        around.proxy.listen(self.number, listeners).await;
        tracing::info!(workload = %self.config.name, ?cookie, "listening in a network namespace");
    }

    /// From where the proxy may have its targets dialled.
    fn tell_namespaces(&self, around: &Around) {
        let all = self.namespaces.values();
        around
            .proxy
            .namespaces(self.number, all.map(|served| Arc::clone(&served.namespace)));
    }

    /// Whoever connected in a namespace without a listener: the next try finds one.
    pub(super) async fn home(&mut self, pid: u32, around: &Around) {
        let known = NamespaceId::of(pid).is_none_or(|id| self.namespaces.contains_key(&id));
        if !known {
            self.open_namespace(Namespace::of(pid), around).await;
        }
    }

    /// Listens in every namespace that its processes are in, and no longer in those that they have left.
    pub(super) async fn look_at_namespaces(&mut self, directory: impl Fn(&str) -> PathBuf, around: &Around) {
        let mut alive = BTreeSet::new();
        let paths: Vec<String> = self.governed.keys().cloned().collect();
        for path in paths {
            for seen in processes_below(&directory(&path)) {
                alive.extend(seen.namespace);
                let known = seen.namespace.is_none_or(|id| self.namespaces.contains_key(&id));
                if !known {
                    self.open_namespace(Namespace::of(seen.pid), around).await;
                }
            }
        }
        alive.extend(NamespaceId::of(std::process::id()));
        let left: Vec<NamespaceId> = self
            .namespaces
            .keys()
            .copied()
            .filter(|id| !alive.contains(id))
            .collect();
        for id in left {
            if let Some(served) = self.namespaces.remove(&id) {
                let cookie = served.namespace.cookie();
                self.guard.unlisten(cookie);
                around.notifier.forget(&served.kept_as);
                around.proxy.unlisten(self.number, cookie).await;
                self.tell_namespaces(around);
            }
        }
    }

    fn ports(&self) -> BTreeSet<u16> {
        let all = self.namespaces.values();
        all.flat_map(|s| s.ports.iter().copied()).collect()
    }

    /// Governs a cgroup and all below it, from now on.
    pub(super) async fn govern(
        &mut self,
        path: &str,
        directory: &Path,
        around: &Around,
    ) -> Result<(), GuardError> {
        if self.governed.contains_key(path) {
            return Ok(());
        }
        let there = processes_below(directory);
        // Before the hooks: who connects in between shall not be denied.
        for seen in &there {
            if seen
                .namespace
                .is_some_and(|id| !self.namespaces.contains_key(&id))
            {
                self.open_namespace(Namespace::of(seen.pid), around).await;
            }
        }
        let ports = self.ports();
        let drains = self.config.on_attach == OnAttach::Drain && count_older(directory, &ports) > 0;
        let new = self.guard.attach(directory, !drains)?;
        let closed = if new && self.config.on_attach == OnAttach::Close {
            close_older(directory, &ports)
        } else {
            0
        };
        let id = std::fs::metadata(directory)
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .map_err(|source| GuardError::Kernel {
                what: "cannot look at",
                path: directory.to_owned(),
                source,
            })?;
        tracing::info!(workload = %self.config.name, cgroup = path, processes = there.len(), closed, new, "governed");
        self.governed.insert(path.to_owned(), Governed { id, drains });
        if new {
            around
                .proxy
                .governed(self.number, path, there.len(), closed)
                .await;
        }
        Ok(())
    }

    /// A governed cgroup is that of a pod: it acts for itself, where that is configured.
    pub(super) async fn begin_pod(
        &self,
        path: &str,
        pod: Option<&Pod>,
        directory: &Path,
        around: &Around,
        whole: &Config,
    ) {
        let WorkloadIdentity::PodToken(volume) = &self.config.identity else {
            return;
        };
        let kubelet = whole.kubernetes.as_ref().map(|k| k.kubelet_dir.as_path());
        let (Some(uid), Some(pod), Some(kubelet)) = (pod_of(path), pod, kubelet) else {
            return;
        };
        let pod = GovernedPod {
            token: pod_token::file(kubelet, &uid, volume),
            uid,
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            directory: directory.to_owned(),
        };
        around.proxy.pod(self.number, pod).await;
    }

    /// Cgroups whose old connections were left: once there are none, nothing leaves the host past the agent any more.
    pub(super) fn look_at_drains(&mut self, directory: impl Fn(&str) -> PathBuf) {
        let ports = self.ports();
        for (path, governed) in self.governed.iter_mut().filter(|(_, governed)| governed.drains) {
            let directory = directory(path);
            if count_older(&directory, &ports) > 0 {
                continue;
            }
            match self.guard.attach(&directory, true) {
                Ok(_new) => governed.drains = false,
                Err(error) => tracing::warn!(path, %error, "packets are not looked at yet"),
            }
        }
    }

    /// A cgroup is gone, or is no longer this workload.
    pub(super) async fn release(&mut self, path: &str, reason: &str, around: &Around) {
        let Some(governed) = self.governed.remove(path) else {
            return;
        };
        if let Some(uid) = pod_of(path) {
            around.proxy.pod_gone(self.number, &uid).await;
        }
        self.guard.detach(governed.id);
        tracing::info!(workload = %self.config.name, cgroup = path, reason, "released");
        around.proxy.released(self.number, path, reason).await;
    }

    /// What an agent before has guarded and nothing selects any more goes.
    pub(super) fn settle(&mut self) {
        let selected: BTreeSet<u64> = self.governed.values().map(|g| g.id).collect();
        for id in self.guard.attached() {
            if !selected.contains(&id) {
                self.guard.detach(id);
            }
        }
        self.guard.finish_upgrade();
    }

    /// Guards it as the changed configuration says.
    pub(super) fn change(&mut self, config: WorkloadConfig, around: &Around) {
        around.proxy.dial_from(self.number, config.dial_from);
        self.config = config;
        self.tell_namespaces(around);
    }

    /// Nobody configures it any more. The proxy says when its last session has ended; then it is for [`Workload::leave`].
    pub(super) async fn dismiss(&mut self, around: &Around) {
        let paths: Vec<String> = self.governed.keys().cloned().collect();
        for path in paths {
            self.release(&path, "the workload is not configured any more", around)
                .await;
        }
        for served in self.namespaces.values() {
            around.notifier.forget(&served.kept_as);
        }
        around.proxy.dismissed(self.number).await;
    }

    /// Nothing is connected from now on: the proxy has ended.
    pub(super) fn close(&mut self) {
        self.guard.close();
    }

    /// Ends this agent's part; with `hand_over`, what waits to be accepted is the next agent's.
    pub(super) fn leave(self, hand_over: bool) {
        self.guard.leave(hand_over);
    }
}
