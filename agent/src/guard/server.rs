//! The guard's side of the link: starts the proxy, answers what it may ask, and nothing else.
//!
//! The proxy is taken for hostile. It can learn what connections were meant for that it shows the sockets of, open the
//! files that the guard's own reading of the configuration names, and have more addresses redirected, never fewer. It
//! cannot name processes, hooks, maps or paths of its own choice.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, open};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::{
    ClientCertificate, Config, CredentialPlace, KeySource, NetworkRule, SecretSourceConfig, UpstreamTls,
};
use crate::model::{FlowKey, ListenerAddr, PeerAddr};
use crate::task::{Task, spawn};

use super::counters::CounterMap;
use super::datagrams::DatagramTable;
use super::denials::Denials;
use super::error::GuardError;
use super::flow::{DatagramSource as _, FlowSource};
use super::heartbeat;
use super::hooks::Guard;
use super::link::{Answer, Ask, Link, LinkError, MAX_ADDRESSES, Said, Told};
use super::rules::{MAX_RULES, RuleTable};
use super::sys;
use super::table::FlowTable;

/// Messages to the proxy that wait to be sent. Behind them the kernel's ring waits, and counts what it has no room for.
const WAITING: usize = 256;
/// How long the ring is looked at for the last time.
const LAST_LOOK: Duration = Duration::from_millis(50);
/// Between two looks whether denials were lost.
const LOOK: Duration = Duration::from_secs(1);

/// What the proxy may open: what the configuration names, as this process has read it.
#[derive(Debug, Default)]
pub struct Allowed {
    files: BTreeSet<PathBuf>,
    policies: Option<PathBuf>,
}

impl Allowed {
    /// Everything that `config` names, and `token`. What lies below the state directory is not opened for the proxy: it
    /// owns that, and could put links there.
    #[must_use]
    pub fn of(config: &Config, token: Option<&Path>) -> Self {
        let secret = |source: &SecretSourceConfig| match source {
            SecretSourceConfig::File(path) => Some(path.clone()),
            SecretSourceConfig::Env(_) => None,
        };
        let mut files: BTreeSet<PathBuf> = token.map(Path::to_owned).into_iter().collect();
        for target in &config.targets {
            files.extend(target.credential.as_ref().and_then(|c| secret(&c.password)));
            if let UpstreamTls::Verify {
                ca_file: Some(path), ..
            } = &target.tls
            {
                files.insert(path.clone());
            }
            if let Some(CredentialPlace::SigV4 {
                session_token: Some(path),
                ..
            }) = target.credential.as_ref().map(|c| &c.place)
            {
                files.insert(path.clone());
            }
            if let Some(ClientCertificate { cert_file, key_file }) = &target.upstream.client_certificate {
                files.extend([cert_file.clone(), key_file.clone()]);
            }
        }
        for issuer in &config.issuers {
            files.extend(issuer.ca_file.clone());
            if let KeySource::File(path) = &issuer.keys {
                files.insert(path.clone());
            }
        }
        files.extend(config.masking.classes.clone());
        let sink = config.audit.clickhouse.as_ref();
        files.extend(sink.and_then(|s| s.password.as_ref()).and_then(secret));
        if let Some(traces) = &config.telemetry.traces {
            files.extend(
                [&traces.headers_file, &traces.ca_file]
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        }
        let proxys = |path: &Path| path.starts_with(&config.state_dir) || path.starts_with(&config.audit.dir);
        files.retain(|path| !proxys(path));
        let policies = config.policies.clone().filter(|dir| !proxys(dir));
        Self { files, policies }
    }

    /// Opens `path` to be read, where it is one of these.
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let directory = self.policies.as_deref() == Some(path);
        let policy = path
            .extension()
            .is_some_and(|e| e == "cedar" || e == "cedarschema")
            && path.file_name().is_some()
            && self.policies.is_some()
            && path.parent() == self.policies.as_deref();
        if !(directory || policy || self.files.contains(path)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty())?;
        let found = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        let expected = if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        };
        if found == expected {
            Ok(file)
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

/// What of the kernel the proxy may ask about.
pub(super) struct Served {
    pub(super) flows: Arc<FlowTable>,
    pub(super) datagrams: Arc<DatagramTable>,
    pub(super) counters: Arc<CounterMap>,
    pub(super) rules: RuleTable,
    pub(super) networks: Vec<NetworkRule>,
    /// Addresses of targets that this process knows by itself, and all that it was ever told.
    pub(super) targets: BTreeSet<SocketAddr>,
    coming: BTreeSet<SocketAddr>,
}

impl Served {
    fn flow(&self, socket: &OwnedFd, told: SocketAddr) -> Option<Answer> {
        let netns = sys::netns_cookie(socket).ok()?;
        let socket = socket2::SockRef::from(socket);
        let listener = ListenerAddr(socket.local_addr().ok()?.as_socket()?);
        let peer = match socket.peer_addr() {
            Ok(address) => address.as_socket()?,
            // It was reset already: then only `accept` knew the other end.
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => told,
            Err(_) => return None,
        };
        let key = FlowKey {
            netns,
            peer: PeerAddr(peer),
            listener,
        };
        self.flows.take(&key, socket.as_fd()).map(Answer::from)
    }

    /// The kernel alone wrote down which question came from where to this socket, and each is given out once.
    fn datagram(&self, socket: &OwnedFd, peer: SocketAddr, id: u16) -> Option<Answer> {
        let netns = sys::netns_cookie(socket).ok()?;
        let listener = socket2::SockRef::from(socket).local_addr().ok()?.as_socket()?;
        let key = FlowKey {
            netns,
            peer: PeerAddr(peer),
            listener: ListenerAddr(listener),
        };
        self.datagrams.take(&key, id, socket.as_fd()).map(Answer::from)
    }

    fn targets(&mut self, addresses: Vec<SocketAddr>, more: bool) -> Answer {
        let refused = |reason: String| Answer::Refused { reason };
        if addresses.len() > MAX_ADDRESSES || self.coming.len() + addresses.len() > MAX_RULES {
            self.coming.clear();
            return refused("too many addresses".into());
        }
        self.coming.extend(addresses);
        if more || self.networks.is_empty() {
            return Answer::Done {};
        }
        let coming = std::mem::take(&mut self.coming);
        let all: BTreeSet<SocketAddr> = self.targets.union(&coming).copied().collect();
        let list: Vec<SocketAddr> = all.iter().copied().collect();
        match self.rules.replace(&self.networks, &list) {
            Ok(()) => {
                self.targets = all;
                Answer::Done {}
            }
            Err(error) => refused(error.to_string()),
        }
    }
}

/// Answers what the proxy asks, until it ends or says something that is no question.
pub(super) fn answer(link: &Link, allowed: &Allowed, kernel: &OnceLock<Mutex<Served>>) -> LinkError {
    loop {
        let (ask, beside) = match link.receive::<Ask>(1) {
            Ok(got) => got,
            Err(error) => return error,
        };
        let mut file = None;
        let not_yet = || Answer::Refused {
            reason: "the hooks are not attached yet".into(),
        };
        let served = || {
            let kernel = kernel.get()?;
            Some(kernel.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let answer = match ask {
            Ask::Flow { peer } => {
                let kernel = served();
                let known = beside
                    .first()
                    .and_then(|socket| kernel.as_ref()?.flow(socket, peer));
                known.unwrap_or(Answer::NoFlow {})
            }
            Ask::Datagram { peer, id } => {
                let kernel = served();
                let known = beside
                    .first()
                    .and_then(|socket| kernel.as_ref()?.datagram(socket, peer, id));
                known.unwrap_or(Answer::NoFlow {})
            }
            Ask::Open { path } => match allowed.open(Path::new(&path)) {
                Ok(opened) => {
                    file = Some(opened);
                    Answer::Opened {}
                }
                Err(error) => Answer::NotOpened {
                    errno: error.raw_os_error().unwrap_or(libc::EACCES),
                },
            },
            Ask::Counters {} => {
                let counters = served().map(|kernel| kernel.counters.all());
                match counters {
                    Some(Ok(counters)) => counters.into(),
                    Some(Err(error)) => Answer::Refused {
                        reason: error.to_string(),
                    },
                    None => not_yet(),
                }
            }
            Ask::Targets { addresses, more } => {
                served().map_or_else(not_yet, |mut kernel| kernel.targets(addresses, more))
            }
        };
        let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        if let Err(error) = link.send(&answer, &files, true) {
            return error;
        }
    }
}

/// What the proxy has said.
#[derive(Debug)]
pub enum Heard {
    /// The first records are on the disk: the command can start.
    Ready,
    /// It cannot serve; why.
    Failed(String),
    /// The last record is on the disk.
    Done,
    /// It has ended, or said something that is no message.
    Gone(LinkError),
}

/// The proxy's process. It is ended when this is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; until it is waited for, its number is nobody else's.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A started proxy that nothing was handed to yet.
pub struct Proxy {
    process: Process,
    link: Link,
    kernel: Arc<OnceLock<Mutex<Served>>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts this program again with `arguments`; the links are its standard input and output. From the main thread and
    /// before any other, since the proxy ends with the thread that started it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(arguments: &[OsString], allowed: Allowed) -> io::Result<Self> {
        let (calls, theirs) = Link::pair()?;
        let (link, events) = Link::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("interdict")
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(events)))
            .spawn()?;
        let process = Process(child);
        let kernel = Arc::new(OnceLock::new());
        let served = Arc::clone(&kernel);
        std::thread::Builder::new()
            .name("proxy calls".into())
            .spawn(move || {
                let error = answer(&calls, &allowed, &served);
                tracing::debug!(%error, "the proxy asks nothing more");
            })?;
        Ok(Self {
            process,
            link,
            kernel,
        })
    }

    /// Hands the listeners over and serves it from now on: with the denials of `guard`, its rules for the networks of
    /// `config`, and its heartbeat, which stops with the proxy's.
    ///
    /// # Errors
    /// Where something of the guard was taken already, or the proxy has ended.
    pub fn attach(self, guard: &mut Guard, config: &Config) -> Result<Overseen, GuardError> {
        let Self {
            process,
            link,
            kernel,
        } = self;
        let taken = || GuardError::Link(LinkError::NotAMessage);
        let served = Served {
            flows: guard.flow_table(),
            datagrams: guard.datagram_table(),
            counters: guard.counter_map(),
            rules: guard.take_rules().ok_or_else(taken)?,
            networks: config.networks.clone(),
            targets: literal(config)
                .into_iter()
                .chain(guard.resolvers().iter().copied())
                .collect(),
            coming: BTreeSet::new(),
        };
        let _only_once = kernel.set(Mutex::new(served));
        let (listeners, names) = (guard.take_listeners(), guard.take_dns());
        let started = Told::Started {
            attached: guard.features().attached.clone(),
            netns: guard.netns().0,
            listeners: listeners.iter().map(|(_, address)| address.0).collect(),
            names: names.iter().map(|(_, address)| address.0).collect(),
        };
        let sockets: Vec<_> = listeners
            .iter()
            .map(|(socket, _)| socket.as_fd())
            .chain(names.iter().map(|(socket, _)| socket.as_fd()))
            .collect();
        match link.send(&started, &sockets, true) {
            // What it said last is heard first.
            Ok(()) | Err(LinkError::Ended) => {}
            Err(error) => return Err(GuardError::Link(error)),
        }
        // The only ones from now on are the proxy's: they close with it.
        drop((listeners, names));
        let denials = guard.take_denials().ok_or_else(taken)?;
        let (tell, to_send) = mpsc::channel(WAITING);
        let (hears, heard) = mpsc::channel(WAITING);
        let failed = |source| GuardError::Link(LinkError::Socket(source));
        let writer = link.again().map_err(failed)?;
        thread("proxy tell", move || send_all(&writer, to_send)).map_err(failed)?;
        let pulse = guard.pulse();
        thread("proxy hear", move || hear_all(&link, &hears, &pulse)).map_err(failed)?;
        let (ending, ended) = watch::channel(());
        let forwarding = spawn("denials", forward(denials, tell.clone(), ended));
        Ok(Overseen {
            process,
            heard,
            tell,
            ending,
            forwarding: Some(forwarding),
        })
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

/// Targets that are addresses in the configuration: no proxy is needed to know them.
fn literal(config: &Config) -> BTreeSet<SocketAddr> {
    let addresses = config.targets.iter().flat_map(|target| &target.addresses);
    addresses
        .filter_map(|address| Some(SocketAddr::new(address.host.parse().ok()?, address.port)))
        .collect()
}

fn send_all(link: &Link, mut messages: mpsc::Receiver<Told>) {
    while let Some(message) = messages.blocking_recv() {
        if link.send(&message, &[], true).is_err() {
            return;
        }
    }
}

fn hear_all(link: &Link, hears: &mpsc::Sender<Heard>, pulse: &AtomicU64) {
    loop {
        let heard = match link.receive::<Said>(0) {
            Ok((Said::Alive {}, _)) => {
                pulse.store(heartbeat::now(), Ordering::Relaxed);
                continue;
            }
            Ok((Said::Ready {}, _)) => Heard::Ready,
            Ok((Said::Failed { message }, _)) => Heard::Failed(message),
            Ok((Said::Done {}, _)) => Heard::Done,
            Err(error) => {
                pulse.store(0, Ordering::Relaxed);
                let _nobody_listens = hears.blocking_send(Heard::Gone(error));
                return;
            }
        };
        if hears.blocking_send(heard).is_err() {
            return;
        }
    }
}

/// Sends denials as fast as the proxy takes them, until the run is `ending` and no more come.
async fn forward(mut denials: Denials, tell: mpsc::Sender<Told>, mut ending: watch::Receiver<()>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut lost = 0;
    loop {
        let ended = tokio::select! {
            denial = denials.next() => {
                let Some(denial) = denial else { return };
                let denial = Box::new(denial.into());
                if tell.send(Told::Denied { denial }).await.is_err() {
                    return;
                }
                continue;
            }
            _ = tick.tick() => false,
            _ = ending.changed() => true,
        };
        if ended {
            // All that could be denied has ended: what is in the ring is the rest.
            while let Ok(Some(denial)) = timeout(LAST_LOOK, denials.next()).await {
                let denial = Box::new(denial.into());
                if tell.send(Told::Denied { denial }).await.is_err() {
                    return;
                }
            }
        }
        let now = denials.lost();
        if now > lost {
            lost = now;
            if tell.send(Told::Lost { lost }).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// A proxy that is served.
#[derive(Debug)]
pub struct Overseen {
    process: Process,
    heard: mpsc::Receiver<Heard>,
    tell: mpsc::Sender<Told>,
    ending: watch::Sender<()>,
    forwarding: Option<Task<()>>,
}

impl Overseen {
    /// What the proxy says next. Cancel-safe.
    pub async fn hear(&mut self) -> Heard {
        self.heard.recv().await.unwrap_or(Heard::Gone(LinkError::Ended))
    }

    /// Asks it to read its policies again.
    pub fn reload(&self) {
        if self.tell.try_send(Told::Reload {}).is_err() {
            tracing::warn!("the proxy does not listen: its policies are not read again");
        }
    }

    /// Tells it that the last process of the run has ended, after everything that was denied, and waits for its last
    /// record.
    ///
    /// # Errors
    /// Why it was not written within `patience`.
    pub async fn finish(&mut self, status: i32, patience: Duration) -> Result<(), String> {
        self.ending.send_replace(());
        let finishing = async {
            if let Some(forwarding) = self.forwarding.take() {
                forwarding.join().await;
            }
            // Where it has ended, that is heard.
            let _told = self.tell.send(Told::Ended { status }).await;
            loop {
                match self.hear().await {
                    Heard::Done => return Ok(()),
                    Heard::Failed(why) => return Err(why),
                    Heard::Gone(why) => return Err(why.to_string()),
                    Heard::Ready => {}
                }
            }
        };
        let late = |_elapsed| Err("it takes too long".into());
        timeout(patience, finishing).await.unwrap_or_else(late)
    }

    /// Waits until its process has ended, for at most `patience`; then it is ended.
    pub async fn end(mut self, patience: Duration) {
        let gone = async { while !matches!(self.hear().await, Heard::Gone(_)) {} };
        if timeout(patience, gone).await.is_err() {
            tracing::warn!("the proxy did not end by itself");
            return;
        }
        let Self { process, .. } = self;
        let waited = tokio::task::spawn_blocking(move || {
            let mut process = process;
            process.0.wait()
        });
        if let Ok(Err(error)) = waited.await {
            tracing::debug!(%error, "the proxy's end was not seen");
        }
    }
}
