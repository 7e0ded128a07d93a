//! What a proxy may ask its guard, and what it gets: flows of connections that it shows, files that the configuration names,
//! counters, more addresses to be redirected, and sockets in the network namespaces of workloads.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::config::NetworkRule;
use crate::model::{FlowKey, ListenerAddr, NetnsCookie, OriginalDst, PeerAddr};

use super::counters::CounterMap;
use super::datagrams::DatagramTable;
use super::error::GuardError;
use super::flow::{DatagramSource as _, Flow, FlowSource as _};
use super::link::{Answer, Ask, Link, LinkError, MAX_ADDRESSES};
use super::rules::{MAX_RULES, RuleTable};
use super::server::Allowed;
use super::sys;
use super::table::FlowTable;
use super::workload::Namespace;

/// Destinations of one workload that may be dialled from inside; of more, the one that was meant longest ago is forgotten.
const MAX_MEANT: usize = 4096;

/// Where governed processes wanted to connect to, in which namespace: from there it may be dialled.
#[derive(Debug, Default)]
struct Meant {
    at: BTreeMap<(NetnsCookie, SocketAddr), u64>,
    now: u64,
}

impl Meant {
    fn note(&mut self, namespace: NetnsCookie, destination: SocketAddr) {
        self.now += 1;
        let key = (namespace, canonical(destination));
        if self.at.len() >= MAX_MEANT && !self.at.contains_key(&key) {
            let oldest = self.at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.map(|key| self.at.remove(&key));
        }
        self.at.insert(key, self.now);
    }

    fn contains(&self, namespace: NetnsCookie, destination: SocketAddr) -> bool {
        self.at.contains_key(&(namespace, canonical(destination)))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What of one workload's part of the kernel the proxy may ask about.
pub(super) struct Served {
    flows: Arc<FlowTable>,
    datagrams: Arc<DatagramTable>,
    counters: Arc<CounterMap>,
    rules: RuleTable,
    networks: Vec<NetworkRule>,
    /// Addresses of targets that this process knows by itself, and all that it was ever told.
    targets: BTreeSet<SocketAddr>,
    coming: BTreeSet<SocketAddr>,
    /// Networks that the kernel does not know yet.
    renewed: bool,
    /// Namespaces to dial from; none where targets are dialled from the host's.
    ways: Option<(BTreeMap<NetnsCookie, Arc<Namespace>>, Meant)>,
}

impl Served {
    /// With the networks of the configuration, and the targets' addresses that are known without the proxy.
    pub(super) fn new(
        flows: Arc<FlowTable>,
        datagrams: Arc<DatagramTable>,
        counters: Arc<CounterMap>,
        rules: RuleTable,
        (networks, targets): (Vec<NetworkRule>, BTreeSet<SocketAddr>),
    ) -> Self {
        Self {
            flows,
            datagrams,
            counters,
            rules,
            networks,
            targets,
            coming: BTreeSet::new(),
            renewed: true,
            ways: None,
        }
    }

    fn flow(&mut self, socket: &OwnedFd, told: SocketAddr) -> Option<Answer> {
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
        let flow = self.flows.take(&key, socket.as_fd())?;
        if let Some((_, meant)) = &mut self.ways {
            let Flow {
                original: OriginalDst(original),
                ..
            } = &flow;
            meant.note(netns, *original);
        }
        Some(flow.into())
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
        if more {
            return Answer::Done {};
        }
        let coming = std::mem::take(&mut self.coming);
        let all: BTreeSet<SocketAddr> = self.targets.union(&coming).copied().collect();
        match self.load(&all) {
            Ok(()) => {
                self.targets = all;
                Answer::Done {}
            }
            Err(error) => refused(error.to_string()),
        }
    }

    fn load(&mut self, targets: &BTreeSet<SocketAddr>) -> Result<(), GuardError> {
        let list: Vec<SocketAddr> = targets.iter().copied().collect();
        // Without networks there is nothing to be an exception of.
        let list = if self.networks.is_empty() {
            &[]
        } else {
            list.as_slice()
        };
        self.rules.replace(&self.networks, list)?;
        self.renewed = false;
        Ok(())
    }
}

/// Everything that a proxy may ask about.
pub(super) struct Tables {
    allowed: RwLock<Vec<Arc<Allowed>>>,
    /// Tokens of governed pods, by workload and uid.
    tokens: RwLock<BTreeMap<(u32, String), PathBuf>>,
    workloads: Mutex<BTreeMap<u32, Served>>,
}

impl Tables {
    /// Files only, until a workload is served.
    pub(super) fn allowing(allowed: Allowed) -> Self {
        Self {
            allowed: RwLock::new(vec![Arc::new(allowed)]),
            tokens: RwLock::default(),
            workloads: Mutex::default(),
        }
    }

    /// Whatever one of these names may be opened from now on, and nothing else.
    pub(super) fn allow(&self, allowed: Vec<Arc<Allowed>>) {
        *self.allowed.write().unwrap_or_else(PoisonError::into_inner) = allowed;
    }

    /// The token of a governed pod may be opened from now on; `None`: not any more.
    pub(super) fn allow_token(&self, workload: u32, uid: &str, token: Option<PathBuf>) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let key = (workload, uid.to_owned());
        match token {
            Some(path) => tokens.insert(key, path),
            None => tokens.remove(&key),
        };
    }

    /// Answers for a workload from now on.
    pub(super) fn serve(&self, workload: u32, served: Served) {
        self.lock().insert(workload, served);
    }

    /// Nothing is answered for it any more.
    pub(super) fn forget(&self, workload: u32) {
        self.lock().remove(&workload);
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|(of, _), _| *of != workload);
    }

    /// Other networks, and targets that are known without the proxy. The kernel learns of them with the proxy's next word
    /// about targets, or with [`Tables::enforce`].
    pub(super) fn renew(&self, networks: &[NetworkRule], targets: &BTreeSet<SocketAddr>) {
        for served in self.lock().values_mut() {
            networks.clone_into(&mut served.networks);
            served.targets.extend(targets);
            served.coming.clear();
            served.renewed = true;
        }
    }

    /// Whatever the proxy did not ask for is in force now.
    pub(super) fn enforce(&self) {
        for served in self.lock().values_mut().filter(|served| served.renewed) {
            let all = served.targets.clone();
            if let Err(error) = served.load(&all) {
                tracing::error!(%error, "the kernel's rules stay as they were");
            }
        }
    }

    /// Whether the workload's targets are dialled from the namespaces of its processes.
    pub(super) fn dial_from_inside(&self, workload: u32, inside: bool) {
        if let Some(served) = self.lock().get_mut(&workload)
            && served.ways.is_some() != inside
        {
            served.ways = inside.then(Default::default);
        }
    }

    /// Namespaces of its processes, in the place of those before.
    pub(super) fn namespaces(&self, workload: u32, all: impl Iterator<Item = Arc<Namespace>>) {
        let mut workloads = self.lock();
        let ways = workloads.get_mut(&workload).and_then(|s| s.ways.as_mut());
        if let Some((namespaces, meant)) = ways {
            *namespaces = all.map(|namespace| (namespace.cookie(), namespace)).collect();
            meant.at.retain(|(cookie, _), _| namespaces.contains_key(cookie));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Served>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let allowed = self
            .allowed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let is_token = tokens.values().any(|token| token == path);
        drop(tokens);
        if is_token {
            return Allowed::token(path).open(path);
        }
        let mut result = Err(io::ErrorKind::PermissionDenied.into());
        for one in allowed {
            result = one.open(path);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// A socket that connects to `address` from the namespace, where a process there wanted to connect to it.
    fn dial(&self, from: NetnsCookie, address: SocketAddr) -> io::Result<OwnedFd> {
        let namespace = self.lock().values().find_map(|served| {
            let (namespaces, meant) = served.ways.as_ref()?;
            let namespace = namespaces.get(&from)?;
            meant.contains(from, address).then(|| Arc::clone(namespace))
        });
        let namespace = namespace.ok_or(io::ErrorKind::PermissionDenied)?;
        let socket = namespace.socket(socket2::Domain::for_address(address))?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            Ok(()) | Err(_) => Ok(socket.into()),
        }
    }

    fn answer(&self, ask: Ask, socket: Option<&OwnedFd>) -> (Answer, Option<OwnedFd>) {
        let mut file = None;
        let not_yet = || Answer::Refused {
            reason: "the hooks are not attached yet".into(),
        };
        let opened = |result: io::Result<OwnedFd>, file: &mut Option<OwnedFd>, done| match result {
            Ok(descriptor) => {
                *file = Some(descriptor);
                done
            }
            Err(error) => Answer::NotOpened {
                errno: error.raw_os_error().unwrap_or(libc::EACCES),
            },
        };
        let answer = match ask {
            Ask::Flow { workload, peer } => {
                let mut all = self.lock();
                let known = socket.and_then(|socket| all.get_mut(&workload)?.flow(socket, peer));
                known.unwrap_or(Answer::NoFlow {})
            }
            Ask::Datagram { workload, peer, id } => {
                let all = self.lock();
                let known = socket.and_then(|socket| all.get(&workload)?.datagram(socket, peer, id));
                known.unwrap_or(Answer::NoFlow {})
            }
            Ask::Open { path } => opened(self.open(Path::new(&path)), &mut file, Answer::Opened {}),
            Ask::Dial { netns, address } => {
                let dialled = self.dial(NetnsCookie(netns), address);
                opened(dialled, &mut file, Answer::Dialled {})
            }
            Ask::Counters { workload } => {
                let counters = self.lock().get(&workload).map(|served| served.counters.all());
                match counters {
                    Some(Ok(counters)) => counters.into(),
                    Some(Err(error)) => Answer::Refused {
                        reason: error.to_string(),
                    },
                    None => not_yet(),
                }
            }
            Ask::Targets {
                workload,
                addresses,
                more,
            } => {
                let mut all = self.lock();
                all.get_mut(&workload)
                    .map_or_else(not_yet, |served| served.targets(addresses, more))
            }
        };
        (answer, file)
    }
}

/// Answers what the proxy asks, until it ends or says something that is no question.
pub(super) fn answer(link: &Link, tables: &Tables) -> LinkError {
    loop {
        let (ask, beside) = match link.receive::<Ask>(1) {
            Ok(got) => got,
            Err(error) => return error,
        };
        let (answer, file) = tables.answer(ask, beside.first());
        let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        if let Err(error) = link.send(&answer, &files, true) {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_remembered_by_namespace_and_the_oldest_is_forgotten() {
        let mut meant = Meant::default();
        let (one, other) = (NetnsCookie(1), NetnsCookie(2));
        let address = |port: u16| SocketAddr::from(([10, 0, 0, 7], port));
        meant.note(one, "[::ffff:10.0.0.7]:5432".parse().expect("address"));
        assert!(meant.contains(one, address(5432)));
        assert!(!meant.contains(other, address(5432)) && !meant.contains(one, address(5433)));
        for port in 0..u16::try_from(MAX_MEANT).expect("small") {
            meant.note(other, address(port));
        }
        assert!(!meant.contains(one, address(5432)) && meant.contains(other, address(0)));
        assert_eq!(meant.at.len(), MAX_MEANT);
    }
}
