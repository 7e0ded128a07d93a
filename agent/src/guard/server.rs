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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, open};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::{
    ClientCertificate, Config, CredentialPlace, KeySource, SecretSourceConfig, UpstreamTls, WorkloadIdentity,
};
use crate::task::{Task, spawn};

use super::answers::{Served, Tables, answer};
use super::denials::Denials;
use super::error::GuardError;
use super::heartbeat;
use super::hooks::Guard;
use super::link::{Link, LinkError, RUN, Said, Told};

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
            files.extend(target.http.descriptor_set.clone());
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
        for workload in &config.workloads {
            if let WorkloadIdentity::TokenFile(path) = &workload.identity {
                files.insert(path.clone());
            }
        }
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

    /// This file alone.
    pub(super) fn token(path: &Path) -> Self {
        Self {
            files: [path.to_owned()].into(),
            policies: None,
        }
    }

    /// Opens `path` to be read, where it is one of these.
    pub(super) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
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
pub(super) struct Process(Child);

impl Process {
    /// Starts this program again with `arguments`, and `calls` and `events` as its standard input and output. From the main
    /// thread and before any other, since the proxy ends with the thread that started it.
    pub(super) fn start(arguments: &[OsString], calls: Link, events: Link) -> io::Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg0("interdict")
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(calls)))
            .stdout(Stdio::from(OwnedFd::from(events)))
            // The service manager is the guard's to speak to.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .spawn()?;
        Ok(Self(child))
    }

    /// Waits until it has ended.
    pub(super) fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

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
    tables: Arc<Tables>,
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
        let process = Process::start(arguments, theirs, events)?;
        let tables = Arc::new(Tables::allowing(allowed));
        let served = Arc::clone(&tables);
        thread("proxy calls", move || {
            let error = answer(&calls, &served);
            tracing::debug!(%error, "the proxy asks nothing more");
        })?;
        Ok(Self {
            process,
            link,
            tables,
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
            tables,
        } = self;
        let taken = || GuardError::Link(LinkError::NotAMessage);
        let known = literal(config).chain(guard.resolvers().iter().copied()).collect();
        let served = Served::new(
            guard.flow_table(),
            guard.datagram_table(),
            guard.counter_map(),
            guard.take_rules().ok_or_else(taken)?,
            (config.networks.clone(), known),
        );
        tables.serve(RUN, served);
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

pub(super) fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

/// Targets that are addresses in the configuration: no proxy is needed to know them.
pub(super) fn literal(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let addresses = config.targets.iter().flat_map(|target| &target.addresses);
    addresses.filter_map(|address| Some(SocketAddr::new(address.host.parse().ok()?, address.port)))
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
            process.wait()
        });
        if let Ok(Err(error)) = waited.await {
            tracing::debug!(%error, "the proxy's end was not seen");
        }
    }
}
