//! `interdict serve`: the agent as a service, around workloads that it did not start.

mod accept;
mod change;
mod containers;
mod notify;
mod outside;
mod pod_token;
mod pods;
mod select;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::audit::Event;
use crate::config::{self, Config};
use crate::guard::{AgentPins, CgroupTree, GuardError, TreeEvent, cgroup_of_self, processes};
use crate::model::{Digest, WorkloadName};
use crate::task::{Task, spawn};

use super::descriptors;
use super::health::Readiness;
use super::metrics::Readers;
use super::reload::Reloading;
use super::rooms::{BuildError, Shared, shared};
use notify::Notifier;
use outside::{Signals, Wish};
use pods::Pods;
use select::{Known, is_within, workload_of};
use workload::Workload;

/// How long the end waits for sessions to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How often processes are looked at that nobody tells of.
const LOOK: Duration = Duration::from_secs(2);
/// After a process came, its cgroup is looked at again: what starts a container makes its namespaces a moment later.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(120),
    Duration::from_millis(500),
];
/// How long a cgroup is looked at again and again.
const RECENT: Duration = Duration::from_secs(1);
/// Processes that wait for a listener in their namespace.
const HOMELESS: usize = 256;
/// What of the mistakes is recorded, in characters.
const MAX_RECORDED: usize = 2000;

/// What to serve.
#[derive(Debug)]
pub struct ServeSpec {
    /// The file that the configuration came from, and is read again from.
    pub file: PathBuf,
    /// The configuration.
    pub config: Config,
    /// The digest of its file.
    pub digest: Digest,
}

/// Why the agent does not serve. What an agent before has guarded stays guarded.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent.
    #[error(
        "another agent serves with the state directory {0}: stop it first, or configure another state_dir"
    )]
    Taken(PathBuf),
    /// A room.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The kernel.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A record.
    #[error("nothing is governed that cannot be recorded: {0}")]
    Audit(#[from] crate::audit::AuditError),
    /// A target.
    #[error(transparent)]
    Tls(#[from] crate::connection::tls::TlsError),
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Serves until it is asked to stop (SIGTERM, SIGINT). The hooks stay: a workload is not free because its agent is away.
///
/// # Errors
/// Where it cannot begin.
pub async fn serve(spec: ServeSpec) -> Result<(), ServeError> {
    let _workloads_have_their_own = descriptors::raise();
    let mut service = Service::start(spec).await?;
    let mut signals = Signals::listen().map_err(|source| ServeError::System {
        what: "no signals",
        source,
    })?;
    let mut tree = service.tree.watch()?;
    let (_shipping, _health, traces) = (service.shipping(), service.health().await, service.traces());
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats = service.notifier.beat().map(tokio::time::interval);
    let mut again = Again::default();
    loop {
        tokio::select! {
            event = tree.recv() => match event {
                Some(event) => service.tree_event(event, &mut again).await,
                None => {
                    // Without it nothing new would be governed: the service manager starts another.
                    return Err(ServeError::System { what: "cgroups are not watched any more", source: std::io::ErrorKind::BrokenPipe.into() });
                }
            },
            Some((workload, pid)) = service.homeless.recv() => service.home(&workload, pid),
            Some(uid) = service.pod_changes.recv() => service.pod(&uid, &mut again).await,
            () = again.due() => service.look_again().await,
            _ = looks.tick() => service.look().await,
            () = tick(&mut beats) => service.notifier.tell("WATCHDOG=1"),
            signal = signals.next() => match signal {
                Wish::Reload => service.reload().await,
                Wish::Stop => break,
            },
        }
    }
    service.stop().await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(())
}

/// Takes away every guard that a serving agent with this configuration has left, and says whose.
///
/// # Errors
/// Where an agent serves with it right now.
pub fn release(config: &Config) -> Result<Vec<WorkloadName>, ServeError> {
    let _lock = lock(&config.state_dir)?;
    let pins = AgentPins::of(&config.state_dir)?;
    let names = pins.workloads();
    for name in &names {
        pins.release(name);
    }
    Ok(names)
}

/// One serving agent for a state directory.
fn lock(state_dir: &Path) -> Result<File, ServeError> {
    let failed = |source| ServeError::System {
        what: "the state directory cannot be used",
        source,
    };
    std::fs::create_dir_all(state_dir).map_err(failed)?;
    let file = File::create(state_dir.join("serve.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::Taken(state_dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether what it looks at may come later than the cgroup.
const fn waits(selector: &config::Selector) -> bool {
    selector.looks_at_processes() || selector.container_label.is_some() || selector.is_of_pods()
}

async fn tick(beats: &mut Option<tokio::time::Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

/// Moments at which namespaces are looked at again.
#[derive(Debug, Default)]
struct Again(BTreeSet<tokio::time::Instant>);

impl Again {
    fn soon(&mut self) {
        let now = tokio::time::Instant::now();
        self.0.extend(AGAIN.map(|wait| now + wait));
    }

    /// Cancel-safe: a moment goes when it has come.
    async fn due(&mut self) {
        let Some(next) = self.0.first().copied() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next).await;
        // Those that passed meanwhile are this look's too.
        self.0.retain(|moment| *moment > tokio::time::Instant::now());
    }
}

struct Service {
    file: PathBuf,
    config: Config,
    digest: Digest,
    shared: Shared,
    pins: AgentPins,
    tree: CgroupTree,
    own_cgroup: Option<String>,
    // Of every cgroup that there is.
    cgroups: BTreeSet<String>,
    walked: bool,
    workloads: Vec<Workload>,
    notifier: Notifier,
    homeless: mpsc::Receiver<(WorkloadName, u32)>,
    homes: mpsc::Sender<(WorkloadName, u32)>,
    policies: Option<(Task<()>, Arc<Notify>)>,
    // Made a moment ago: what runtimes write about them may come later than they do.
    recent: BTreeMap<String, tokio::time::Instant>,
    pods: Pods,
    pod_changes: mpsc::Receiver<String>,
    pods_told: mpsc::Sender<String>,
    pods_watch: Option<Task<()>>,
    readers: Readers,
    ready: Readiness,
    control: Option<Task<()>>,
    kept: BTreeMap<String, Vec<std::net::TcpListener>>,
    forwarding: Vec<Task<()>>,
    _lock: File,
}

impl Service {
    async fn start(spec: ServeSpec) -> Result<Self, ServeError> {
        let ServeSpec { file, config, digest } = spec;
        if config.workloads.is_empty() {
            tracing::warn!("no [[workload]] is configured: nothing is governed");
        }
        let lock = lock(&config.state_dir)?;
        let notifier = Notifier::from_environment();
        let kept = notify::kept_listeners();
        let shared = shared(&config)?;
        let pins = AgentPins::of(&config.state_dir)?;
        let (homes, homeless) = mpsc::channel(HOMELESS);
        let (pods_told, pod_changes) = mpsc::channel(HOMELESS);
        let mut service = Self {
            file,
            digest,
            pins,
            tree: CgroupTree::mounted()?,
            own_cgroup: cgroup_of_self(),
            cgroups: BTreeSet::new(),
            walked: false,
            workloads: Vec::new(),
            notifier,
            homeless,
            homes,
            policies: None,
            recent: BTreeMap::new(),
            pods: Pods::default(),
            pod_changes,
            pods_told,
            pods_watch: None,
            readers: Readers::default(),
            ready: Readiness::default(),
            control: None,
            kept,
            forwarding: Vec::new(),
            _lock: lock,
            shared,
            config,
        };
        for workload in service.config.workloads.clone() {
            service.begin(workload).await?;
        }
        // Kept for a workload that is none any more.
        for name in std::mem::take(&mut service.kept).into_keys() {
            service.notifier.forget(&name);
        }
        let hooks = service.workloads.first().map(|w| w.hooks().to_vec());
        let started = Event::AgentStarted {
            version: env!("CARGO_PKG_VERSION").into(),
            config: service.digest,
            bundle: service.shared.policies.current().bundle(),
            hooks: hooks.unwrap_or_default(),
        };
        let _receipt = service.shared.audit.record(started).await?;
        service.watch_policies();
        service.watch_pods();
        service.count();
        service.control = service.control();
        Ok(service)
    }

    async fn begin(&mut self, config: config::WorkloadConfig) -> Result<(), ServeError> {
        let (homeless, mut told) = mpsc::channel(HOMELESS);
        let (name, homes) = (config.name.clone(), self.homes.clone());
        self.forwarding.push(spawn("homeless", async move {
            while let Some(pid) = told.recv().await {
                if homes.send((name.clone(), pid)).await.is_err() {
                    return;
                }
            }
        }));
        self.forwarding.retain(|task| !task.is_finished());
        let workload = Workload::start(
            config,
            &self.config,
            &self.shared,
            &self.pins,
            &mut self.kept,
            &self.notifier,
            homeless,
        );
        self.workloads.push(workload.await?);
        Ok(())
    }

    async fn tree_event(&mut self, event: TreeEvent, again: &mut Again) {
        match event {
            TreeEvent::Appeared(path) => {
                self.cgroups.insert(path.clone());
                if self.consider(&path).await {
                    again.soon();
                } else if self.walked && self.config.workloads.iter().any(|w| waits(&w.selector)) {
                    self.recent.insert(path, tokio::time::Instant::now());
                    again.soon();
                }
            }
            TreeEvent::Changed(path) => {
                if self.consider(&path).await || self.governor(&path).is_some() {
                    self.look_at_namespaces();
                    again.soon();
                } else if self.config.workloads.iter().any(|w| waits(&w.selector)) {
                    // What starts a process changes its user and its file a moment later.
                    self.recent.insert(path, tokio::time::Instant::now());
                    again.soon();
                }
            }
            TreeEvent::Vanished(path) => {
                self.cgroups.retain(|known| !is_within(known, &path));
                for workload in &mut self.workloads {
                    let gone: Vec<String> = workload
                        .cgroups()
                        .filter(|g| is_within(g, &path))
                        .map(str::to_owned)
                        .collect();
                    for path in gone {
                        workload.release(&path, "the cgroup was removed").await;
                    }
                }
            }
            TreeEvent::Walked if self.walked => {}
            TreeEvent::Walked => {
                self.walked = true;
                for workload in &mut self.workloads {
                    workload.settle();
                }
                let configured: BTreeSet<_> = self.config.workloads.iter().map(|w| w.name.clone()).collect();
                for name in self.pins.workloads() {
                    if !configured.contains(&name) {
                        tracing::warn!(workload = %name, "it is not configured any more, and ungoverned from now on");
                        self.pins.release(&name);
                    }
                }
                self.say_ready();
            }
        }
    }

    fn say_ready(&self) {
        self.ready.set(true);
        let governed: usize = self.workloads.iter().map(|w| w.cgroups().count()).sum();
        tracing::info!(workloads = self.workloads.len(), governed, "serving");
        self.notifier.tell(&format!(
            "READY=1\nSTATUS={} workloads, {governed} cgroups governed",
            self.workloads.len()
        ));
    }

    /// Which workload governs a cgroup already.
    fn governor(&self, path: &str) -> Option<usize> {
        let of = |workload: &Workload| workload.cgroups().any(|governed| is_within(path, governed));
        self.workloads.iter().position(of)
    }

    /// Governs a cgroup where it is a workload; whether it was.
    async fn consider(&mut self, path: &str) -> bool {
        if self.governor(path).is_some() {
            return false;
        }
        let known = self.known(path);
        let found = workload_of(path, &known, self.workloads.iter().map(|w| &w.config));
        let Some(name) = found.map(|w| w.name.clone()) else {
            return false;
        };
        if self.own_cgroup.as_deref().is_some_and(|own| is_within(own, path)) {
            tracing::error!(workload = %name, cgroup = path, "the agent itself is in it: it is not governed. Put the agent into a cgroup of its own (a systemd service is one)");
            return false;
        }
        let others = self.workloads.iter().filter(|w| w.config.name != name);
        let below = others
            .flat_map(Workload::cgroups)
            .find(|governed| is_within(governed, path));
        if let Some(other) = below {
            tracing::error!(workload = %name, cgroup = path, other, "a cgroup below it is another workload: it is not governed. Select cgroups that do not lie in each other");
            return false;
        }
        let directory = self.tree.directory(path);
        let Some(workload) = self.workloads.iter_mut().find(|w| w.config.name == name) else {
            return false;
        };
        if let Err(error) = workload.govern(path, &directory, &self.notifier).await {
            if directory.exists() {
                tracing::error!(workload = %name, cgroup = path, %error, "not governed");
            }
            return false;
        }
        workload.begin_pod(path, known.pod.as_ref(), &directory);
        let inner: Vec<String> = workload
            .cgroups()
            .filter(|governed| *governed != path && is_within(governed, path))
            .map(str::to_owned)
            .collect();
        for inner in inner {
            workload
                .release(&inner, "a cgroup that it lies in is governed")
                .await;
        }
        true
    }

    fn known(&self, path: &str) -> Known {
        let selectors = || self.workloads.iter().map(|w| &w.config.selector);
        let mut known = Known::default();
        if selectors().any(|selector| selector.container_label.is_some()) {
            known.container = containers::labels(path);
        }
        if selectors().any(config::Selector::is_of_pods) {
            known.pod = containers::pod_of(path).and_then(|uid| self.pods.get(&uid));
        }
        if selectors().any(config::Selector::looks_at_processes) {
            known.processes = processes(&self.tree.directory(path));
        }
        known
    }

    fn home(&mut self, name: &WorkloadName, pid: u32) {
        let workload = self.workloads.iter_mut().find(|w| w.config.name == *name);
        if let Some(workload) = workload {
            workload.home(pid, &self.notifier);
        }
    }

    fn look_at_namespaces(&mut self) {
        if !self.walked {
            // What was kept for namespaces whose cgroups are still to be said would be given up.
            return;
        }
        for workload in &mut self.workloads {
            workload.look_at_namespaces(|path| self.tree.directory(path), &self.notifier);
        }
    }

    /// A moment after something came.
    async fn look_again(&mut self) {
        let now = tokio::time::Instant::now();
        for path in self.recent.keys().cloned().collect::<Vec<_>>() {
            self.consider(&path).await;
        }
        self.recent.retain(|_, since| now < *since + RECENT);
        self.look_at_namespaces();
    }

    /// What is known of a pod has changed. One that is governed stays so until its cgroup goes: its processes may outlive it in
    /// the API.
    async fn pod(&mut self, uid: &str, again: &mut Again) {
        let is_it = |path: &&String| containers::pod_of(path).as_deref() == Some(uid);
        let paths: Vec<String> = self.cgroups.iter().filter(is_it).cloned().collect();
        for path in paths {
            if self.consider(&path).await {
                again.soon();
            }
        }
    }

    fn watch_pods(&mut self) {
        self.pods_watch = None;
        let wanted = self.config.workloads.iter().any(|w| w.selector.is_of_pods());
        let Some(kubernetes) = self.config.kubernetes.clone().filter(|_| wanted) else {
            return;
        };
        match pods::Watch::new(kubernetes, self.pods.clone(), self.pods_told.clone()) {
            Ok(watch) => self.pods_watch = Some(spawn("pods", watch.run())),
            Err(error) => tracing::error!(error, "pods are not recognised"),
        }
    }

    /// What is counted, and for whom.
    fn count(&self) {
        let readers = self.workloads.iter();
        let readers = readers.map(|w| (w.config.name.to_string(), w.counter_reader()));
        self.readers.replace(readers.collect());
    }

    /// What nobody tells of: processes that changed, namespaces that were left, old connections that ended.
    async fn look(&mut self) {
        if self.workloads.iter().any(|w| waits(&w.config.selector)) {
            for path in self.cgroups.clone() {
                self.consider(&path).await;
            }
        }
        self.look_at_namespaces();
        for workload in &mut self.workloads {
            workload.look_at_drains(|path| self.tree.directory(path));
        }
    }

    fn watch_policies(&mut self) {
        self.policies = self.config.policies.clone().map(|dir| {
            let asked = Arc::new(Notify::new());
            let reloading = Reloading {
                dir,
                classes: self.shared.masks.classes().clone(),
                policies: Arc::clone(&self.shared.policies),
                audit: self.shared.audit.clone(),
            };
            (spawn("policies", reloading.watch(Arc::clone(&asked))), asked)
        });
    }

    async fn stop(self) {
        self.notifier.tell("STOPPING=1");
        let hand_over = self.notifier.keeps();
        let ends = self.workloads.into_iter().map(|workload| workload.end(hand_over));
        futures_util::future::join_all(ends).await;
        let stopped = Event::AgentStopped {
            reason: "it was asked to; the hooks stay".into(),
        };
        if let Err(error) = self.shared.audit.record(stopped).await.map(|_receipt| ()) {
            tracing::error!(%error, "the end could not be recorded");
        }
        self.shared.audit.close().await;
    }
}
