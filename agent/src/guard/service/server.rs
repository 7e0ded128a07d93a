//! The guard's side: starts the proxy or lets one in, hands over what was opened with authority, tells what happens, hears.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::{Config, DialFrom, WorkloadConfig};
use crate::model::NetnsCookie;
use crate::task::{Task, spawn};

use super::super::answers::{Tables, answer};
use super::super::denials::Denials;
use super::super::error::GuardError;
use super::super::heartbeat;
use super::super::link::{Link, LinkError};
use super::super::server::{Allowed, Process, literal, thread};
use super::super::workload::{Namespace, NamespaceListeners, WorkloadGuard};
use super::admit::{Admitted, Expected, admit};
use super::wire::{Kind, MAX_CONFIG, Said, Told};

/// Messages to the proxy that wait to be sent. Behind them the kernel's rings wait, and count what they have no room for.
const WAITING: usize = 256;
/// Between two looks whether denials were lost.
const LOOK: Duration = Duration::from_secs(1);
/// Longest reason, in characters.
const MAX_REASON: usize = 8000;
/// A proxy that was silent for longer (nanoseconds) is not alive.
const SILENCE_NS: u64 = 3_000_000_000;

/// A socket that was opened with authority.
#[derive(Debug)]
pub enum Door {
    /// Of TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// What a proxy begins with, as it is handed over.
#[derive(Debug)]
pub struct Begin<'a> {
    /// Whom it becomes.
    pub user: (u32, u32),
    /// The file that the configuration came from.
    pub file: &'a Path,
    /// What it says.
    pub text: &'a str,
    /// The same, understood.
    pub config: &'a Config,
    /// The control socket.
    pub control: Option<std::os::unix::net::UnixListener>,
    /// Where health and figures are asked for.
    pub health: Option<Door>,
}

/// What a proxy begins with, as it gets it.
#[derive(Debug)]
pub struct Beginning {
    /// Its guard's process.
    pub guard: u32,
    /// Whom it becomes.
    pub user: (u32, u32),
    /// The file that the configuration came from.
    pub file: PathBuf,
    /// What it says.
    pub text: String,
    /// The control socket.
    pub control: Option<std::os::unix::net::UnixListener>,
    /// Where health and figures are asked for.
    pub health: Option<Door>,
}

/// What the proxy has said.
#[derive(Debug)]
pub enum ServiceHeard {
    /// The configuration of that number is in force.
    Accepted(u32),
    /// It is not; why.
    Refused(u32, String),
    /// The workload is served.
    Serving(u32),
    /// It cannot be; why.
    Broken(u32, String),
    /// Its last session has ended.
    Ended(u32),
    /// It cannot go on; why.
    Failed(String),
    /// Somebody asked its process to stop.
    Stopping,
    /// The last record is on the disk.
    Done,
    /// It has ended, or said something that is no message.
    Gone(LinkError),
}

/// A governed pod that acts for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GovernedPod {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account that it runs as.
    pub service_account: String,
    /// The directory of its cgroup.
    pub directory: PathBuf,
    /// Where kubelet keeps its token.
    pub token: PathBuf,
}

/// A message and what goes beside it.
type Parcel = (Told, Vec<OwnedFd>);

/// The proxy of the service, as its guard sees it. One that this process started is ended when this is dropped.
pub struct ServiceProxy {
    process: Option<Process>,
    tell: mpsc::Sender<Parcel>,
    heard: mpsc::Receiver<ServiceHeard>,
    tables: Arc<Tables>,
    pulse: Arc<AtomicU64>,
    cgroup: Option<String>,
}

impl std::fmt::Debug for ServiceProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceProxy")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl ServiceProxy {
    /// Starts this program again with `arguments`. From the main thread, which must not end before this process does: the
    /// proxy ends with it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(arguments: &[OsString]) -> io::Result<Self> {
        let (calls, their_calls) = Link::pair()?;
        let (events, their_events) = Link::pair()?;
        let process = Process::start(arguments, their_calls, their_events)?;
        Self::over(calls, events, Some(process))
    }

    /// Waits at a socket for the proxy that the service manager starts.
    ///
    /// # Errors
    /// Where it does not come.
    pub fn admit(path: &Path, expected: Expected<'_>) -> io::Result<Self> {
        let Admitted {
            calls,
            events,
            cgroup,
        } = admit(path, expected)?;
        let mut proxy = Self::over(calls, events, None)?;
        proxy.cgroup = Some(cgroup);
        Ok(proxy)
    }

    fn over(calls: Link, events: Link, process: Option<Process>) -> io::Result<Self> {
        let (tell, to_send) = mpsc::channel(WAITING);
        let (hears, heard) = mpsc::channel(WAITING);
        let tables = Arc::new(Tables::allowing(Allowed::default()));
        let pulse = Arc::new(AtomicU64::new(heartbeat::now()));
        let asked = Arc::clone(&tables);
        thread("proxy calls", move || {
            let error = answer(&calls, &asked);
            tracing::debug!(%error, "the proxy asks nothing more");
        })?;
        let writer = events.again()?;
        thread("proxy tell", move || send_all(&writer, to_send))?;
        let beats = Arc::clone(&pulse);
        thread("proxy hear", move || hear_all(&events, &hears, &beats))?;
        Ok(Self {
            process,
            tell,
            heard,
            tables,
            pulse,
            cgroup: None,
        })
    }

    /// Its cgroup below the mount, where that is not this process's.
    #[must_use]
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup.as_deref()
    }

    /// What the proxy says next. Cancel-safe.
    pub async fn hear(&mut self) -> ServiceHeard {
        self.heard
            .recv()
            .await
            .unwrap_or(ServiceHeard::Gone(LinkError::Ended))
    }

    /// Whether it has said within three seconds that it is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let last = self.pulse.load(Ordering::Relaxed);
        heartbeat::now().saturating_sub(last) < SILENCE_NS
    }

    pub(in crate::guard) fn pulse(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pulse)
    }

    async fn say(&self, told: Told, beside: Vec<OwnedFd>) {
        // That it has ended is heard.
        let _ended = self.tell.send((told, beside)).await;
    }

    /// Hands over what it begins with.
    ///
    /// # Errors
    /// Where the configuration cannot be handed over.
    pub async fn begin(&self, begin: Begin<'_>) -> io::Result<()> {
        let Begin {
            user: (uid, gid),
            file,
            text,
            config,
            control,
            health,
        } = begin;
        self.tables.allow(vec![Arc::new(Allowed::of(config, None))]);
        let mut beside = vec![sealed(text)?];
        let told = Told::Begin {
            guard: std::process::id(),
            uid,
            gid,
            file: file.to_str().ok_or(io::ErrorKind::InvalidFilename)?.to_owned(),
            control: control.is_some(),
            health: health.as_ref().map(|door| match door {
                Door::Tcp(_) => Kind::Tcp,
                Door::Unix(_) => Kind::Unix,
            }),
        };
        beside.extend(control.map(OwnedFd::from));
        beside.extend(health.map(|door| match door {
            Door::Tcp(listener) => OwnedFd::from(listener),
            Door::Unix(listener) => OwnedFd::from(listener),
        }));
        self.say(told, beside).await;
        Ok(())
    }

    /// Hands over another configuration. Until it is accepted or refused, the proxy may open what either names.
    ///
    /// # Errors
    /// Where it cannot be handed over.
    pub async fn change(&self, change: u32, text: &str, old: &Config, new: &Config) -> io::Result<()> {
        let text = sealed(text)?;
        let both = [new, old].map(|config| Arc::new(Allowed::of(config, None)));
        self.tables.allow(both.into());
        self.tables.renew(&new.networks, &literal(new).collect());
        self.say(Told::Change { change }, vec![text]).await;
        Ok(())
    }

    /// The configuration cannot be used any more as it is written; why. The one before stays.
    pub async fn wrong(&self, reason: &str) {
        let reason = reason.chars().take(MAX_REASON).collect();
        self.say(Told::Wrong { reason }, Vec::new()).await;
    }

    /// Which configuration it is that holds from now on; what it says of networks is in force afterwards.
    pub fn settled(&self, config: &Config) {
        self.tables.allow(vec![Arc::new(Allowed::of(config, None))]);
        self.tables.renew(&config.networks, &literal(config).collect());
        self.tables.enforce();
    }

    /// The hooks that workloads have.
    pub async fn started(&self, attached: Vec<String>) {
        self.say(Told::Started { attached }, Vec::new()).await;
    }

    /// Has a workload served, whose number is new: then it says [`ServiceHeard::Serving`].
    ///
    /// # Errors
    /// Where its tables cannot be opened.
    pub async fn workload(
        &self,
        number: u32,
        guard: &WorkloadGuard,
        (config, workload): (&Config, &WorkloadConfig),
        resolvers: &[SocketAddr],
    ) -> Result<(), GuardError> {
        let known: BTreeSet<SocketAddr> = literal(config).chain(resolvers.iter().copied()).collect();
        self.tables.serve(number, guard.served(&config.networks, known)?);
        self.dial_from(number, workload.dial_from);
        let told = Told::Workload {
            workload: number,
            name: workload.name.to_string(),
            attached: guard.features().attached.clone(),
        };
        self.say(told, Vec::new()).await;
        Ok(())
    }

    /// Tells what a workload's hooks deny, for as long as the task lives.
    pub fn forward(&self, number: u32, denials: Denials) -> Task<()> {
        spawn("denials", forward(number, denials, self.tell.clone()))
    }

    /// From where a workload's targets are dialled.
    pub fn dial_from(&self, number: u32, from: DialFrom) {
        self.tables.dial_from_inside(number, from == DialFrom::Workload);
    }

    /// The namespaces of a workload's processes: from these its targets may be dialled.
    pub fn namespaces(&self, number: u32, all: impl Iterator<Item = Arc<Namespace>>) {
        self.tables.namespaces(number, all);
    }

    /// Hands the listeners of a namespace over. The only ones from then on are the proxy's (and those that a service manager
    /// keeps): they close with it.
    pub async fn listen(&self, number: u32, listeners: NamespaceListeners) {
        let NetnsCookie(netns) = listeners.cookie();
        let (sockets, names) = listeners.into_all();
        let told = Told::Listen {
            workload: number,
            netns,
            listeners: sockets.iter().map(|(_, address)| address.0).collect(),
            names: names.iter().map(|(_, address)| address.0).collect(),
        };
        let sockets = sockets.into_iter().map(|(socket, _)| OwnedFd::from(socket));
        let names = names.into_iter().map(|(socket, _)| OwnedFd::from(socket));
        self.say(told, sockets.chain(names).collect()).await;
    }

    /// A workload's processes have left a namespace.
    pub async fn unlisten(&self, number: u32, NetnsCookie(netns): NetnsCookie) {
        let told = Told::Unlisten {
            workload: number,
            netns,
        };
        self.say(told, Vec::new()).await;
    }

    /// A cgroup with so many `processes` is governed, of whose connections so many were `closed`.
    pub async fn governed(&self, number: u32, cgroup: &str, processes: usize, closed: usize) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let told = Told::Governed {
            workload: number,
            cgroup: cgroup.to_owned(),
            processes: count(processes),
            closed: count(closed),
        };
        self.say(told, Vec::new()).await;
    }

    /// A cgroup is governed no longer.
    pub async fn released(&self, number: u32, cgroup: &str, reason: &str) {
        let told = Told::Released {
            workload: number,
            cgroup: cgroup.to_owned(),
            reason: reason.to_owned(),
        };
        self.say(told, Vec::new()).await;
    }

    /// A pod of a workload is governed: from now on the proxy may open its token.
    pub async fn pod(&self, number: u32, pod: GovernedPod) {
        let GovernedPod {
            uid,
            namespace,
            name,
            service_account,
            directory,
            token,
        } = pod;
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let (Some(directory), Some(file)) = (text(&directory), text(&token)) else {
            return tracing::error!(uid, "the paths of a pod are no text: it acts for nobody");
        };
        self.tables.allow_token(number, &uid, Some(token));
        let told = Told::Pod {
            workload: number,
            uid,
            namespace,
            name,
            service_account,
            directory,
            token: file,
        };
        self.say(told, Vec::new()).await;
    }

    /// A cgroup that was a pod's is governed no longer.
    pub async fn pod_gone(&self, number: u32, uid: &str) {
        self.tables.allow_token(number, uid, None);
        let told = Told::PodGone {
            workload: number,
            uid: uid.to_owned(),
        };
        self.say(told, Vec::new()).await;
    }

    /// A workload is configured no longer. It says [`ServiceHeard::Ended`] when its last session has ended; until then its
    /// tables are to be kept.
    pub async fn dismissed(&self, number: u32) {
        self.say(Told::Dismissed { workload: number }, Vec::new()).await;
    }

    /// Nothing is answered for a workload any more.
    pub fn forget(&self, number: u32) {
        self.tables.forget(number);
    }

    /// All that there is to govern is governed.
    pub async fn ready(&self) {
        self.say(Told::Ready {}, Vec::new()).await;
    }

    /// The end: it says [`ServiceHeard::Done`] when its sessions have ended.
    pub async fn stop(&self, hand_over: bool) {
        self.say(Told::Stop { hand_over }, Vec::new()).await;
    }

    /// Waits until its process has ended, for at most `patience`; then one that this process started is ended.
    pub async fn end(mut self, patience: Duration) {
        let gone = async { while !matches!(self.hear().await, ServiceHeard::Gone(_)) {} };
        if timeout(patience, gone).await.is_err() {
            tracing::warn!("the proxy did not end by itself");
        }
    }
}

/// A text that nobody can change any more.
fn sealed(text: &str) -> io::Result<OwnedFd> {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if length > MAX_CONFIG {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(c"interdict configuration", flags)?);
    file.write_all(text.as_bytes())?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

fn send_all(link: &Link, mut messages: mpsc::Receiver<Parcel>) {
    while let Some((message, beside)) = messages.blocking_recv() {
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        if let Err(error) = link.send(&message, &beside, true) {
            tracing::debug!(%error, "the proxy is told nothing more");
            return;
        }
    }
}

fn hear_all(link: &Link, hears: &mpsc::Sender<ServiceHeard>, pulse: &AtomicU64) {
    loop {
        let heard = match link.receive::<Said>(0) {
            Ok((Said::Alive {}, _)) => {
                pulse.store(heartbeat::now(), Ordering::Relaxed);
                continue;
            }
            Ok((Said::Accepted { change }, _)) => ServiceHeard::Accepted(change),
            Ok((Said::Refused { change, reason }, _)) => ServiceHeard::Refused(change, reason),
            Ok((Said::Serving { workload }, _)) => ServiceHeard::Serving(workload),
            Ok((Said::Broken { workload, reason }, _)) => ServiceHeard::Broken(workload, reason),
            Ok((Said::Ended { workload }, _)) => ServiceHeard::Ended(workload),
            Ok((Said::Failed { message }, _)) => ServiceHeard::Failed(message),
            Ok((Said::Stopping {}, _)) => ServiceHeard::Stopping,
            Ok((Said::Done {}, _)) => ServiceHeard::Done,
            Err(error) => {
                pulse.store(0, Ordering::Relaxed);
                let _nobody_listens = hears.blocking_send(ServiceHeard::Gone(error));
                return;
            }
        };
        if hears.blocking_send(heard).is_err() {
            return;
        }
    }
}

/// Tells of denials as fast as the proxy takes them.
async fn forward(workload: u32, mut denials: Denials, tell: mpsc::Sender<Parcel>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut lost = 0;
    loop {
        let told = tokio::select! {
            denial = denials.next() => {
                let Some(denial) = denial else { return };
                let denial = Box::new(denial.into());
                Told::Denied { workload, denial }
            }
            _ = tick.tick() => {
                let now = denials.lost();
                if now <= lost {
                    continue;
                }
                lost = now;
                Told::Lost { workload, lost }
            }
        };
        if tell.send((told, Vec::new())).await.is_err() {
            return;
        }
    }
}
