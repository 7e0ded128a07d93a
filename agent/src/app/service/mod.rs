//! `interdict serve`: the guard of workloads that it did not start. What parses and judges is in the proxy (`proxy`), another
//! process of this program.

mod accept;
mod change;
mod containers;
mod error;
mod notify;
mod outside;
mod pod_token;
mod pods;
mod proxy;
mod select;
mod served;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc;

use crate::config::{self, Config};
use crate::guard::{
    self, AgentPins, CgroupTree, Expected, GuardError, ServiceHeard, ServiceProxy, TreeEvent, cgroup_of_self,
    processes,
};
use crate::model::WorkloadName;
use crate::task::{Task, spawn};

use super::agent_user::{AgentUser, agent_user};
use super::descriptors;
pub use error::ServeError;
use error::unlike;
use notify::Notifier;
use outside::{Doors, Signals, Wish};
use pods::Pods;
pub use proxy::serve_proxy;
use select::{Known, is_within, workload_of};
use workload::{Around, Workload};

/// The subcommand of the proxy.
pub const PROXY: &str = "__proxy-serve";
/// How long the end waits for sessions to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the proxy may take for anything else: it asks servers of names and issuers, each for seconds.
const PATIENCE: Duration = Duration::from_secs(50);
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
/// What to serve.
#[derive(Debug)]
pub struct ServeSpec {
    /// The file that the configuration came from, and is read again from.
    pub file: PathBuf,
    /// What it says.
    pub text: String,
    /// The same, understood.
    pub config: Config,
}

/// A proxy that was started, and what goes before it.
#[derive(Debug)]
pub struct Started {
    proxy: ServiceProxy,
    user: AgentUser,
    notifier: Notifier,
    kept: BTreeMap<String, Vec<std::net::TcpListener>>,
    lock: File,
}

/// Where the proxy comes from.
#[derive(Debug)]
pub enum ProxyFrom {
    /// This process starts it: this program with these arguments.
    Here(Vec<OsString>),
    /// It comes to a socket.
    Unit {
        /// Where.
        link: PathBuf,
        /// What its cgroup is called.
        unit: String,
    },
}

/// Starts the proxy of the service, or waits for it. From the main thread, before any other.
///
/// # Errors
/// Where this process may not govern, another agent does with the same directory, or no process can be started.
pub fn start_proxy(spec: &ServeSpec, from: &ProxyFrom) -> Result<Started, ServeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot.into());
    }
    let (state, audit) = (&spec.config.state_dir, &spec.config.audit.dir);
    let lock = lock(state)?;
    let user = agent_user(spec.config.agent_user.as_deref(), state, None)?;
    let there = audit.exists();
    if guard::give(state, audit, user.uid, user.gid)? && there {
        tracing::warn!(
            "{} and the records in it now belong to {}, the agent's own user: the agent's proxy has no privileges. Root reads them as before",
            state.display(),
            user.name
        );
    }
    let notifier = Notifier::from_environment();
    // Before the proxy is started, which would inherit them.
    let kept = notify::kept_listeners();
    // The proxy inherits it; workloads have their own.
    let _before = descriptors::raise();
    let proxy = match from {
        ProxyFrom::Here(arguments) => ServiceProxy::start(arguments),
        ProxyFrom::Unit { link, unit } => {
            let uid = user.uid;
            ServiceProxy::admit(link, Expected { uid, unit })
        }
    };
    let proxy = proxy.map_err(|source| ServeError::System {
        what: "there is no proxy",
        source,
    })?;
    Ok(Started {
        proxy,
        user,
        notifier,
        kept,
        lock,
    })
}

/// Serves until it is asked to stop (SIGTERM, SIGINT). The hooks stay: a workload is not free because its agent is away.
///
/// # Errors
/// Where it cannot begin, or the proxy does not last: then nothing is connected any more.
pub async fn serve(spec: ServeSpec, started: Started) -> Result<(), ServeError> {
    let mut service = Service::start(spec, started).await?;
    let result = service.run().await;
    match result {
        Ok(()) => service.stop().await,
        Err(error) => {
            // At once, and not when the heartbeat is missed.
            for workload in &mut service.workloads {
                workload.close();
            }
            Err(error)
        }
    }
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

/// One serving agent for a state directory. The directory itself is locked: a file in it would be the proxy's.
fn lock(state_dir: &Path) -> Result<File, ServeError> {
    let failed = |source| ServeError::System {
        what: "the state directory cannot be used",
        source,
    };
    std::fs::create_dir_all(state_dir).map_err(failed)?;
    let directory = File::open(state_dir).map_err(failed)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Taken(state_dir.to_owned())),
        Err(error) => Err(failed(error.into())),
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
    changes: u32,
    pins: AgentPins,
    tree: CgroupTree,
    own_cgroup: Option<String>,
    // Of every cgroup that there is.
    cgroups: BTreeSet<String>,
    walked: bool,
    stopping: bool,
    workloads: Vec<Workload>,
    numbers: u32,
    around: Around,
    beats: Option<tokio::time::Interval>,
    homeless: mpsc::Receiver<(WorkloadName, u32)>,
    homes: mpsc::Sender<(WorkloadName, u32)>,
    // Made a moment ago: what runtimes write about them may come later than they do.
    recent: BTreeMap<String, tokio::time::Instant>,
    pods: Pods,
    pod_changes: mpsc::Receiver<String>,
    pods_told: mpsc::Sender<String>,
    pods_watch: Option<Task<()>>,
    kept: BTreeMap<String, Vec<std::net::TcpListener>>,
    forwarding: Vec<Task<()>>,
    _doors: Doors,
    _lock: File,
}

impl Service {
    async fn start(spec: ServeSpec, started: Started) -> Result<Self, ServeError> {
        let ServeSpec { file, text, config } = spec;
        let Started {
            proxy,
            user,
            notifier,
            kept,
            lock,
        } = started;
        if config.workloads.is_empty() {
            tracing::warn!("no [[workload]] is configured: nothing is governed");
        }
        let pins = AgentPins::of(&config.state_dir)?;
        let doors = Doors::hand_over(&proxy, (&file, &text, &config), &user).await?;
        let (homes, homeless) = mpsc::channel(HOMELESS);
        let (pods_told, pod_changes) = mpsc::channel(HOMELESS);
        let mut service = Self {
            file,
            pins,
            changes: 0,
            tree: CgroupTree::mounted()?,
            own_cgroup: cgroup_of_self(),
            cgroups: BTreeSet::new(),
            walked: false,
            stopping: false,
            workloads: Vec::new(),
            numbers: 0,
            beats: notifier.beat().map(tokio::time::interval),
            around: Around { proxy, notifier },
            homeless,
            homes,
            recent: BTreeMap::new(),
            pods: Pods::default(),
            pod_changes,
            pods_told,
            pods_watch: None,
            kept,
            forwarding: Vec::new(),
            _doors: doors,
            _lock: lock,
            config,
        };
        let heard = service.hear(PATIENCE).await?;
        if !matches!(heard, ServiceHeard::Accepted(0)) {
            return Err(unlike(heard));
        }
        let mut opened = Vec::new();
        for workload in service.config.workloads.clone() {
            opened.push(service.open(workload)?);
        }
        let hooks = opened.first().map(|w| w.hooks().to_vec());
        service.around.proxy.started(hooks.unwrap_or_default()).await;
        for workload in opened {
            service.begin(workload).await?;
        }
        // Kept for a workload that is none any more.
        for name in std::mem::take(&mut service.kept).into_keys() {
            service.around.notifier.forget(&name);
        }
        service.watch_pods();
        Ok(service)
    }

    /// What the proxy says next that is not the end of everything; the watchdog is told meanwhile.
    async fn hear(&mut self, patience: Duration) -> Result<ServiceHeard, ServeError> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let heard = tokio::select! {
                heard = self.around.proxy.hear() => heard,
                () = tick(&mut self.beats) => {
                    self.beat();
                    continue;
                }
                () = tokio::time::sleep_until(until) => {
                    return Err(ServeError::Proxy("the proxy does not answer".into()));
                }
            };
            return match heard {
                ServiceHeard::Failed(why) => Err(ServeError::Proxy(why)),
                ServiceHeard::Gone(why) => Err(ServeError::Proxy(format!("the proxy has ended: {why}"))),
                ServiceHeard::Stopping => {
                    self.stopping = true;
                    continue;
                }
                ServiceHeard::Accepted(_)
                | ServiceHeard::Refused(..)
                | ServiceHeard::Serving(_)
                | ServiceHeard::Broken(..)
                | ServiceHeard::Ended(_)
                | ServiceHeard::Done => Ok(heard),
            };
        }
    }

    /// Both halves are alive.
    fn beat(&self) {
        if self.around.proxy.is_alive() {
            self.around.notifier.tell("WATCHDOG=1");
        }
    }

    async fn run(&mut self) -> Result<(), ServeError> {
        let mut signals = Signals::listen().map_err(|source| ServeError::System {
            what: "no signals",
            source,
        })?;
        let mut tree = self.tree.watch()?;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = Again::default();
        while !self.stopping {
            tokio::select! {
                event = tree.recv() => match event {
                    Some(event) => self.tree_event(event, &mut again).await,
                    None => {
                        // Without it nothing new would be governed: the service manager starts another.
                        return Err(ServeError::System { what: "cgroups are not watched any more", source: std::io::ErrorKind::BrokenPipe.into() });
                    }
                },
                Some((workload, pid)) = self.homeless.recv() => self.home(&workload, pid).await,
                Some(uid) = self.pod_changes.recv() => self.pod(&uid, &mut again).await,
                () = again.due() => self.look_again().await,
                _ = looks.tick() => self.look().await,
                () = tick(&mut self.beats) => self.beat(),
                heard = self.around.proxy.hear() => match heard {
                    ServiceHeard::Stopping => return Ok(()),
                    ServiceHeard::Failed(why) => return Err(ServeError::Abandoned(why)),
                    ServiceHeard::Gone(why) => return Err(ServeError::Abandoned(why.to_string())),
                    other @ (ServiceHeard::Accepted(_) | ServiceHeard::Refused(..) | ServiceHeard::Serving(_) | ServiceHeard::Broken(..) | ServiceHeard::Ended(_) | ServiceHeard::Done) => {
                        return Err(unlike(other));
                    }
                },
                signal = signals.next() => match signal {
                    Wish::Reload => self.reload().await?,
                    Wish::Stop => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// Loads the hooks of a workload.
    fn open(&mut self, config: config::WorkloadConfig) -> Result<Workload, GuardError> {
        let number = self.numbers;
        self.numbers += 1;
        Workload::open(config, number, &self.config, &self.pins)
    }

    /// Governs from now on what the workload selects, once the proxy serves it.
    async fn begin(&mut self, mut workload: Workload) -> Result<(), ServeError> {
        let (homeless, mut told) = mpsc::channel(HOMELESS);
        let (name, homes) = (workload.config.name.clone(), self.homes.clone());
        self.forwarding.push(spawn("homeless", async move {
            while let Some(pid) = told.recv().await {
                if homes.send((name.clone(), pid)).await.is_err() {
                    return;
                }
            }
        }));
        self.forwarding.retain(|task| !task.is_finished());
        workload.offer(&self.config, &self.around, homeless).await?;
        let heard = self.hear(PATIENCE).await?;
        if let ServiceHeard::Broken(number, why) = &heard
            && *number == workload.number
        {
            self.around.proxy.forget(*number);
            return Err(ServeError::Unserved(why.clone()));
        }
        if !matches!(heard, ServiceHeard::Serving(number) if number == workload.number) {
            return Err(unlike(heard));
        }
        workload.begin(&mut self.kept, &self.around).await;
        self.workloads.push(workload);
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
                    self.look_at_namespaces().await;
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
                        workload
                            .release(&path, "the cgroup was removed", &self.around)
                            .await;
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
                self.around.proxy.ready().await;
                self.say_ready();
            }
        }
    }

    fn say_ready(&self) {
        let governed: usize = self.workloads.iter().map(|w| w.cgroups().count()).sum();
        tracing::info!(workloads = self.workloads.len(), governed, "serving");
        self.around.notifier.tell(&format!(
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
        let own = [self.own_cgroup.as_deref(), self.around.proxy.cgroup()];
        if own.into_iter().flatten().any(|own| is_within(own, path)) {
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
        if let Err(error) = workload.govern(path, &directory, &self.around).await {
            if directory.exists() {
                tracing::error!(workload = %name, cgroup = path, %error, "not governed");
            }
            return false;
        }
        workload
            .begin_pod(path, known.pod.as_ref(), &directory, &self.around, &self.config)
            .await;
        let inner: Vec<String> = workload
            .cgroups()
            .filter(|governed| *governed != path && is_within(governed, path))
            .map(str::to_owned)
            .collect();
        for inner in inner {
            workload
                .release(&inner, "a cgroup that it lies in is governed", &self.around)
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

    async fn home(&mut self, name: &WorkloadName, pid: u32) {
        let workload = self.workloads.iter_mut().find(|w| w.config.name == *name);
        if let Some(workload) = workload {
            workload.home(pid, &self.around).await;
        }
    }

    async fn look_at_namespaces(&mut self) {
        if !self.walked {
            // What was kept for namespaces whose cgroups are still to be said would be given up.
            return;
        }
        for workload in &mut self.workloads {
            let directory = |path: &str| self.tree.directory(path);
            workload.look_at_namespaces(directory, &self.around).await;
        }
    }

    /// A moment after something came.
    async fn look_again(&mut self) {
        let now = tokio::time::Instant::now();
        for path in self.recent.keys().cloned().collect::<Vec<_>>() {
            self.consider(&path).await;
        }
        self.recent.retain(|_, since| now < *since + RECENT);
        self.look_at_namespaces().await;
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

    /// What nobody tells of: processes that changed, namespaces that were left, old connections that ended.
    async fn look(&mut self) {
        if self.workloads.iter().any(|w| waits(&w.config.selector)) {
            for path in self.cgroups.clone() {
                self.consider(&path).await;
            }
        }
        self.look_at_namespaces().await;
        for workload in &mut self.workloads {
            workload.look_at_drains(|path| self.tree.directory(path));
        }
    }

    /// Ends: sessions first. The hooks stay.
    async fn stop(mut self) -> Result<(), ServeError> {
        self.around.notifier.tell("STOPPING=1");
        let hand_over = self.around.notifier.keeps();
        self.around.proxy.stop(hand_over).await;
        let until = tokio::time::Instant::now() + DRAIN + DRAIN;
        let done = loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.hear(left).await {
                Ok(ServiceHeard::Done) => break Ok(()),
                Ok(_said_before) => {}
                Err(error) => break Err(error),
            }
        };
        for workload in self.workloads {
            workload.leave(hand_over && done.is_ok());
        }
        self.around.proxy.end(DRAIN).await;
        done
    }
}
