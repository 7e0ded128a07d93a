//! `interdict run`: an embedded agent around one command.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Rlimit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use crate::audit::{AuditLog, Event};
use crate::config::{Config, UnixConfig};
use crate::connection::{Acceptor, Targets};
use crate::control::wire::Status;
use crate::control::{ControlRooms, MetricSource, Server, directory};
use crate::guard::{self, Guard, GuardError, LaunchSpec, Launched, RunCgroup};
use crate::identity::{IdentityChange, TokenSource};
use crate::model::{Digest, RunId};
use crate::session::Rooms;
use crate::task::{Task, spawn};

use super::descriptors;
use super::environment;
use super::health::{self, Readiness};
use super::metrics::{Meters, Readers};
use super::reload::Reloading;
use super::rooms::{BuildError, build, resolvers};
use super::rules;
use super::serve::Serving;
use super::user::RunAs;

/// How long the end of a run waits for sessions to end, and then for ClickHouse.
const DRAIN: Duration = Duration::from_secs(5);

/// What to run, and how.
#[derive(Debug)]
pub struct RunSpec {
    /// The configuration.
    pub config: Config,
    /// The digest of its file.
    pub config_digest: Digest,
    /// Where the identity comes from; `None`: the workload is nobody but itself.
    pub token: Option<TokenSource>,
    /// The variable that the token came from: removed from the command's environment.
    pub token_variable: Option<String>,
    /// Whom the command runs as; `None`: as the agent.
    pub run_as: Option<RunAs>,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// Why the command could not be run governed. Nothing of it has run then.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A room.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The kernel.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The first record.
    #[error("nothing is run that cannot be recorded: {0}")]
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

/// Runs the command governed, until the last of its processes has ended; its exit status as shells show it.
///
/// # Errors
/// Where it could not be started governed.
pub async fn run(spec: RunSpec) -> Result<i32, RunError> {
    let RunSpec {
        config,
        config_digest,
        token,
        token_variable,
        run_as,
        command,
    } = spec;
    let name = command.first().map(base_name).unwrap_or_default();
    let descriptors = descriptors::raise();
    let built = build(&config, token.as_ref(), &name).await?;
    let rooms = &built.rooms;
    let audit = rooms.audit.clone();
    let targets = Targets::resolve(&config.targets).await;
    let serving = Arc::new(Serving::new(
        &config,
        Arc::clone(rooms),
        Arc::clone(&targets),
        &built.authority,
    )?);
    // Declared before the guard: the hooks go first, then the cgroup.
    let cgroup = RunCgroup::create()?;
    let mut guard = attach(&cgroup, &config)?;
    let started = Event::AgentStarted {
        version: env!("CARGO_PKG_VERSION").into(),
        config: config_digest,
        bundle: rooms.policies.current().bundle(),
        hooks: guard.features().attached.clone(),
    };
    let _receipt = audit.record(started).await?;
    let mut tasks = vec![spawn("targets", Arc::clone(&targets).keep_fresh())];
    tasks.extend(follow_rules(&mut guard, &config, &targets)?);
    // These have something to write down when the last process has ended.
    let (ending, _) = watch::channel(());
    let mut draining = Vec::new();
    for (listener, address) in guard.take_listeners() {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| RunError::System {
            what: "the listener cannot be used",
            source,
        })?;
        let acceptor = Acceptor::new(listener, address, guard.netns(), guard.flows());
        let told = ending.subscribe();
        draining.push(spawn("accept", Arc::clone(&serving).serve(acceptor, told)));
    }
    if let Some(denials) = guard.take_denials() {
        draining.push(spawn(
            "denials",
            super::denials::record(denials, audit.clone(), rooms.run, ending.subscribe()),
        ));
    }
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
    tasks.extend(shipping(&config));
    let (watching, reload) = watch_policies(&config, rooms).unzip();
    tasks.extend(watching);
    tasks.extend(control(&built.issuers, &guard, rooms, &config).await);
    record_start(rooms, run_as.as_ref(), name).await?;
    let changes = environment::for_command(
        &config,
        built.authority.pem_path(),
        &built.bundle,
        token_variable.as_deref(),
    );
    let spec = launch_spec(command, run_as, changes, descriptors, &config.unix);
    let launched = guard::launch(&mut guard, &cgroup, spec).await?;
    let status = wait(launched, &cgroup, reload.as_deref()).await?;
    ending.send_replace(());
    finish(draining).await;
    let _receipt = audit
        .record(Event::RunEnded {
            run: rooms.run,
            status,
        })
        .await?;
    drop(tasks);
    let _receipt = audit
        .record(Event::AgentStopped {
            reason: "the last process of the run ended".into(),
        })
        .await?;
    audit.close().await;
    drop(guard);
    drain(&config).await;
    Ok(status)
}

/// Streams records to ClickHouse, where there is one.
fn shipping(config: &Config) -> Option<Task<()>> {
    let sink = config.audit.clickhouse.clone()?;
    Some(spawn(
        "clickhouse",
        crate::audit::ship(config.audit.dir.clone(), sink),
    ))
}

/// Watches the directory of policies; who wants it read at once says so.
fn watch_policies(config: &Config, rooms: &Rooms) -> Option<(Task<()>, Arc<Notify>)> {
    let dir = config.policies.clone()?;
    let asked = Arc::new(Notify::new());
    let reloading = Reloading {
        dir,
        classes: rooms.masks.classes().clone(),
        policies: Arc::clone(&rooms.policies),
        audit: rooms.audit.clone(),
    };
    Some((spawn("policies", reloading.watch(Arc::clone(&asked))), asked))
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
    guard: &mut Guard,
    config: &Config,
    targets: &Arc<Targets>,
) -> Result<Option<Task<()>>, GuardError> {
    let Some(mut table) = guard.take_rules() else {
        return Ok(None);
    };
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
    let uid = run_as.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
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

fn attach(cgroup: &RunCgroup, config: &Config) -> Result<Guard, GuardError> {
    let mut guard = Guard::attach(cgroup, &resolvers())?;
    guard.allow_unix(&config.unix.allow)?;
    for (feature, lost) in &guard.features().missing {
        tracing::warn!(feature, lost, "this kernel lacks a feature");
    }
    Ok(guard)
}

async fn control(
    issuers: &crate::identity::Issuers,
    guard: &Guard,
    rooms: &Arc<Rooms>,
    config: &Config,
) -> Vec<Task<()>> {
    let meters = Meters {
        run: rooms.run.to_string(),
        audit: rooms.audit.clone(),
        streamed: config
            .audit
            .clickhouse
            .as_ref()
            .map(|_sink| config.audit.dir.clone()),
        kernel: Readers::one(guard.counter_reader()),
    };
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        run: rooms.run.to_string(),
        principal: rooms
            .binding
            .current(crate::clock::now())
            .map(|p| p.key())
            .unwrap_or_default(),
        hooks: guard.features().attached.clone(),
    };
    let control = ControlRooms {
        broker: rooms.broker.clone(),
        issuers: issuers.clone(),
        status,
        metrics: MetricSource::new(move || meters.read()),
    };
    // The hooks are attached by now.
    let ready = Readiness::default();
    ready.set(true);
    let health = health::start(&config.telemetry, control.metrics.clone(), ready).await;
    let control = match Server::listen(&directory()) {
        Ok(server) => Some(spawn("control", server.serve(Arc::new(control)))),
        Err(error) => {
            // Then nothing can be approved here: what needs approval stays refused.
            tracing::warn!(%error, "approvals cannot be decided through this agent");
            None
        }
    };
    control.into_iter().chain(health).collect()
}

fn launch_spec(
    command: Vec<OsString>,
    run_as: Option<RunAs>,
    changes: environment::Environment,
    descriptors: Rlimit,
    unix: &UnixConfig,
) -> LaunchSpec {
    let environment::Environment {
        mut set,
        removed,
        bundle,
    } = changes;
    let identity = run_as.map(
        |RunAs {
             name,
             uid,
             gid,
             groups,
             home,
         }| {
            set.extend([
                ("USER".into(), name.clone().into()),
                ("LOGNAME".into(), name.into()),
            ]);
            set.extend(home.map(|home| ("HOME".into(), home.into_os_string())));
            guard::Identity { uid, gid, groups }
        },
    );
    LaunchSpec {
        command,
        identity,
        set,
        removed,
        trust: Some(bundle),
        descriptors: Some(descriptors),
        hide: unix.hide.clone(),
        show: unix.allow.iter().map(PathBuf::from).collect(),
    }
}

/// Waits for the command, passing signals on to it, and then for the last of its processes. A SIGHUP to the agent asks it to
/// read its policies where they can change (that of a terminal reaches the command from the kernel, which sends it to the whole group).
async fn wait(launched: Launched, cgroup: &RunCgroup, reload: Option<&Notify>) -> Result<i32, RunError> {
    let Launched { mut child, pid } = launched;
    let mut signals = Signals::listen().map_err(|source| RunError::System {
        what: "no signals",
        source,
    })?;
    let status = loop {
        tokio::select! {
            ended = child.wait() => {
                break ended.map_err(|source| RunError::System { what: "the command's end was not seen", source })?;
            }
            number = signals.next() => match reload {
                Some(asked) if number == rustix::process::Signal::HUP => asked.notify_one(),
                _ => forward(pid, number),
            },
        }
    };
    let mut ending = std::pin::pin!(cgroup.wait_empty());
    loop {
        tokio::select! {
            empty = &mut ending => {
                empty?;
                return Ok(shown(status));
            }
            // Its children are left: a second wish to end ends them.
            number = signals.next() => {
                if let (Some(asked), rustix::process::Signal::HUP) = (reload, number) {
                    asked.notify_one();
                    continue;
                }
                tracing::debug!(?number, "ending what is left of the run");
                cgroup.kill();
            }
        }
    }
}

/// As shells show it.
fn shown(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|number| 128 + number))
        .unwrap_or(1)
}

fn forward(pid: u32, number: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, number)
    {
        tracing::debug!(%error, "the command was gone");
    }
}

/// The signals that are passed on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    window: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> rustix::process::Signal {
        use rustix::process::Signal as Number;
        tokio::select! {
            _ = self.interrupt.recv() => Number::INT,
            _ = self.terminate.recv() => Number::TERM,
            _ = self.hangup.recv() => Number::HUP,
            _ = self.quit.recv() => Number::QUIT,
            _ = self.user1.recv() => Number::USR1,
            _ = self.user2.recv() => Number::USR2,
            _ = self.window.recv() => Number::WINCH,
        }
    }
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
