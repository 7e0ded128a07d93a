//! The proxy of the service: everything that reads what others wrote, judges and records it. What needs authority it has been
//! given by its guard (`Service`), or asks it for.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::audit::Event;
use crate::config::{self, Config, ConfigErrors};
use crate::connection::dial_through;
use crate::control::wire::Status;
use crate::control::{ControlRooms, MetricSource, Server};
use crate::guard::{Beginning, Denials, GuardError, ServiceLink, ServiceOrder};
use crate::identity::Issuers;
use crate::model::Digest;
use crate::task::{Task, Tasks, spawn};

use super::super::health::{self, Readiness};
use super::super::metrics::{Meters, Readers};
use super::super::reload::Reloading;
use super::super::rooms::{Shared, engine, masks, shared};
use super::super::traces::Traces;
use super::ServeError;
use super::change::acceptable;
use super::notify::Notifier;
use super::served::Served;

/// What stands in the place of a run's id in figures.
const RUN: &str = "serve";
/// What of the mistakes is recorded, in characters.
const MAX_RECORDED: usize = 2000;

/// Serves what the guard hands over, until it says that it is enough. `config` is what `beginning` says; `domain` is whether the
/// Landlock domain is whole.
///
/// # Errors
/// Where it cannot serve or record; the guard is told by the caller.
pub async fn serve_proxy(
    beginning: Beginning,
    config: Config,
    link: ServiceLink,
    domain: bool,
) -> Result<(), ServeError> {
    dial_through(link.dialler());
    // From the beginning: the hooks deny while it is not known to live.
    let _alive = spawn("alive", link.clone().keep_alive());
    let asked = spawn("signals", stopping(link.clone()));
    // Where it is a unit of its own.
    let notifier = Arc::new(Notifier::from_environment());
    let _watched = spawn("watchdog", watchdog(Arc::clone(&notifier)));
    let mut orders = link.orders().map_err(|source| ServeError::System {
        what: "the guard cannot be heard",
        source,
    })?;
    let mut proxy = Proxy::new(beginning, config, (link, notifier), domain)?;
    proxy.link.accepted(0);
    let hand_over = loop {
        let Some(order) = orders.recv().await else {
            return Err(GuardError::Link(crate::guard::LinkError::Ended).into());
        };
        if let Some(hand_over) = proxy.obey(order).await? {
            break hand_over;
        }
    };
    drop(asked);
    let traces = proxy.traces.take();
    proxy.stop(hand_over).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(())
}

/// Tells a service manager that this process is alive.
async fn watchdog(notifier: Arc<Notifier>) {
    let Some(beat) = notifier.beat() else { return };
    let mut beats = tokio::time::interval(beat);
    loop {
        beats.tick().await;
        notifier.tell("WATCHDOG=1");
    }
}

/// Signals are for the guard, which ends both in order: a terminal sends its own to both.
async fn stopping(link: ServiceLink) {
    let listen = || {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        std::io::Result::Ok((terminate?, interrupt?, hangup?))
    };
    let (mut terminate, mut interrupt, mut hangup) = match listen() {
        Ok(signals) => signals,
        Err(error) => return tracing::error!(%error, "no signals"),
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => link.stopping(),
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

struct Proxy {
    link: ServiceLink,
    notifier: Arc<Notifier>,
    file: PathBuf,
    guard: u32,
    config: Config,
    digest: Digest,
    shared: Shared,
    workloads: BTreeMap<u32, Served>,
    /// Those that nobody configures any more, until their last session has ended.
    leaving: Tasks<()>,
    hooks: Vec<String>,
    readers: Readers,
    ready: Readiness,
    figures: MetricSource,
    policies: Option<(Task<()>, Arc<Notify>)>,
    control: Option<UnixListener>,
    answering: Option<Task<()>>,
    traces: Option<Traces>,
    _tasks: Vec<Task<()>>,
}

impl Proxy {
    fn new(
        beginning: Beginning,
        config: Config,
        (link, notifier): (ServiceLink, Arc<Notifier>),
        domain: bool,
    ) -> Result<Self, ServeError> {
        let Beginning {
            guard,
            user: _,
            file,
            text,
            control,
            health,
        } = beginning;
        let shared = shared(&config)?;
        let readers = Readers::default();
        let meters = Meters {
            run: RUN.into(),
            audit: shared.audit.clone(),
            streamed: config.audit.clickhouse.as_ref().map(|_| config.audit.dir.clone()),
            kernel: readers.clone(),
            domain: Some(domain),
        };
        let figures = MetricSource::new(move || meters.read());
        let ready = Readiness::default();
        let mut tasks = Vec::new();
        tasks.extend(health.and_then(|door| health::serve(door.into(), figures.clone(), ready.clone())));
        if let Some(sink) = config.audit.clickhouse.clone() {
            let shipping = crate::audit::ship(config.audit.dir.clone(), sink);
            tasks.push(spawn("clickhouse", shipping));
        }
        let traces = Traces::start(config.telemetry.traces.as_ref(), &shared.audit);
        Ok(Self {
            link,
            notifier,
            file,
            guard,
            digest: Digest::of(text.as_bytes()),
            shared,
            workloads: BTreeMap::new(),
            leaving: Tasks::default(),
            hooks: Vec::new(),
            readers,
            ready,
            figures,
            policies: None,
            control,
            answering: None,
            traces,
            _tasks: tasks,
            config,
        })
    }

    /// Does what the guard says; the end is whether what waits is left to the next agent.
    async fn obey(&mut self, order: ServiceOrder) -> Result<Option<bool>, ServeError> {
        match order {
            ServiceOrder::Started(hooks) => self.started(hooks).await?,
            ServiceOrder::Workload {
                number,
                name,
                attached: _,
                denials,
            } => self.workload(number, &name, denials).await,
            ServiceOrder::Change(change, text) => match self.take_over(&text).await {
                Ok(()) => self.link.accepted(change),
                Err(reason) => {
                    self.keep(&reason).await;
                    self.link.refused(change, &reason);
                }
            },
            ServiceOrder::Wrong(reason) => self.keep(&reason).await,
            ServiceOrder::Listen {
                number,
                netns,
                listeners,
                names,
            } => {
                if let Some(served) = self.workloads.get_mut(&number) {
                    served.listen(netns, listeners, names);
                }
            }
            ServiceOrder::Unlisten(number, netns) => {
                if let Some(served) = self.workloads.get_mut(&number) {
                    served.unlisten(netns);
                }
            }
            ServiceOrder::Governed(number, cgroup, processes, closed) => {
                if let Some(served) = self.workloads.get(&number) {
                    served.governed(cgroup, processes, closed).await;
                }
            }
            ServiceOrder::Released(number, cgroup, reason) => {
                if let Some(served) = self.workloads.get(&number) {
                    served.released(cgroup, reason).await;
                }
            }
            ServiceOrder::Pod(number, pod) => {
                if let Some(served) = self.workloads.get_mut(&number) {
                    served.begin_pod(pod);
                }
            }
            ServiceOrder::PodGone(number, uid) => {
                if let Some(served) = self.workloads.get_mut(&number) {
                    served.end_pod(&uid);
                }
            }
            ServiceOrder::Dismissed(number) => self.dismiss(number),
            ServiceOrder::Ready => {
                self.ready.set(true);
                self.notifier.tell("READY=1");
            }
            ServiceOrder::Stop(hand_over) => return Ok(Some(hand_over)),
        }
        Ok(None)
    }

    async fn started(&mut self, hooks: Vec<String>) -> Result<(), ServeError> {
        let started = Event::AgentStarted {
            version: env!("CARGO_PKG_VERSION").into(),
            config: self.digest,
            bundle: self.shared.policies.current().bundle(),
            hooks: hooks.clone(),
        };
        let _receipt = self.shared.audit.record(started).await?;
        self.hooks = hooks;
        self.watch_policies();
        self.answer();
        Ok(())
    }

    async fn workload(&mut self, number: u32, name: &str, denials: Denials) {
        let config = self.config.workloads.iter().find(|w| w.name.as_str() == name);
        let Some(config) = config.cloned() else {
            return self.link.broken(number, "it is not configured");
        };
        let tables = self.link.tables(number);
        match Served::start(config, &self.config, &self.shared, tables, denials).await {
            Ok(served) => {
                self.workloads.insert(number, served);
                self.count();
                self.link.serving(number);
            }
            Err(error) => self.link.broken(number, &error.to_string()),
        }
    }

    fn dismiss(&mut self, number: u32) {
        self.leaving.forget_ended();
        let Some(served) = self.workloads.remove(&number) else {
            return self.link.ended(number);
        };
        self.count();
        let link = self.link.clone();
        self.leaving.spawn("dismissed", async move {
            served.end(false).await;
            link.ended(number);
        });
    }

    /// A changed configuration is not used.
    async fn keep(&self, reason: &str) {
        let event = Event::ReloadRefused {
            what: "configuration".into(),
            kept: self.digest,
            reason: reason.chars().take(MAX_RECORDED).collect(),
        };
        if let Err(error) = self.shared.audit.record(event).await {
            tracing::error!(%error, "a wrong configuration could not be recorded");
        }
    }

    /// All of it is made before it is recorded, and recorded before it is in force.
    async fn take_over(&mut self, text: &str) -> Result<(), String> {
        let said = |error: &dyn std::error::Error| error.to_string();
        let config = config::parse(text, &self.file).map_err(|e: ConfigErrors| e.to_string())?;
        acceptable(&config, &self.config, !self.workloads.is_empty())?;
        let digest = Digest::of(text.as_bytes());
        let issuers_changed = config.issuers != self.config.issuers;
        let masks = masks(&config).map_err(|e| said(&e))?;
        let engine = engine(&config, &masks).map_err(|e| said(&e))?;
        let shared = Shared {
            masks: Arc::new(masks),
            issuers: Issuers::new(&config.issuers),
            ..self.shared.clone()
        };
        let mut changes = Vec::new();
        for (number, served) in &self.workloads {
            let name = &served.config().name;
            let Some(own) = config.workloads.iter().find(|w| w.name == *name) else {
                continue;
            };
            let prepared = served.prepare(own.clone(), &config, &shared).await;
            changes.push((*number, prepared.map_err(|e| format!("workload {name}: {e}"))?));
        }
        let event = Event::Reloaded {
            what: "configuration".into(),
            from: self.digest,
            to: digest,
        };
        let recorded = self.shared.audit.record(event).await;
        let _receipt = recorded.map_err(|e| format!("it could not be recorded: {e}"))?;
        self.shared = shared;
        self.shared.policies.replace(engine);
        (self.config, self.digest) = (config, digest);
        for (number, changed) in changes {
            if let Some(served) = self.workloads.get_mut(&number) {
                served.change(changed);
            }
        }
        self.watch_policies();
        if issuers_changed {
            self.answer();
        }
        tracing::warn!(digest = %self.digest, "the changed configuration is in force");
        Ok(())
    }

    /// What is counted, and for whom.
    fn count(&self) {
        let readers = self.workloads.values();
        let readers = readers.map(|w| (w.config().name.to_string(), w.counters()));
        self.readers.replace(readers.collect());
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

    /// Answers at the control socket, with the issuers of the moment.
    fn answer(&mut self) {
        let Some(Ok(listener)) = self.control.as_ref().map(UnixListener::try_clone) else {
            return;
        };
        let names: Vec<&str> = self.config.workloads.iter().map(|w| w.name.as_str()).collect();
        let control = ControlRooms {
            broker: self.shared.broker.clone(),
            issuers: self.shared.issuers.clone(),
            status: Status {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: self.guard,
                run: RUN.into(),
                principal: names.join(" "),
                hooks: self.hooks.clone(),
            },
            metrics: self.figures.clone(),
        };
        // The one before goes first.
        self.answering = None;
        self.answering = Some(spawn("control", Server::from(listener).serve(Arc::new(control))));
    }

    async fn stop(mut self, hand_over: bool) {
        self.notifier.tell("STOPPING=1");
        let ends = self.workloads.into_values().map(|served| served.end(hand_over));
        futures_util::future::join_all(ends).await;
        while self.leaving.next().await.is_some() {}
        let stopped = Event::AgentStopped {
            reason: "it was asked to; the hooks stay".into(),
        };
        if let Err(error) = self.shared.audit.record(stopped).await.map(|_receipt| ()) {
            tracing::error!(%error, "the end could not be recorded");
        }
        self.shared.audit.close().await;
        self.link.done();
    }
}
