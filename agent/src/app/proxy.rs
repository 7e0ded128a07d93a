//! The proxy of a run: everything that reads what others wrote, judges and records it. It asks its guard (`run`) for whatever
//! needs authority.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::audit::{AuditLog, Event};
use crate::config::Config;
use crate::connection::{Acceptor, DatagramListener, Targets};
use crate::control::wire::Status;
use crate::control::{ControlRooms, MetricSource, Server, directory};
use crate::guard::{GuardError, GuardLink, Handed, Order};
use crate::identity::IdentityChange;
use crate::model::RunId;
use crate::session::Rooms;
use crate::task::{Task, spawn};

use super::health::{self, Readiness};
use super::metrics::{Meters, Readers};
use super::reload::Reloading;
use super::rooms::{Built, build, host_dns};
use super::rules;
use super::run::{RunError, RunSpec, Signals};
use super::serve::{Serving, names};
use super::traces::Traces;
use super::user::RunAs;

/// How long the end of a run waits for sessions to end, and then for ClickHouse.
const DRAIN: Duration = Duration::from_secs(5);

/// Sockets in places where only root can put them.
#[derive(Debug)]
pub struct Doors {
    server: Option<Server>,
    health: Option<health::Door>,
}

/// Opens the control socket of the guard, and that of health and figures where it is configured.
#[must_use]
pub fn open_doors(config: &Config) -> Doors {
    let server = match Server::listen_for(&directory(), guard()) {
        Ok(server) => Some(server),
        Err(error) => {
            // Then nothing can be approved here: what needs approval stays refused.
            tracing::warn!(%error, "approvals cannot be decided through this agent");
            None
        }
    };
    let health = health::open(&config.telemetry);
    Doors { server, health }
}

/// The process that people see, and send signals to.
fn guard() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
}

/// Serves a run until its last process has ended. `doors` were opened with authority; `domain` is
/// whether the Landlock domain is whole.
///
/// # Errors
/// Where it cannot serve or record; the guard is told by the caller.
pub async fn proxy(spec: RunSpec, link: GuardLink, doors: Doors, domain: bool) -> Result<(), RunError> {
    // A terminal sends its signals to the whole group: what they mean for the command is the guard's business.
    let _ignored = Signals::listen().map_err(|source| RunError::System {
        what: "no signals",
        source,
    })?;
    let RunSpec {
        config,
        config_digest,
        token,
        token_variable: _,
        run_as,
        command,
    } = spec;
    // From the beginning: the hooks deny while it is not known to live.
    let mut tasks = vec![spawn("alive", link.clone().keep_alive())];
    let name = command.first().map(base_name).unwrap_or_default();
    let built = build(&config, token.as_ref(), &name).await?;
    let rooms = &built.rooms;
    let audit = rooms.audit.clone();
    let traces = Traces::start(config.telemetry.traces.as_ref(), &audit);
    let targets = Targets::resolve(&config.targets, host_dns()).await;
    let serving = Arc::new(Serving::new(
        &config,
        Arc::clone(rooms),
        Arc::clone(&targets),
        &built.authority,
    )?);
    let handed = link.handed().await?;
    let started = Event::AgentStarted {
        version: env!("CARGO_PKG_VERSION").into(),
        config: config_digest,
        bundle: rooms.policies.current().bundle(),
        hooks: handed.attached.clone(),
    };
    let _receipt = audit.record(started).await?;
    tasks.push(spawn("targets", Arc::clone(&targets).keep_fresh()));
    tasks.extend(follow_rules(&link, &config, &targets)?);
    if let Some(source) = token {
        let (changes, told) = mpsc::channel(16);
        tasks.push(spawn(
            "identity",
            Arc::clone(&rooms.binding).watch(source, built.issuers.clone(), changes),
        ));
        tasks.push(spawn(
            "identity records",
            record_identity(told, audit.clone(), rooms.run),
        ));
    }
    if let Some(sink) = config.audit.clickhouse.clone() {
        tasks.push(spawn(
            "clickhouse",
            crate::audit::ship(config.audit.dir.clone(), sink),
        ));
    }
    let reload = config.policies.clone().map(|dir| {
        let (watching, asked) = watch_policies(dir, rooms);
        tasks.push(watching);
        asked
    });
    let meters = meters(&built, &link, &config, domain);
    let figures = MetricSource::new(move || meters.read());
    let Doors { server, health } = doors;
    tasks.extend(server.map(|server| serve_control(server, &built, &handed, figures.clone())));
    // The hooks are attached by now.
    let ready = Readiness::default();
    ready.set(true);
    tasks.extend(health.and_then(|door| health::serve(door, figures, ready)));
    record_start(rooms, run_as.as_ref(), name).await?;
    // These have something to write down when the last process has ended.
    let (ending, _) = watch::channel(());
    let (draining, mut orders) = accept(handed, &link, &serving, &audit, &ending)?;
    link.ready()?;
    let status = loop {
        match orders.recv().await {
            Some(Order::Reload) => {
                if let Some(asked) = &reload {
                    asked.notify_one();
                }
            }
            Some(Order::Ended(status)) => break status,
            None => return Err(GuardError::Link(crate::guard::LinkError::Ended).into()),
        }
    };
    ending.send_replace(());
    finish(draining).await;
    serving.close().await;
    record_end(rooms, status).await?;
    audit.close().await;
    link.done()?;
    drop(tasks);
    if let Some(traces) = traces {
        traces.finish().await;
    }
    drain(&config).await;
    Ok(())
}

/// The last records.
async fn record_end(rooms: &Rooms, status: i32) -> Result<(), crate::audit::AuditError> {
    let run = rooms.run;
    let ended = Event::RunEnded { run, status };
    let _receipt = rooms.audit.record(ended).await?;
    let stopped = Event::AgentStopped {
        reason: "the last process of the run ended".into(),
    };
    let _receipt = rooms.audit.record(stopped).await?;
    Ok(())
}

/// Serves the listeners, and records what the kernel denies, until the run is `ending`.
fn accept(
    handed: Handed,
    link: &GuardLink,
    serving: &Arc<Serving>,
    audit: &AuditLog,
    ending: &watch::Sender<()>,
) -> Result<(Vec<Task<()>>, mpsc::Receiver<Order>), RunError> {
    let Handed {
        attached: _,
        netns,
        listeners,
        names: for_names,
        denials,
        orders,
    } = handed;
    let mut draining = Vec::new();
    for (listener, address) in listeners {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| RunError::System {
            what: "the listener cannot be used",
            source,
        })?;
        let acceptor = Acceptor::new(listener, address, netns, link.flows());
        let told = ending.subscribe();
        draining.push(spawn("accept", Arc::clone(serving).serve(acceptor, told)));
    }
    for (socket, address) in for_names {
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(|source| RunError::System {
            what: "the socket for names cannot be used",
            source,
        })?;
        let listener = DatagramListener::new(socket, address, netns, link.datagrams());
        let (serving, told) = (Arc::clone(serving), ending.subscribe());
        draining.push(spawn(
            "names",
            names(move || Arc::clone(&serving), listener, told),
        ));
    }
    let run = serving.run();
    draining.push(spawn(
        "denials",
        super::denials::record(denials, audit.clone(), run, ending.subscribe()),
    ));
    Ok((draining, orders))
}

/// Watches the directory of policies; who wants it read at once says so.
fn watch_policies(dir: PathBuf, rooms: &Rooms) -> (Task<()>, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let reloading = Reloading {
        dir,
        classes: rooms.masks.classes().clone(),
        policies: Arc::clone(&rooms.policies),
        audit: rooms.audit.clone(),
    };
    (spawn("policies", reloading.watch(Arc::clone(&asked))), asked)
}

/// Waits for tasks that were told to end, for as long as is reasonable.
async fn finish(draining: Vec<Task<()>>) {
    let all = async {
        for task in draining {
            task.join().await;
        }
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some sessions did not end with the last process: they are cut off");
    }
}

/// Loads the kernel's rules, and keeps them true.
fn follow_rules(
    link: &GuardLink,
    config: &Config,
    targets: &Arc<Targets>,
) -> Result<Option<Task<()>>, GuardError> {
    if config.networks.is_empty() {
        return Ok(None);
    }
    let mut table = link.rules();
    rules::load(&mut table, &config.networks, targets)?;
    let following = rules::follow(table, config.networks.clone(), Arc::clone(targets));
    Ok(Some(spawn("rules", following)))
}

/// Records on whose behalf the command starts, and as whom.
async fn record_start(
    rooms: &Rooms,
    run_as: Option<&RunAs>,
    command: String,
) -> Result<(), crate::audit::AuditError> {
    // A token that has ended already is told to the process at its first operation.
    let Ok(principal) = rooms.binding.current(crate::clock::now()) else {
        return Ok(());
    };
    // Where nobody is named it runs as its guard, and that is root.
    let uid = run_as.map_or(0, |user| user.uid);
    let bound = Event::IdentityBound {
        run: rooms.run,
        principal: Arc::clone(&principal),
    };
    let _receipt = rooms.audit.record(bound).await?;
    let started = Event::RunStarted {
        run: rooms.run,
        principal,
        command,
        uid,
    };
    let _receipt = rooms.audit.record(started).await?;
    Ok(())
}

/// Sends what ClickHouse does not have yet, for a moment.
async fn drain(config: &Config) {
    let Some(sink) = &config.audit.clickhouse else {
        return;
    };
    let drained = tokio::time::timeout(DRAIN, crate::audit::drain(&config.audit.dir, sink)).await;
    if !matches!(drained, Ok(Ok(()))) {
        tracing::warn!(
            ?drained,
            "not every record is in ClickHouse yet: the next agent sends the rest"
        );
    }
}

fn meters(built: &Built, link: &GuardLink, config: &Config, domain: bool) -> Meters {
    let rooms = &built.rooms;
    Meters {
        run: rooms.run.to_string(),
        audit: rooms.audit.clone(),
        streamed: config
            .audit
            .clickhouse
            .as_ref()
            .map(|_sink| config.audit.dir.clone()),
        kernel: Readers::one(link.counters()),
        domain: Some(domain),
    }
}

fn serve_control(server: Server, built: &Built, handed: &Handed, metrics: MetricSource) -> Task<()> {
    let rooms = &built.rooms;
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: guard(),
        run: rooms.run.to_string(),
        principal: rooms
            .binding
            .current(crate::clock::now())
            .map(|p| p.key())
            .unwrap_or_default(),
        hooks: handed.attached.clone(),
    };
    let control = ControlRooms {
        broker: rooms.broker.clone(),
        issuers: built.issuers.clone(),
        status,
        metrics,
    };
    spawn("control", server.serve(Arc::new(control)))
}

pub(super) async fn record_identity(mut told: mpsc::Receiver<IdentityChange>, audit: AuditLog, run: RunId) {
    while let Some(change) = told.recv().await {
        let event = match change {
            IdentityChange::Bound(principal) => Event::IdentityBound { run, principal },
            IdentityChange::Ended { principal, reason } => Event::IdentityEnded {
                run,
                principal,
                reason,
            },
        };
        if let Err(error) = audit.post(event).await {
            tracing::error!(%error, "a change of identity could not be recorded");
        }
    }
}

fn base_name(command: &OsString) -> String {
    std::path::Path::new(command)
        .file_name()
        .unwrap_or(command)
        .to_string_lossy()
        .into_owned()
}
