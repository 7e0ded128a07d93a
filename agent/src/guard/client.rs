//! The proxy's side of the link: everything of the kernel and of files that it cannot have by itself, it asks for.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::model::{FlowKey, ListenerAddr, NetnsCookie, OriginalDst};

use super::counters::{CounterReader, Counters};
use super::denials::{Denial, Denials};
use super::error::GuardError;
use super::flow::{DatagramSource, Flow, FlowSource};
use super::link::{Answer, Ask, Link, LinkError, MAX_ADDRESSES, RUN, Said, Told};
use super::rules::RuleTable;

/// How often the guard is told that the proxy is alive: a third of what it waits for.
const ALIVE: Duration = Duration::from_millis(500);
/// Denials that wait to be recorded; behind them the guard waits.
const WAITING: usize = 1024;
/// Longest reason for a failure, in characters.
const MAX_REASON: usize = 8000;

/// Asks the guard about one workload. Blocks for as long as the answer takes: two switches of processes.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    link: Arc<Mutex<Link>>,
    workload: u32,
}

impl Caller {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link: Arc::new(Mutex::new(link)),
            workload: RUN,
        }
    }

    /// The same for another workload.
    pub(super) fn of(&self, workload: u32) -> Self {
        Self {
            link: Arc::clone(&self.link),
            workload,
        }
    }

    pub(super) fn ask(
        &self,
        ask: &Ask,
        beside: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), LinkError> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.send(ask, beside, true)?;
        link.receive(1)
    }

    /// A socket that connects to `address`, made in a workload's namespace.
    pub(super) fn dial(&self, NetnsCookie(netns): NetnsCookie, address: SocketAddr) -> io::Result<OwnedFd> {
        let ask = Ask::Dial { netns, address };
        let (answer, sockets) = self.ask(&ask, &[]).map_err(io::Error::other)?;
        match (answer, sockets.into_iter().next()) {
            (Answer::Dialled {}, Some(socket)) => Ok(socket),
            (Answer::NotOpened { errno }, _) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// Opens a file that the configuration names.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let path = path.to_str().ok_or_else(denied)?.to_owned();
        let (answer, files) = self.ask(&Ask::Open { path }, &[]).map_err(io::Error::other)?;
        match (answer, files.into_iter().next()) {
            (Answer::Opened {}, Some(file)) => Ok(file.into()),
            (Answer::NotOpened { errno }, _) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(denied()),
        }
    }

    /// What the hooks have counted.
    pub(super) fn counters(&self) -> Result<Counters, GuardError> {
        let workload = self.workload;
        let (answer, _) = self
            .ask(&Ask::Counters { workload }, &[])
            .map_err(GuardError::Link)?;
        if let Answer::Counters {
            denials_lost,
            flows_full,
            redirected,
            datagrams_full,
        } = answer
        {
            return Ok(Counters {
                denials_lost,
                flows_full,
                redirected,
                datagrams_full,
            });
        }
        Err(unlike(answer))
    }

    /// Has these addresses redirected, whatever network they lie in.
    pub(super) fn targets(&self, targets: &[SocketAddr]) -> Result<(), GuardError> {
        let mut parts = targets.chunks(MAX_ADDRESSES).peekable();
        loop {
            let addresses = parts.next().unwrap_or_default().to_vec();
            let more = parts.peek().is_some();
            let workload = self.workload;
            let ask = Ask::Targets {
                workload,
                addresses,
                more,
            };
            let (answer, _) = self.ask(&ask, &[]).map_err(GuardError::Link)?;
            if answer != (Answer::Done {}) {
                return Err(unlike(answer));
            }
            if !more {
                return Ok(());
            }
        }
    }
}

fn unlike(answer: Answer) -> GuardError {
    match answer {
        Answer::Refused { reason } => GuardError::Refused(reason),
        Answer::Flow { .. }
        | Answer::NoFlow {}
        | Answer::Opened {}
        | Answer::Dialled {}
        | Answer::NotOpened { .. }
        | Answer::Counters { .. }
        | Answer::Done {} => GuardError::Link(LinkError::NotAMessage),
    }
}

impl FlowSource for Caller {
    fn take(&self, key: &FlowKey, accepted: BorrowedFd<'_>) -> Option<Flow> {
        let (workload, peer) = (self.workload, key.peer.0);
        self.flow(&Ask::Flow { workload, peer }, accepted)
    }
}

impl DatagramSource for Caller {
    fn take(&self, key: &FlowKey, id: u16, socket: BorrowedFd<'_>) -> Option<Flow> {
        let (workload, peer) = (self.workload, key.peer.0);
        self.flow(&Ask::Datagram { workload, peer, id }, socket)
    }
}

impl Caller {
    fn flow(&self, ask: &Ask, socket: BorrowedFd<'_>) -> Option<Flow> {
        match self.ask(ask, &[socket]) {
            Ok((Answer::Flow { original, process }, _)) => Some(Flow {
                original: OriginalDst(original),
                process: (*process).into(),
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::error!(%error, "the guard cannot be asked");
                None
            }
        }
    }
}

/// What the guard wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The policies are read again.
    Reload,
    /// The last process of the run has ended, with this status.
    Ended(i32),
}

/// What the guard gave the proxy to begin with.
#[derive(Debug)]
pub struct Handed {
    /// The attached hooks.
    pub attached: Vec<String>,
    /// The namespace that the listeners live in.
    pub netns: NetnsCookie,
    /// The listeners.
    pub listeners: Vec<(std::net::TcpListener, ListenerAddr)>,
    /// The sockets for questions for names.
    pub names: Vec<(std::net::UdpSocket, ListenerAddr)>,
    /// What is denied.
    pub denials: Denials,
    /// What it wants.
    pub orders: mpsc::Receiver<Order>,
}

/// The proxy's links to its guard.
#[derive(Debug, Clone)]
pub struct GuardLink {
    calls: Caller,
    events: Arc<Link>,
}

impl GuardLink {
    /// Takes the links that a proxy was started with: its standard input and output, which lead nowhere afterwards.
    ///
    /// # Errors
    /// Where this process was not started as a proxy.
    pub fn inherited() -> io::Result<Self> {
        let (calls, events) = inherited()?;
        Ok(Self::over(calls, events))
    }

    /// Over these two links.
    pub(super) fn over(calls: Link, events: Link) -> Self {
        Self {
            calls: Caller::new(calls),
            events: Arc::new(events),
        }
    }

    /// Opens files that the configuration names and this process may not open.
    pub fn opener(&self) -> impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static {
        let calls = self.calls.clone();
        move |path| calls.open(path)
    }

    /// Where flows come from.
    #[must_use]
    pub fn flows(&self) -> Arc<dyn FlowSource> {
        Arc::new(self.calls.clone())
    }

    /// Where questions for names come from.
    #[must_use]
    pub fn datagrams(&self) -> Arc<dyn DatagramSource> {
        Arc::new(self.calls.clone())
    }

    /// The kernel's counters.
    #[must_use]
    pub fn counters(&self) -> CounterReader {
        CounterReader::asking(self.calls.clone())
    }

    /// The kernel's rules.
    #[must_use]
    pub fn rules(&self) -> RuleTable {
        RuleTable::asking(self.calls.clone())
    }

    /// The command can start.
    ///
    /// # Errors
    /// Where the guard has ended.
    pub fn ready(&self) -> Result<(), GuardError> {
        self.events
            .send(&Said::Ready {}, &[], true)
            .map_err(GuardError::Link)
    }

    /// The last record is on the disk.
    ///
    /// # Errors
    /// Where the guard has ended.
    pub fn done(&self) -> Result<(), GuardError> {
        self.events
            .send(&Said::Done {}, &[], true)
            .map_err(GuardError::Link)
    }

    /// The proxy cannot serve.
    pub fn failed(&self, reason: &str) {
        let message = reason.chars().take(MAX_REASON).collect();
        if let Err(error) = self.events.send(&Said::Failed { message }, &[], true) {
            tracing::error!(%error, reason, "the guard was not told");
        }
    }

    /// Tells the guard that the proxy is alive, until it is dropped.
    pub async fn keep_alive(self) {
        let mut tick = tokio::time::interval(ALIVE);
        loop {
            tick.tick().await;
            // A guard that hangs is not waited for.
            if let Err(error) = self.events.send(&Said::Alive {}, &[], false) {
                tracing::debug!(%error, "the guard was not told that the proxy is alive");
            }
        }
    }

    /// Waits for what the guard hands over. From then on the process ends with its guard.
    ///
    /// # Errors
    /// Where the guard ends or says something else first.
    pub async fn handed(&self) -> Result<Handed, GuardError> {
        let (first, handed) = oneshot::channel();
        let link = Arc::clone(&self.events);
        std::thread::Builder::new()
            .name("guard".into())
            .spawn(move || {
                listen(&link, first);
                // Without its guard there is nothing to serve, and nobody who could say whom.
                std::process::exit(1);
            })
            .map_err(|source| GuardError::Link(LinkError::Socket(source)))?;
        handed.await.map_err(|_ended| GuardError::Link(LinkError::Ended))
    }
}

/// The two links that a proxy was started with.
pub(super) fn inherited() -> io::Result<(Link, Link)> {
    let own = |standard: BorrowedFd<'_>| {
        let kind = rustix::net::sockopt::socket_type(standard)?;
        if kind != rustix::net::SocketType::SEQPACKET {
            return Err(io::Error::other(
                "a proxy is started by `interdict run` and `interdict serve` only",
            ));
        }
        standard.try_clone_to_owned().map(Link::from)
    };
    let calls = own(rustix::stdio::stdin())?;
    let events = own(rustix::stdio::stdout())?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok((calls, events))
}

/// Passes on what the guard says, until it ends.
fn listen(link: &Link, first: oneshot::Sender<Handed>) {
    let (denied, denials) = mpsc::channel(WAITING);
    let (order, orders) = mpsc::channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let Ok((
        Told::Started {
            attached,
            netns,
            listeners,
            names,
        },
        mut sockets,
    )) = link.receive::<Told>(super::link::MAX_LISTENERS)
    else {
        return;
    };
    if sockets.len() != listeners.len() + names.len() {
        return;
    }
    let for_names = sockets
        .split_off(listeners.len())
        .into_iter()
        .map(std::net::UdpSocket::from);
    let sockets = sockets.into_iter().map(std::net::TcpListener::from);
    let handed = Handed {
        attached,
        netns: NetnsCookie(netns),
        listeners: sockets.zip(listeners.into_iter().map(ListenerAddr)).collect(),
        names: for_names.zip(names.into_iter().map(ListenerAddr)).collect(),
        denials: Denials::told(denials, Arc::clone(&lost)),
        orders,
    };
    if first.send(handed).is_err() {
        return;
    }
    loop {
        let passed = match link.receive::<Told>(0) {
            Ok((Told::Denied { denial }, _)) => denied.blocking_send(Denial::from(*denial)).is_ok(),
            Ok((Told::Lost { lost: now }, _)) => {
                lost.store(now, Ordering::Relaxed);
                true
            }
            Ok((Told::Reload {}, _)) => order.blocking_send(Order::Reload).is_ok(),
            Ok((Told::Ended { status }, _)) => order.blocking_send(Order::Ended(status)).is_ok(),
            Ok((Told::Started { .. }, _)) | Err(_) => false,
        };
        if !passed {
            return;
        }
    }
}

impl AsFd for GuardLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
