//! One workload, as the proxy serves it: on whose behalf, with which rooms, and the connections of its namespaces.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::audit::{AuditLog, Event};
use crate::config::{Config, DialFrom, WorkloadConfig, WorkloadIdentity};
use crate::connection::{Acceptor, DatagramListener, Targets};
use crate::guard::{CounterReader, Denials, GovernedPod, RuleTable, WorkloadTables};
use crate::identity::{Binding, TokenSource};
use crate::model::{ListenerAddr, NetnsCookie, RunId};
use crate::task::{Task, spawn};

use super::super::proxy::record_identity;
use super::super::rooms::{Shared, host_dns, workload_principal};
use super::super::serve::{Serving, names};
use super::super::{denials, rules};
use super::accept::{Current, Ending, accept};
use super::pod_token::PodTokens;
use super::{DRAIN, ServeError};

/// Connections of a namespace.
struct Accepting {
    tasks: Vec<Task<()>>,
    ending: watch::Sender<Ending>,
}

/// A served workload.
pub(super) struct Served {
    config: WorkloadConfig,
    run: RunId,
    audit: AuditLog,
    tables: WorkloadTables,
    binding: Arc<Binding>,
    current: Arc<ArcSwap<Current>>,
    namespaces: BTreeMap<NetnsCookie, Accepting>,
    // These have something to write down at the end.
    draining: Vec<Task<()>>,
    denials_end: watch::Sender<()>,
    identity: Vec<Task<()>>,
    /// Where each of its pods acts for itself.
    pods: Option<PodTokens>,
    follow: Vec<Task<()>>,
}

/// What a changed configuration makes of a workload, before it is in force.
pub(super) struct Changed {
    config: WorkloadConfig,
    serving: Serving,
    targets: Arc<Targets>,
    own: Config,
    /// Where somebody else stands behind it.
    bound: Option<Bound>,
}

impl Served {
    /// Serves it from now on; where its connections come in is said later.
    pub(super) async fn start(
        config: WorkloadConfig,
        whole: &Config,
        shared: &Shared,
        tables: WorkloadTables,
        told: Denials,
    ) -> Result<Self, ServeError> {
        let run = RunId::new();
        let audit = shared.audit.about(&config.name)?;
        let Bound {
            binding,
            tasks: identity,
            pods,
        } = bind(&config, shared, &audit, run).await;
        let (denials_end, ending) = watch::channel(());
        let recording = denials::record(told, audit.clone(), run, ending);
        let draining = vec![spawn("denials", recording)];
        let own = own(&config, whole);
        let (serving, targets) = serving(&own, shared, &audit, run, &binding).await?;
        let follow = follow(tables.rules(), &own, targets)?;
        Ok(Self {
            run,
            audit,
            tables,
            binding,
            current: Arc::new(ArcSwap::from_pointee(current(&config, serving))),
            namespaces: BTreeMap::new(),
            draining,
            denials_end,
            identity,
            pods,
            follow,
            config,
        })
    }

    pub(super) const fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    /// Reads the kernel's counters.
    pub(super) fn counters(&self) -> CounterReader {
        self.tables.counters.clone()
    }

    /// Serves the connections of a namespace.
    pub(super) fn listen(
        &mut self,
        netns: NetnsCookie,
        listeners: Vec<(TcpListener, ListenerAddr)>,
        for_names: Vec<(UdpSocket, ListenerAddr)>,
    ) {
        let (ending, _) = watch::channel(Ending::No);
        let mut tasks = Vec::new();
        for (socket, address) in for_names {
            match tokio::net::UdpSocket::from_std(socket) {
                Ok(socket) => {
                    let flows = Arc::clone(&self.tables.datagrams);
                    let listener = DatagramListener::new(socket, address, netns, flows);
                    let current = Arc::clone(&self.current);
                    let serving = move || Arc::clone(&current.load().serving);
                    tasks.push(spawn("names", names(serving, listener, ending.subscribe())));
                }
                Err(error) => tracing::error!(%error, "a socket for names cannot be used"),
            }
        }
        for (listener, address) in listeners {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let flows = Arc::clone(&self.tables.flows);
                    let acceptor = Acceptor::new(listener, address, netns, flows);
                    let current = Arc::clone(&self.current);
                    tasks.push(spawn(
                        "accept",
                        accept(current, acceptor, netns, ending.subscribe()),
                    ));
                }
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        let accepting = Accepting { tasks, ending };
        if let Some(before) = self.namespaces.insert(netns, accepting) {
            self.leave(before);
        }
    }

    /// Its processes have left a namespace: what waits there is served, and then nobody listens.
    pub(super) fn unlisten(&mut self, netns: NetnsCookie) {
        if let Some(accepting) = self.namespaces.remove(&netns) {
            self.leave(accepting);
        }
        self.draining.retain(|task| !task.is_finished());
    }

    fn leave(&mut self, accepting: Accepting) {
        accepting.ending.send_replace(Ending::Empty);
        self.draining.extend(accepting.tasks);
    }

    /// A cgroup of it is governed.
    pub(super) async fn governed(&self, cgroup: String, processes: usize, closed: usize) {
        let run = self.run;
        self.post(Event::WorkloadGoverned {
            run,
            cgroup,
            processes,
            closed,
        })
        .await;
    }

    /// It is not any more.
    pub(super) async fn released(&self, cgroup: String, reason: String) {
        let run = self.run;
        self.post(Event::WorkloadReleased { run, cgroup, reason }).await;
    }

    /// A pod of it is governed.
    pub(super) fn begin_pod(&mut self, pod: GovernedPod) {
        if let Some(pods) = &mut self.pods {
            pods.begin(pod);
        }
    }

    /// It is governed no longer.
    pub(super) fn end_pod(&mut self, uid: &str) {
        if let Some(pods) = &mut self.pods {
            pods.end(uid);
        }
    }

    /// What a changed configuration makes of it; nothing is changed yet.
    pub(super) async fn prepare(
        &self,
        config: WorkloadConfig,
        whole: &Config,
        shared: &Shared,
    ) -> Result<Changed, ServeError> {
        let bound = if config.identity == self.config.identity {
            None
        } else {
            Some(bind(&config, shared, &self.audit, self.run).await)
        };
        let binding = bound.as_ref().map_or(&self.binding, |bound| &bound.binding);
        let own = own(&config, whole);
        let (serving, targets) = serving(&own, shared, &self.audit, self.run, binding).await?;
        Ok(Changed {
            config,
            serving,
            targets,
            own,
            bound,
        })
    }

    /// Serves new connections as the changed configuration says. Sessions go on as they began.
    pub(super) fn change(&mut self, changed: Changed) {
        let Changed {
            config,
            serving,
            targets,
            own,
            bound,
        } = changed;
        if let Some(bound) = bound {
            (self.binding, self.identity, self.pods) = (bound.binding, bound.tasks, bound.pods);
        }
        // Two must not change the kernel's rules at once.
        self.follow.clear();
        match follow(self.tables.rules(), &own, targets) {
            Ok(follow) => self.follow = follow,
            Err(error) => {
                tracing::error!(workload = %config.name, %error, "the kernel's rules stay as they were");
            }
        }
        self.current.store(Arc::new(current(&config, serving)));
        self.config = config;
    }

    /// Ends: sessions first. With `hand_over`, what waits to be accepted is the next agent's.
    pub(super) async fn end(self, hand_over: bool) {
        let ending = if hand_over {
            Ending::HandOver
        } else {
            Ending::Empty
        };
        let mut waiting = self.draining;
        for accepting in self.namespaces.into_values() {
            accepting.ending.send_replace(ending);
            waiting.extend(accepting.tasks);
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
async fn bind(config: &WorkloadConfig, shared: &Shared, audit: &AuditLog, run: RunId) -> Bound {
    let bound = |binding, pods| Bound {
        binding: Arc::new(binding),
        tasks: Vec::new(),
        pods,
    };
    let file = match &config.identity {
        WorkloadIdentity::Named(name) => return bound(Binding::fixed(workload_principal(name)), None),
        WorkloadIdentity::TokenFile(file) => file,
        WorkloadIdentity::PodToken(volume) => {
            let (pods, binding) = PodTokens::new(
                volume.clone(),
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

/// The configuration as it holds for the workload.
fn own(config: &WorkloadConfig, whole: &Config) -> Config {
    let mut own = whole.clone();
    own.mode = config.mode.unwrap_or(own.mode);
    for target in &mut own.targets {
        target.recording = config
            .recording
            .map_or(target.recording, |least| target.recording.max(least));
    }
    own
}

/// What new connections are served with.
async fn serving(
    own: &Config,
    shared: &Shared,
    audit: &AuditLog,
    run: RunId,
    binding: &Arc<Binding>,
) -> Result<(Serving, Arc<Targets>), ServeError> {
    let rooms = Arc::new(shared.rooms(run, own, audit.clone(), Arc::clone(binding)));
    let targets = Targets::resolve(&own.targets, host_dns()).await;
    let serving = Serving::new(own, rooms, Arc::clone(&targets), &shared.authority)?;
    Ok((serving, targets))
}

fn current(config: &WorkloadConfig, serving: Serving) -> Current {
    Current {
        serving: Arc::new(serving),
        from_inside: config.dial_from == DialFrom::Workload,
    }
}

/// Tells the kernel's rules, and keeps them true.
fn follow(mut table: RuleTable, own: &Config, targets: Arc<Targets>) -> Result<Vec<Task<()>>, ServeError> {
    rules::load(&mut table, &own.networks, &targets)?;
    Ok(vec![
        spawn("targets", Arc::clone(&targets).keep_fresh()),
        spawn("rules", rules::follow(table, own.networks.clone(), targets)),
    ])
}
