//! The proxy's side: takes over what its guard opened, and passes on what it tells. Without its guard the process ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::model::{ListenerAddr, NetnsCookie};

use super::super::client::{Caller, inherited};
use super::super::counters::CounterReader;
use super::super::denials::{Denial, Denials};
use super::super::error::GuardError;
use super::super::flow::{DatagramSource, FlowSource};
use super::super::link::{Link, LinkError, MAX_LISTENERS};
use super::super::rules::RuleTable;
use super::admit::find;
use super::server::{Beginning, Door, GovernedPod};
use super::wire::{Kind, MAX_CONFIG, Said, Told};

/// How often the guard is told that the proxy is alive: a third of what it waits for.
const ALIVE: Duration = Duration::from_millis(500);
/// Orders that wait; behind them the guard waits.
const WAITING: usize = 256;
/// Denials of a workload that wait to be recorded; more are counted as lost.
const DENIALS: usize = 1024;
/// Longest reason for a failure, in characters.
const MAX_REASON: usize = 8000;

/// What the guard wants, in order.
#[derive(Debug)]
pub enum ServiceOrder {
    /// Another configuration with this number and text.
    Change(u32, String),
    /// A changed configuration is none; why.
    Wrong(String),
    /// The hooks that workloads have.
    Started(Vec<String>),
    /// A workload is to be served.
    Workload {
        /// Its number.
        number: u32,
        /// Its name in the configuration.
        name: String,
        /// Its hooks.
        attached: Vec<String>,
        /// What they deny.
        denials: Denials,
    },
    /// Connections of a workload in a network namespace.
    Listen {
        /// Its number.
        number: u32,
        /// The namespace.
        netns: NetnsCookie,
        /// The listeners.
        listeners: Vec<(std::net::TcpListener, ListenerAddr)>,
        /// The sockets for questions for names.
        names: Vec<(std::net::UdpSocket, ListenerAddr)>,
    },
    /// Its processes have left the namespace.
    Unlisten(u32, NetnsCookie),
    /// A cgroup is governed: its path, how many processes it has, how many connections were closed.
    Governed(u32, String, usize, usize),
    /// It is not any more; why.
    Released(u32, String, String),
    /// A pod of a workload that acts for itself is governed.
    Pod(u32, GovernedPod),
    /// It is not any more.
    PodGone(u32, String),
    /// A workload is configured no longer.
    Dismissed(u32),
    /// All that there is to govern is governed.
    Ready,
    /// The end; whether what waits is left to the next agent.
    Stop(bool),
}

/// What of the kernel a workload's sessions ask their guard about.
pub struct WorkloadTables {
    /// Where flows come from.
    pub flows: Arc<dyn FlowSource>,
    /// Where questions for names come from.
    pub datagrams: Arc<dyn DatagramSource>,
    /// The kernel's counters.
    pub counters: CounterReader,
    calls: Caller,
}

impl std::fmt::Debug for WorkloadTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadTables").finish_non_exhaustive()
    }
}

impl WorkloadTables {
    /// The kernel's rules.
    #[must_use]
    pub fn rules(&self) -> RuleTable {
        RuleTable::asking(self.calls.clone())
    }
}

/// The links of the service's proxy to its guard.
#[derive(Debug, Clone)]
pub struct ServiceLink {
    calls: Caller,
    events: Arc<Link>,
}

impl ServiceLink {
    /// Takes the links that a proxy was started with: its standard input and output, which lead nowhere afterwards.
    ///
    /// # Errors
    /// Where this process was not started as a proxy.
    pub fn inherited() -> io::Result<Self> {
        let (calls, events) = inherited()?;
        Ok(Self::over(calls, events))
    }

    /// Finds the guard at the socket where it waits for this process.
    ///
    /// # Errors
    /// Where it does not come, or does not let this process in.
    pub fn found_at(path: &Path) -> io::Result<Self> {
        let (calls, events) = find(path)?;
        Ok(Self::over(calls, events))
    }

    fn over(calls: Link, events: Link) -> Self {
        Self {
            calls: Caller::new(calls),
            events: Arc::new(events),
        }
    }

    /// Waits for what the guard hands over first.
    ///
    /// # Errors
    /// Where the guard ends or says something else.
    pub fn begin(&self) -> Result<Beginning, GuardError> {
        let (told, beside) = self.events.receive::<Told>(3).map_err(GuardError::Link)?;
        let unlike = || GuardError::Link(LinkError::NotAMessage);
        let Told::Begin {
            guard,
            uid,
            gid,
            file,
            control,
            health,
        } = told
        else {
            return Err(unlike());
        };
        let expected = 1 + usize::from(control) + usize::from(health.is_some());
        if beside.len() != expected {
            return Err(unlike());
        }
        let mut beside = beside.into_iter();
        let text = read(beside.next()).ok_or_else(unlike)?;
        let control = if control { beside.next() } else { None };
        let health = health.zip(beside.next()).map(|(kind, socket)| match kind {
            Kind::Tcp => Door::Tcp(socket.into()),
            Kind::Unix => Door::Unix(socket.into()),
        });
        Ok(Beginning {
            guard,
            user: (uid, gid),
            file: file.into(),
            text,
            control: control.map(Into::into),
            health,
        })
    }

    /// Opens files that the configuration names and this process may not open.
    pub fn opener(&self) -> impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static {
        let calls = self.calls.clone();
        move |path| calls.open(path)
    }

    /// Connects from a workload's network namespace.
    pub fn dialler(
        &self,
    ) -> impl Fn(NetnsCookie, SocketAddr) -> io::Result<std::net::TcpStream> + Send + Sync + 'static {
        let calls = self.calls.clone();
        move |from, to| calls.dial(from, to).map(Into::into)
    }

    /// What of the kernel a workload's sessions ask about.
    #[must_use]
    pub fn tables(&self, number: u32) -> WorkloadTables {
        let calls = self.calls.of(number);
        WorkloadTables {
            flows: Arc::new(calls.clone()),
            datagrams: Arc::new(calls.clone()),
            counters: CounterReader::asking(calls.clone()),
            calls,
        }
    }

    /// What the guard wants from now on. From then on the process ends with its guard.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn orders(&self) -> io::Result<mpsc::Receiver<ServiceOrder>> {
        let (orders, wanted) = mpsc::channel(WAITING);
        let link = Arc::clone(&self.events);
        std::thread::Builder::new().name("guard".into()).spawn(move || {
            Listening {
                orders,
                denials: BTreeMap::new(),
            }
            .run(&link);
            // Without its guard there is nothing to serve, and nobody who could say whom.
            std::process::exit(1);
        })?;
        Ok(wanted)
    }

    /// The configuration of this number is in force.
    pub fn accepted(&self, change: u32) {
        self.say(&Said::Accepted { change });
    }

    /// It is not.
    pub fn refused(&self, change: u32, reason: &str) {
        let reason = cut(reason);
        self.say(&Said::Refused { change, reason });
    }

    /// A workload's connections can be served.
    pub fn serving(&self, workload: u32) {
        self.say(&Said::Serving { workload });
    }

    /// They cannot.
    pub fn broken(&self, workload: u32, reason: &str) {
        let reason = cut(reason);
        self.say(&Said::Broken { workload, reason });
    }

    /// Its last session has ended.
    pub fn ended(&self, workload: u32) {
        self.say(&Said::Ended { workload });
    }

    /// The proxy cannot go on.
    pub fn failed(&self, reason: &str) {
        let message = cut(reason);
        self.say(&Said::Failed { message });
    }

    /// Somebody asked this process to stop.
    pub fn stopping(&self) {
        self.say(&Said::Stopping {});
    }

    /// The last record is on the disk.
    pub fn done(&self) {
        self.say(&Said::Done {});
    }

    fn say(&self, said: &Said) {
        if let Err(error) = self.events.send(said, &[], true) {
            tracing::error!(%error, "the guard was not told");
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
}

impl AsFd for ServiceLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn cut(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// A text that was handed over, from its beginning.
fn read(file: Option<OwnedFd>) -> Option<String> {
    let file = File::from(file?);
    let length = file.metadata().ok()?.len();
    if length > MAX_CONFIG {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes).ok()
}

/// Where denials of one workload go.
struct Denying {
    told: mpsc::Sender<Denial>,
    lost: Arc<AtomicU64>,
    /// Lost on this side, as they came faster than they were recorded.
    here: u64,
    there: u64,
}

struct Listening {
    orders: mpsc::Sender<ServiceOrder>,
    denials: BTreeMap<u32, Denying>,
}

impl Listening {
    /// Passes on what the guard says, until it ends.
    fn run(mut self, link: &Link) {
        while let Ok((told, beside)) = link.receive::<Told>(MAX_LISTENERS) {
            if let Told::Denied { workload, denial } = told {
                self.denied(workload, Denial::from(*denial));
                continue;
            }
            if let Told::Lost { workload, lost } = told {
                if let Some(denying) = self.denials.get_mut(&workload) {
                    denying.there = lost;
                    denying.count();
                }
                continue;
            }
            let Some(order) = self.order(told, beside) else {
                return;
            };
            if self.orders.blocking_send(order).is_err() {
                return;
            }
        }
    }

    /// One workload that is denied a lot does not hold up the others.
    fn denied(&mut self, workload: u32, denial: Denial) {
        if let Some(denying) = self.denials.get_mut(&workload)
            && denying.told.try_send(denial).is_err()
        {
            denying.here += 1;
            denying.count();
        }
    }

    fn order(&mut self, told: Told, beside: Vec<OwnedFd>) -> Option<ServiceOrder> {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Some(match told {
            Told::Change { change } => ServiceOrder::Change(change, read(beside.into_iter().next())?),
            Told::Wrong { reason } => ServiceOrder::Wrong(reason),
            Told::Started { attached } => ServiceOrder::Started(attached),
            Told::Workload {
                workload,
                name,
                attached,
            } => ServiceOrder::Workload {
                number: workload,
                name,
                attached,
                denials: self.denials_of(workload),
            },
            Told::Listen {
                workload,
                netns,
                listeners,
                names,
            } => listen(workload, netns, (listeners, names), beside)?,
            Told::Unlisten { workload, netns } => ServiceOrder::Unlisten(workload, NetnsCookie(netns)),
            Told::Governed {
                workload,
                cgroup,
                processes,
                closed,
            } => ServiceOrder::Governed(workload, cgroup, count(processes), count(closed)),
            Told::Released {
                workload,
                cgroup,
                reason,
            } => ServiceOrder::Released(workload, cgroup, reason),
            Told::Pod {
                workload,
                uid,
                namespace,
                name,
                service_account,
                directory,
                token,
            } => ServiceOrder::Pod(
                workload,
                GovernedPod {
                    uid,
                    namespace,
                    name,
                    service_account,
                    directory: directory.into(),
                    token: token.into(),
                },
            ),
            Told::PodGone { workload, uid } => ServiceOrder::PodGone(workload, uid),
            Told::Dismissed { workload } => {
                self.denials.remove(&workload);
                ServiceOrder::Dismissed(workload)
            }
            Told::Ready {} => ServiceOrder::Ready,
            Told::Stop { hand_over } => ServiceOrder::Stop(hand_over),
            // Out of turn.
            Told::Begin { .. } | Told::Denied { .. } | Told::Lost { .. } => return None,
        })
    }

    fn denials_of(&mut self, workload: u32) -> Denials {
        let (told, denials) = mpsc::channel(DENIALS);
        let lost = Arc::new(AtomicU64::new(0));
        let denying = Denying {
            told,
            lost: Arc::clone(&lost),
            here: 0,
            there: 0,
        };
        self.denials.insert(workload, denying);
        Denials::told(denials, lost)
    }
}

impl Denying {
    fn count(&self) {
        let all = self.here.saturating_add(self.there);
        self.lost.store(all, Ordering::Relaxed);
    }
}

fn listen(
    number: u32,
    netns: u64,
    (listeners, names): (Vec<SocketAddr>, Vec<SocketAddr>),
    mut sockets: Vec<OwnedFd>,
) -> Option<ServiceOrder> {
    if sockets.len() != listeners.len() + names.len() {
        return None;
    }
    let for_names = sockets.split_off(listeners.len());
    let addresses = |all: Vec<SocketAddr>| all.into_iter().map(ListenerAddr);
    Some(ServiceOrder::Listen {
        number,
        netns: NetnsCookie(netns),
        listeners: sockets
            .into_iter()
            .map(Into::into)
            .zip(addresses(listeners))
            .collect(),
        names: for_names
            .into_iter()
            .map(Into::into)
            .zip(addresses(names))
            .collect(),
    })
}
