//! One governed workload: its guard, its cgroups, its namespaces, and what serves its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::audit::{AuditLog, Event};
use crate::config::{Config, DialFrom, OnAttach, WorkloadConfig, WorkloadIdentity};
use crate::connection::{Acceptor, DatagramListener, Targets, dial_from};
use crate::guard::{
    AgentPins, CounterReader, GuardError, Namespace, NamespaceId, NamespaceListeners, WorkloadGuard,
    close_older, count_older, processes_below,
};
use crate::identity::{Binding, TokenSource};
use crate::model::RunId;
use crate::task::{Task, spawn};

use super::super::proxy::record_identity;
use super::super::rooms::{Shared, host_dns, workload_principal};
use super::super::serve::{Serving, names};
use super::super::{denials, rules};
use super::accept::{Current, Ending, accept};
use super::containers::pod_of;
use super::notify::Notifier;
use super::pod_token::PodTokens;
use super::select::Pod;
use super::{DRAIN, ServeError};

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
    accepting: Vec<Task<()>>,
    ending: watch::Sender<Ending>,
    // Keeps its inode from being another namespace's.
    namespace: Arc<Namespace>,
}

/// A governed workload.
pub(super) struct Workload {
    pub(super) config: WorkloadConfig,
    run: RunId,
    audit: AuditLog,
    guard: WorkloadGuard,
    binding: Arc<Binding>,
    current: Arc<ArcSwap<Current>>,
    governed: BTreeMap<String, Governed>,
    namespaces: BTreeMap<NamespaceId, Served>,
    // These have something to write down at the end.
    draining: Vec<Task<()>>,
    denials_end: watch::Sender<()>,
    identity: Vec<Task<()>>,
    /// Where each of its pods acts for itself.
    pods: Option<PodTokens>,
    follow: Vec<Task<()>>,
}

impl Workload {
    /// Loads its guard, and serves its connections in the agent's own namespace. Nothing is attached yet.
    pub(super) async fn start(
        config: WorkloadConfig,
        whole: &Config,
        shared: &Shared,
        pins: &AgentPins,
        kept: &mut BTreeMap<String, Vec<TcpListener>>,
        notifier: &Notifier,
        homeless: mpsc::Sender<u32>,
    ) -> Result<Self, ServeError> {
        let run = RunId::new();
        let audit = shared.audit.about(&config.name)?;
        let Bound {
            binding,
            tasks: identity,
            pods,
        } = bind(&config, whole, shared, &audit, run).await;
        let mut guard = WorkloadGuard::open(pins, &config.name, &host_dns().servers)?;
        guard.allow_inbound(&whole.inbound)?;
        for (feature, lost) in &guard.features().missing {
            tracing::warn!(workload = %config.name, feature, lost, "this kernel lacks a feature");
        }
        let (denials_end, told) = watch::channel(());
        let mut draining = Vec::new();
        if let Some(mut stream) = guard.take_denials() {
            stream.tell_homeless(homeless);
            draining.push(spawn(
                "denials",
                denials::record(stream, audit.clone(), run, told),
            ));
        }
        let (current, follow) = serving(&config, whole, shared, &audit, run, &binding, &guard).await?;
        let mut workload = Self {
            config,
            run,
            audit,
            guard,
            binding,
            current: Arc::new(ArcSwap::from_pointee(current)),
            governed: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            draining,
            denials_end,
            identity,
            pods,
            follow,
        };
        workload.take_back(kept, notifier);
        workload.guard.live();
        workload.open_namespace(Namespace::own(), notifier);
        Ok(workload)
    }

    /// The cgroups that are governed.
    pub(super) fn cgroups(&self) -> impl Iterator<Item = &str> {
        self.governed.keys().map(String::as_str)
    }

    /// Reads the kernel's counters.
    pub(super) fn counter_reader(&self) -> CounterReader {
        self.guard.counter_reader()
    }

    /// Its hooks.
    pub(super) fn hooks(&self) -> &[String] {
        &self.guard.features().attached
    }

    /// Listeners that were kept over the restart go on in their namespaces.
    fn take_back(&mut self, kept: &mut BTreeMap<String, Vec<TcpListener>>, notifier: &Notifier) {
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
                    notifier.forget(&name);
                    continue;
                }
            };
            // Sockets do not say whose process they belong to: the namespace is found again by them.
            match listeners.namespace() {
                Ok(namespace) => self.serve_namespace(namespace, listeners, name),
                Err(error) => {
                    tracing::warn!(name, %error, "the namespace of kept listeners is not found");
                    notifier.forget(&name);
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

    fn open_namespace(&mut self, namespace: std::io::Result<Namespace>, notifier: &Notifier) {
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
                notifier.keep(&name, &sockets);
                drop(sockets);
                self.serve_namespace(namespace, listeners, name);
            }
            Err(error) => {
                tracing::error!(workload = %self.config.name, %error, "the agent cannot listen in a namespace of the workload: connections there stay denied");
            }
        }
    }

    /// First the agent accepts, then the hooks redirect.
    fn serve_namespace(&mut self, namespace: Namespace, mut listeners: NamespaceListeners, kept_as: String) {
        let (id, cookie) = (namespace.id(), namespace.cookie());
        listeners.open_names(&namespace);
        if let Err(error) = self.guard.listen(&listeners) {
            return tracing::error!(workload = %self.config.name, %error, "connections of a namespace stay denied");
        }
        let namespace = Arc::new(namespace);
        dial_from(&namespace);
        let (ending, _) = watch::channel(Ending::No);
        let mut accepting = Vec::new();
        let mut ports = BTreeSet::new();
        for (socket, address) in listeners.take_names() {
            match tokio::net::UdpSocket::from_std(socket) {
                Ok(socket) => {
                    let listener = DatagramListener::new(socket, address, cookie, self.guard.datagrams());
                    let current = Arc::clone(&self.current);
                    let serving = move || Arc::clone(&current.load().serving);
                    accepting.push(spawn("names", names(serving, listener, ending.subscribe())));
                }
                Err(error) => tracing::error!(%error, "a socket for names cannot be used"),
            }
        }
        for (listener, address) in listeners.into_sockets() {
            ports.insert(address.0.port());
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let acceptor = Acceptor::new(listener, address, cookie, self.guard.flows());
                    let current = Arc::clone(&self.current);
                    let accepting_here = accept(current, acceptor, cookie, ending.subscribe());
                    accepting.push(spawn("accept", accepting_here));
                }
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        tracing::info!(workload = %self.config.name, ?cookie, "listening in a network namespace");
        self.namespaces.insert(
            id,
            Served {
                kept_as,
                ports,
                accepting,
                ending,
                namespace,
            },
        );
    }

    /// Whoever connected in a namespace without a listener: the next try finds one.
    pub(super) fn home(&mut self, pid: u32, notifier: &Notifier) {
        let known = NamespaceId::of(pid).is_none_or(|id| self.namespaces.contains_key(&id));
        if !known {
            self.open_namespace(Namespace::of(pid), notifier);
        }
    }

    /// Listens in every namespace that its processes are in, and no longer in those that they have left.
    pub(super) fn look_at_namespaces(
        &mut self,
        directory: impl Fn(&str) -> std::path::PathBuf,
        notifier: &Notifier,
    ) {
        let mut alive = BTreeSet::new();
        let paths: Vec<String> = self.governed.keys().cloned().collect();
        for path in paths {
            for seen in processes_below(&directory(&path)) {
                alive.extend(seen.namespace);
                let known = seen.namespace.is_none_or(|id| self.namespaces.contains_key(&id));
                if !known {
                    self.open_namespace(Namespace::of(seen.pid), notifier);
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
                self.guard.unlisten(served.namespace.cookie());
                notifier.forget(&served.kept_as);
                served.ending.send_replace(Ending::Empty);
                self.draining.extend(served.accepting);
            }
        }
        self.draining.retain(|task| !task.is_finished());
    }

    /// Governs a cgroup and all below it, from now on.
    pub(super) async fn govern(
        &mut self,
        path: &str,
        directory: &Path,
        notifier: &Notifier,
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
                self.open_namespace(Namespace::of(seen.pid), notifier);
            }
        }
        let ports: BTreeSet<u16> = self
            .namespaces
            .values()
            .flat_map(|s| s.ports.iter().copied())
            .collect();
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
            let event = Event::WorkloadGoverned {
                run: self.run,
                cgroup: path.to_owned(),
                processes: there.len(),
                closed,
            };
            self.post(event).await;
        }
        Ok(())
    }

    /// A governed cgroup is that of a pod: it acts for itself, where that is configured.
    pub(super) fn begin_pod(&mut self, path: &str, pod: Option<&Pod>, directory: &Path) {
        if let (Some(tokens), Some(uid), Some(pod)) = (&mut self.pods, pod_of(path), pod) {
            tokens.begin(&uid, pod, directory);
        }
    }

    /// Cgroups whose old connections were left: once there are none, nothing leaves the host past the agent any more.
    pub(super) fn look_at_drains(&mut self, directory: impl Fn(&str) -> std::path::PathBuf) {
        let ports: BTreeSet<u16> = self
            .namespaces
            .values()
            .flat_map(|s| s.ports.iter().copied())
            .collect();
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
    pub(super) async fn release(&mut self, path: &str, reason: &str) {
        let Some(governed) = self.governed.remove(path) else {
            return;
        };
        if let (Some(pods), Some(uid)) = (&mut self.pods, pod_of(path)) {
            pods.end(&uid);
        }
        self.guard.detach(governed.id);
        tracing::info!(workload = %self.config.name, cgroup = path, reason, "released");
        let event = Event::WorkloadReleased {
            run: self.run,
            cgroup: path.to_owned(),
            reason: reason.to_owned(),
        };
        self.post(event).await;
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

    /// Serves new connections as the changed configuration says. Sessions go on as they began.
    pub(super) async fn change(
        &mut self,
        config: WorkloadConfig,
        whole: &Config,
        shared: &Shared,
    ) -> Result<(), ServeError> {
        if config.identity != self.config.identity {
            let bound = bind(&config, whole, shared, &self.audit, self.run).await;
            (self.binding, self.identity, self.pods) = (bound.binding, bound.tasks, bound.pods);
        }
        // Two must not change the kernel's rules at once.
        self.follow.clear();
        let (current, follow) = serving(
            &config,
            whole,
            shared,
            &self.audit,
            self.run,
            &self.binding,
            &self.guard,
        )
        .await?;
        self.current.store(Arc::new(current));
        self.follow = follow;
        self.config = config;
        Ok(())
    }

    /// Nobody configures it any more: what its sessions do goes on to its end elsewhere.
    pub(super) async fn dismiss(mut self, notifier: &Notifier) {
        let paths: Vec<String> = self.governed.keys().cloned().collect();
        for path in paths {
            self.release(&path, "the workload is not configured any more")
                .await;
        }
        for served in self.namespaces.values() {
            notifier.forget(&served.kept_as);
        }
        self.end(false).await;
    }

    /// Ends: sessions first. With `hand_over`, what waits to be accepted is the next agent's.
    pub(super) async fn end(self, hand_over: bool) {
        let ending = if hand_over {
            Ending::HandOver
        } else {
            Ending::Empty
        };
        let mut waiting = self.draining;
        for served in self.namespaces.into_values() {
            served.ending.send_replace(ending);
            waiting.extend(served.accepting);
        }
        self.denials_end.send_replace(());
        let all = async {
            for task in waiting {
                task.join().await;
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!(workload = %self.config.name, "some sessions did not end in time: they are cut off");
        }
        self.guard.leave(hand_over);
    }

    async fn post(&self, event: Event) {
        if let Err(error) = self.audit.post(event).await {
            tracing::error!(%error, "a change of a workload could not be recorded");
        }
    }
}

/// Who stands behind a workload.
struct Bound {
    binding: Arc<Binding>,
    tasks: Vec<Task<()>>,
    pods: Option<PodTokens>,
}

/// Who stands behind it, and the tasks that keep that true. A token that is not there yet is waited for.
async fn bind(
    config: &WorkloadConfig,
    whole: &Config,
    shared: &Shared,
    audit: &AuditLog,
    run: RunId,
) -> Bound {
    let bound = |binding, pods| Bound {
        binding: Arc::new(binding),
        tasks: Vec::new(),
        pods,
    };
    let file = match &config.identity {
        WorkloadIdentity::Named(name) => return bound(Binding::fixed(workload_principal(name)), None),
        WorkloadIdentity::TokenFile(file) => file,
        WorkloadIdentity::PodToken(volume) => {
            let kubelet = whole.kubernetes.as_ref().map(|k| k.kubelet_dir.clone());
            let (pods, binding) = PodTokens::new(
                (kubelet.unwrap_or_default(), volume.clone()),
                shared.issuers.clone(),
                workload_principal(config.name.as_str()),
                (audit.clone(), run),
            );
            return bound(binding, Some(pods));
        }
    };
    let source = TokenSource::File(file.clone());
    let now = crate::clock::now();
    let binding = match Binding::from_token(&source, &shared.issuers, now).await {
        Ok(binding) => binding,
        Err(error) => {
            tracing::error!(workload = %config.name, file = %file.display(), %error, "the identity token is not accepted: everything is refused until another is");
            Binding::to_come(file, workload_principal(config.name.as_str()), error.to_string())
        }
    };
    let binding = Arc::new(binding);
    if let Ok(principal) = binding.current(now) {
        let bound = Event::IdentityBound { run, principal };
        if let Err(error) = audit.post(bound).await {
            tracing::error!(%error, "an identity could not be recorded");
        }
    }
    let (changes, told) = mpsc::channel(16);
    let tasks = vec![
        spawn(
            "identity",
            Arc::clone(&binding).watch(source, shared.issuers.clone(), changes),
        ),
        spawn("identity records", record_identity(told, audit.clone(), run)),
    ];
    Bound {
        binding,
        tasks,
        pods: None,
    }
}

/// What new connections are served with, and the tasks that keep it fresh.
async fn serving(
    config: &WorkloadConfig,
    whole: &Config,
    shared: &Shared,
    audit: &AuditLog,
    run: RunId,
    binding: &Arc<Binding>,
    guard: &WorkloadGuard,
) -> Result<(Current, Vec<Task<()>>), ServeError> {
    let mut own = whole.clone();
    own.mode = config.mode.unwrap_or(own.mode);
    for target in &mut own.targets {
        target.recording = config
            .recording
            .map_or(target.recording, |least| target.recording.max(least));
    }
    let rooms = Arc::new(shared.rooms(run, &own, audit.clone(), Arc::clone(binding)));
    let targets = Targets::resolve(&own.targets, host_dns()).await;
    let serving = Serving::new(&own, rooms, Arc::clone(&targets), &shared.authority)?;
    let mut table = guard.rules()?;
    rules::load(&mut table, &own.networks, &targets)?;
    let follow = vec![
        spawn("targets", Arc::clone(&targets).keep_fresh()),
        spawn("rules", rules::follow(table, own.networks.clone(), targets)),
    ];
    let current = Current {
        serving: Arc::new(serving),
        from_inside: config.dial_from == DialFrom::Workload,
    };
    Ok((current, follow))
}
