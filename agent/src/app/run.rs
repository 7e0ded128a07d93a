//! `interdict run`: the guard of one command. What parses and judges is in the proxy (`proxy`), another process of this program.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Rlimit;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, UnixConfig};
use crate::connection::tls::Authority;
use crate::control;
use crate::guard::{
    self, Allowed, BelongingsError, Guard, GuardError, Heard, LaunchSpec, Launched, Overseen, Proxy,
    RunCgroup,
};
use crate::identity::TokenSource;
use crate::model::Digest;

use super::agent_user::{AgentUser, AgentUserError, agent_user};
use super::descriptors;
use super::environment;
use super::health;
use super::rooms::{BuildError, host_dns};
use super::user::RunAs;

/// The subcommand of the proxy.
pub const PROXY: &str = "__proxy";
/// How long the proxy may take for its last record, and then to end: it waits for sessions and for ClickHouse.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the command may take to end when nothing can be connected any more.
const GRACE: Duration = Duration::from_secs(10);

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

/// Why the command could not be run governed, or not to its end.
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
    /// The proxy, before anything of the command has run.
    #[error("{0}")]
    Proxy(String),
    /// The proxy, while the command ran.
    #[error(
        "the proxy has ended ({0}): every connection of the command is reset, and nothing is connected any more. The command was asked to end"
    )]
    Abandoned(String),
    /// The end of the run.
    #[error("the end of the run could not be recorded: {0}")]
    Unfinished(String),
    /// The proxy's user.
    #[error(transparent)]
    User(#[from] AgentUserError),
    /// The proxy's directories.
    #[error(transparent)]
    Belongings(#[from] BelongingsError),
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

impl RunError {
    /// What became of the command.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Build(_)
            | Self::Guard(_)
            | Self::Audit(_)
            | Self::Proxy(_)
            | Self::User(_)
            | Self::Belongings(_)
            | Self::Tls(_)
            | Self::System { .. } => "Nothing of the command was run.",
            Self::Abandoned(_) => {
                "What is left of it is denied until it ends. The proxy's last words are above; the log (`interdict audit verify`) holds all that it let through."
            }
            Self::Unfinished(_) => "The command has run; the next agent seals what is recorded.",
        }
    }
}

/// A proxy that was started, and what the limit of descriptors was before.
#[derive(Debug)]
pub struct Started {
    proxy: Proxy,
    limit: Rlimit,
}

/// Starts the proxy of a run: this program with `arguments`, which say the same as `spec` was made from. From the main
/// thread, before any other.
///
/// # Errors
/// Where this process may not govern, or no process can be started.
pub fn start_proxy(spec: &RunSpec, arguments: &[OsString]) -> Result<Started, RunError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GuardError::NotRoot.into());
    }
    let token = match &spec.token {
        Some(TokenSource::File(path) | TokenSource::Pod(path, _)) => Some(path.as_path()),
        Some(TokenSource::Text(_)) | None => None,
    };
    let user = own_directories(spec)?;
    let allowed = Allowed::of(&spec.config, token);
    let numbers = [("--agent-uid", user.uid), ("--agent-gid", user.gid)];
    let numbers = numbers.map(|(name, number)| OsString::from(format!("{name}={number}")));
    let mut arguments = arguments.to_vec();
    // After the subcommand, before what was typed.
    let at = arguments
        .iter()
        .position(|word| word == PROXY)
        .map_or(0, |at| at + 1);
    drop(arguments.splice(at..at, numbers));
    // The proxy inherits it; the command gets what was before.
    let limit = descriptors::raise();
    let proxy = Proxy::start(&arguments, allowed).map_err(|source| RunError::System {
        what: "the proxy cannot be started",
        source,
    })?;
    Ok(Started { proxy, limit })
}

/// Chooses the proxy's user and gives it the directories that it writes to.
fn own_directories(spec: &RunSpec) -> Result<AgentUser, RunError> {
    let (state, audit) = (&spec.config.state_dir, &spec.config.audit.dir);
    let configured = spec.config.agent_user.as_deref();
    let user = agent_user(configured, state, spec.run_as.as_ref())?;
    let there = audit.exists();
    if guard::give(state, audit, user.uid, user.gid)? && there {
        tracing::warn!(
            "{} and the records in it now belong to {}, the agent's own user: the agent's proxy has no privileges. Root reads them as before",
            state.display(),
            user.name
        );
    }
    Ok(user)
}

/// Runs the command governed, until the last of its processes has ended; its exit status as shells show it.
///
/// # Errors
/// Where it could not be started governed, or the proxy did not last.
pub async fn run(spec: RunSpec, proxy: Started) -> Result<i32, RunError> {
    let Started { proxy, limit } = proxy;
    let result = oversee(spec, proxy, limit).await;
    control::forget();
    result
}

async fn oversee(spec: RunSpec, proxy: Proxy, limit: Rlimit) -> Result<i32, RunError> {
    let RunSpec {
        config,
        config_digest: _,
        token: _,
        token_variable,
        run_as,
        command,
    } = spec;
    // Declared before the guard: the hooks go first, then the cgroup.
    let cgroup = RunCgroup::create()?;
    let mut guard = attach(&cgroup, &config)?;
    let mut proxy = proxy.attach(&mut guard, &config)?;
    match proxy.hear().await {
        Heard::Ready => {}
        Heard::Failed(why) => return Err(RunError::Proxy(why)),
        Heard::Done => return Err(RunError::Proxy("the proxy ended before it began".into())),
        Heard::Gone(why) => return Err(RunError::Proxy(format!("the proxy has ended: {why}"))),
    }
    let _socket = health::file(&config.telemetry);
    let spec = launch_spec(
        command,
        run_as,
        changes(&config, token_variable.as_deref()),
        limit,
        &config.unix,
    );
    let mut launched = guard::launch(&mut guard, &cgroup, spec).await?;
    let can_reload = config.policies.is_some();
    let end = wait(&mut launched, &cgroup, can_reload, &mut proxy).await?;
    match end {
        End::Status(status) => {
            proxy
                .finish(status, PATIENCE)
                .await
                .map_err(RunError::Unfinished)?;
            drop(guard);
            proxy.end(PATIENCE).await;
            Ok(status)
        }
        End::Abandoned(why) => {
            drop(proxy);
            abandon(guard, cgroup, &launched).await;
            Err(RunError::Abandoned(why))
        }
    }
}

/// The proxy writes both files before it is ready.
fn changes(config: &Config, token_variable: Option<&str>) -> environment::Environment {
    let dir = config.state_dir.join("ca");
    let (ca, bundle) = (Authority::pem_in(&dir), environment::bundle_path(&dir));
    environment::for_command(config, &ca, &bundle, token_variable)
}

/// Without a proxy: asks the command to end, and leaves what does not end to the hooks, which deny everything.
async fn abandon(guard: Guard, cgroup: RunCgroup, launched: &Launched) {
    tracing::error!("the proxy has ended: nothing is connected any more, and the command is asked to end");
    forward(launched.pid, rustix::process::Signal::TERM);
    let ended = tokio::time::timeout(GRACE, cgroup.wait_empty()).await;
    if !matches!(ended, Ok(Ok(()))) {
        guard.leave();
        cgroup.leave();
    }
}

fn attach(cgroup: &RunCgroup, config: &Config) -> Result<Guard, GuardError> {
    let mut guard = Guard::attach(cgroup, &host_dns().servers)?;
    guard.allow_inbound(&config.inbound)?;
    guard.allow_unix(&config.unix.allow)?;
    for (feature, lost) in &guard.features().missing {
        tracing::warn!(feature, lost, "this kernel lacks a feature");
    }
    Ok(guard)
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

/// How the wait for the command came out.
enum End {
    /// The last process has ended; the command's status.
    Status(i32),
    /// The proxy ended before; why.
    Abandoned(String),
}

/// Waits for the command, passing signals on to it, and then for the last of its processes. A SIGHUP to the agent asks it to
/// read its policies where they can change (that of a terminal reaches the command from the kernel, which sends it to the whole group).
async fn wait(
    launched: &mut Launched,
    cgroup: &RunCgroup,
    can_reload: bool,
    proxy: &mut Overseen,
) -> Result<End, RunError> {
    let pid = launched.pid;
    let mut signals = Signals::listen().map_err(|source| RunError::System {
        what: "no signals",
        source,
    })?;
    let status = loop {
        tokio::select! {
            ended = launched.child.wait() => {
                break ended.map_err(|source| RunError::System { what: "the command's end was not seen", source })?;
            }
            heard = proxy.hear() => return Ok(End::Abandoned(last_words(heard))),
            number = signals.next() => {
                if can_reload && number == rustix::process::Signal::HUP {
                    proxy.reload();
                } else {
                    forward(pid, number);
                }
            }
        }
    };
    let mut ending = std::pin::pin!(cgroup.wait_empty());
    loop {
        tokio::select! {
            empty = &mut ending => {
                empty?;
                return Ok(End::Status(shown(status)));
            }
            heard = proxy.hear() => return Ok(End::Abandoned(last_words(heard))),
            // Its children are left: a second wish to end ends them.
            number = signals.next() => {
                if can_reload && number == rustix::process::Signal::HUP {
                    proxy.reload();
                    continue;
                }
                tracing::debug!(?number, "ending what is left of the run");
                cgroup.kill();
            }
        }
    }
}

fn last_words(heard: Heard) -> String {
    match heard {
        Heard::Failed(why) => why,
        Heard::Gone(why) => why.to_string(),
        Heard::Ready | Heard::Done => "it said something out of turn".into(),
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
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    window: Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
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
