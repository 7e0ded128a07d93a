//! The guard of a workload that the agent did not start: one set of programs and tables, attached to any number of cgroups.
//!
//! Everything is pinned below `interdict/serve-AGENT/WORKLOAD/OBJECT/` in bpffs: tables in `maps`, links in `links/CGROUP`.
//! An agent that starts again takes the tables over and lets the links be: programs, tables and what waits in them stay. One
//! with another kernel object attaches its own first, which deny until the old ones are gone.

mod namespace;
mod older;
mod processes;
mod tree;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap as KernelMap, Map, MapData};
use interdict_ebpf::{Listener, Rule, RuleKey, State};

use crate::config::{InboundRule, NetworkRule};
use crate::model::{Digest, NetnsCookie, WorkloadName};
use crate::task::Task;

use super::answers::Served;
use super::attach::HOOKS;
use super::btf::Types;
use super::counters::CounterMap;
use super::datagrams::{self, DatagramTable};
use super::denials::Denials;
use super::error::GuardError;
use super::heartbeat;
use super::hooks::{Features, load, map_error, take};
use super::object::OBJECT;
use super::pins::{self, bpffs};
use super::process::kernel_address;
use super::rules::{self, RuleTable};
use super::service::ServiceProxy;
use super::supervise::{self, Tell};
use super::table::{FlowTable, sweep};

pub use namespace::{Namespace, NamespaceId, NamespaceListeners};
pub use older::{close_older, count_older};
pub use processes::{Seen, holds_cgroup, processes, processes_below};
pub use tree::{CgroupTree, TreeEvent, cgroup_of_self};

/// How many characters of the object's digest name its directory.
const VERSION: usize = 16;
/// How long the hooks are told to wait for an agent that comes back, in nanoseconds, beyond the three seconds of a heartbeat.
const COMES_BACK_NS: u64 = 10_000_000_000;

/// The pins of one serving agent.
#[derive(Debug, Clone)]
pub struct AgentPins {
    directory: PathBuf,
}

impl AgentPins {
    /// Those of the agent whose state lives in `state_dir`.
    ///
    /// # Errors
    /// Where there is no bpffs.
    pub fn of(state_dir: &Path) -> Result<Self, GuardError> {
        let id = Digest::of(state_dir.as_os_str().as_encoded_bytes()).to_string();
        let id = id.get(..12).unwrap_or_default().to_owned();
        let directory = bpffs()?.join("interdict").join(format!("serve-{id}"));
        Ok(Self { directory })
    }

    /// Workloads that an agent before has left guarded.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadName> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.map(WorkloadName::new).collect()
    }

    /// Takes away the guard of a workload: its processes are ungoverned afterwards.
    pub fn release(&self, workload: &WorkloadName) {
        pins::remove_tree(&self.directory.join(workload.as_str()));
        let _others_are_left = fs::remove_dir(&self.directory);
    }
}

/// A workload's programs and tables.
pub struct WorkloadGuard {
    hooks: Ebpf,
    place: PathBuf,
    // Of another kernel object: what they guard is handed over cgroup by cgroup.
    older: Vec<PathBuf>,
    state: Option<Array<MapData, State>>,
    heartbeat: Option<Task<()>>,
    _sweeps: [Task<()>; 2],
    counters: Arc<CounterMap>,
    flows: Arc<FlowTable>,
    datagrams: Arc<DatagramTable>,
    inbound: LpmTrie<MapData, RuleKey, Rule>,
    listeners: KernelMap<MapData, u64, Listener>,
    denials: Option<Denials>,
    // Nobody stops system calls here; the stream of denials waits for whoever could.
    _tell: Tell,
    features: Features,
}

impl std::fmt::Debug for WorkloadGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadGuard")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl WorkloadGuard {
    /// Loads the programs, with the tables of an agent before where it left some. Nothing is attached that was not before,
    /// and without [`WorkloadGuard::live`] everything is denied. Of questions to servers of
    /// names, each of the first four `resolvers` has a port of its own.
    ///
    /// # Errors
    /// Where the kernel refuses anything that the guard depends on.
    pub fn open(
        agent: &AgentPins,
        workload: &WorkloadName,
        resolvers: &[SocketAddr],
    ) -> Result<Self, GuardError> {
        if !rustix::process::geteuid().is_root() {
            return Err(GuardError::NotRoot);
        }
        let version = Digest::of(OBJECT).to_string();
        let version = version.get(..VERSION).unwrap_or_default();
        let home = agent.directory.join(workload.as_str());
        let place = home.join(version);
        let maps = place.join("maps");
        for directory in [&maps, &place.join("links")] {
            fs::create_dir_all(directory).map_err(GuardError::kernel("cannot make", directory))?;
        }
        let older = directories(&home).filter(|dir| *dir != place).collect();
        let kept = pinned(&maps);
        let mut features = Features::standing();
        let types = Types::read();
        let mut hooks = load(&mut features, &types, &kept)?;
        pin_new(&hooks, &maps, &kept)?;
        let mut resolver_map: KernelMap<_, interdict_ebpf::Address, u8> = take(&mut hooks, "RESOLVERS")?;
        let stale: Vec<_> = resolver_map.keys().flatten().collect();
        for (number, resolver) in (0..16).zip(resolvers) {
            resolver_map
                .insert(kernel_address(*resolver), number, 0)
                .map_err(|e| map_error("RESOLVERS", &e))?;
        }
        for old in stale {
            if !resolvers.iter().any(|resolver| kernel_address(*resolver) == old) {
                let _gone = resolver_map.remove(&old);
            }
        }
        let counters = Arc::new(CounterMap::new(take(&mut hooks, "COUNTERS")?));
        let flows = Arc::new(FlowTable::new(take(&mut hooks, "FLOWS")?));
        let datagrams = Arc::new(DatagramTable::new(take(&mut hooks, "DATAGRAMS")?));
        let inbound = take(&mut hooks, "INBOUND")?;
        let (tell, stopped) = supervise::channel();
        let denials = Denials::new(take(&mut hooks, "DENIALS")?, Arc::clone(&counters), stopped, None);
        let denials = denials.map_err(|source| GuardError::Map {
            map: "DENIALS",
            reason: source.to_string(),
        })?;
        let listeners = take(&mut hooks, "LISTENERS")?;
        let state: Array<_, State> = take(&mut hooks, "STATE")?;
        for hook in HOOKS.iter().filter(|hook| hook.is_of_cgroup()) {
            match hook.load(&mut hooks, &types) {
                Ok(()) => features.attached.push(hook.name.into()),
                Err(error) if hook.required => return Err(error),
                Err(error) => features
                    .missing
                    .push((hook.name.into(), format!("{}: {error}", hook.without))),
            }
        }
        Ok(Self {
            hooks,
            place,
            older,
            state: Some(state),
            heartbeat: None,
            _sweeps: [
                crate::task::spawn("sweep flows", sweep(Arc::clone(&flows))),
                crate::task::spawn("sweep datagrams", datagrams::sweep(Arc::clone(&datagrams))),
            ],
            counters,
            flows,
            datagrams,
            inbound,
            listeners,
            denials: Some(denials),
            _tell: tell,
            features,
        })
    }

    /// Tells the hooks from now on that the agent is alive, for as long as `proxy` is. Where it does not listen any more
    /// must have been said before.
    pub fn live(&mut self, proxy: &ServiceProxy) {
        if let Some(state) = self.state.take() {
            let beating = heartbeat::beat(state, proxy.pulse());
            self.heartbeat = Some(crate::task::spawn("heartbeat", beating));
        }
    }

    /// The hooks deny from now on: there is no proxy any more.
    pub fn close(&mut self) {
        self.heartbeat = None;
        self.beat_once(0);
    }

    /// What the proxy may ask about it.
    pub(super) fn served(
        &self,
        networks: &[NetworkRule],
        targets: BTreeSet<SocketAddr>,
    ) -> Result<Served, GuardError> {
        let tables = (Arc::clone(&self.flows), Arc::clone(&self.datagrams));
        Ok(Served::new(
            tables.0,
            tables.1,
            Arc::clone(&self.counters),
            self.rules()?,
            (networks.to_vec(), targets),
        ))
    }

    /// Attaches every hook to the cgroup in `directory`, where it is not yet; then what another kernel object has there
    /// goes. Whether the cgroup was not wholly guarded before. Without `backstop`, packets are not looked at: connections
    /// that are older than the guard can go on.
    ///
    /// # Errors
    /// Where a hook is refused that the guard depends on. Those that were taken stay: less is open than before.
    pub fn attach(&mut self, directory: &Path, backstop: bool) -> Result<bool, GuardError> {
        let failed = || GuardError::kernel("cannot open the cgroup", directory);
        let cgroup = File::open(directory).map_err(failed())?;
        let id = cgroup.metadata().map_err(failed())?.ino().to_string();
        let links = self.place.join("links").join(&id);
        fs::create_dir_all(&links).map_err(GuardError::kernel("cannot make", &links))?;
        let mut new = false;
        for hook in HOOKS.iter().filter(|hook| hook.is_of_cgroup()) {
            let pin = links.join(hook.name);
            let wanted = backstop || !hook.is_backstop();
            if !wanted || pin.exists() || !self.features.attached.iter().any(|name| name == hook.name) {
                continue;
            }
            hook.link(&mut self.hooks, cgroup.as_fd(), Some(&pin))?;
            new = true;
        }
        for older in &self.older {
            let links = older.join("links").join(&id);
            new &= !links.exists();
            pins::remove_tree(&links);
        }
        Ok(new)
    }

    /// Detaches the hooks from a cgroup: whatever is in it is ungoverned afterwards.
    pub fn detach(&mut self, cgroup: u64) {
        for version in self.older.iter().chain([&self.place]) {
            pins::remove_tree(&version.join("links").join(cgroup.to_string()));
        }
    }

    /// The ids of cgroups that hooks are or were attached to, also by an agent before.
    #[must_use]
    pub fn attached(&self) -> Vec<u64> {
        let versions = self.older.iter().chain([&self.place]);
        let links = versions.flat_map(|version| directories(&version.join("links")));
        let mut ids: Vec<u64> = links
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Everything that an agent with another kernel object left goes. Call it when every cgroup was attached anew.
    pub fn finish_upgrade(&mut self) {
        for older in std::mem::take(&mut self.older) {
            tracing::info!(path = %older.display(), "another kernel object's programs and tables go");
            pins::remove_tree(&older);
        }
    }

    /// Tells the hooks where the agent listens in a namespace: from now on they redirect there.
    ///
    /// # Errors
    /// Where the table is full: connections there stay denied.
    pub fn listen(&mut self, listeners: &NamespaceListeners) -> Result<(), GuardError> {
        let NetnsCookie(cookie) = listeners.cookie();
        self.listeners
            .insert(cookie, listeners.entry(), 0)
            .map_err(|e| map_error("LISTENERS", &e))
    }

    /// Namespaces that hooks redirect in.
    #[must_use]
    pub fn listened(&self) -> Vec<NetnsCookie> {
        self.listeners.keys().flatten().map(NetnsCookie).collect()
    }

    /// The hooks deny in that namespace from now on.
    pub fn unlisten(&mut self, NetnsCookie(cookie): NetnsCookie) {
        if let Err(error) = self.listeners.remove(&cookie) {
            tracing::debug!(%error, cookie, "the namespace was not listened in");
        }
    }

    /// Lets these connect to governed processes from outside, and nobody else.
    ///
    /// # Errors
    /// Where the kernel's table is full.
    pub fn allow_inbound(&mut self, allowed: &[InboundRule]) -> Result<(), GuardError> {
        rules::allow_inbound(&mut self.inbound, allowed)
    }

    /// The stream of denials, once.
    pub fn take_denials(&mut self) -> Option<Denials> {
        self.denials.take()
    }

    /// The kernel's table of rules, with what is in it. Only one at a time may be changed.
    fn rules(&self) -> Result<RuleTable, GuardError> {
        let failed = |e| map_error("RULES", &e);
        let map = MapData::from_pin(self.place.join("maps/RULES")).map_err(failed)?;
        let map = LpmTrie::try_from(Map::LpmTrie(map)).map_err(failed)?;
        Ok(RuleTable::adopted(map))
    }

    /// What is attached, and what is missing.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// Ends this agent's part; the hooks stay, and deny from three seconds on. With `comes_back`, they go on to redirect for
    /// ten seconds more: the listeners are kept by somebody, and the next agent accepts what waits.
    pub fn leave(mut self, comes_back: bool) {
        // Else the heartbeat would overwrite it.
        self.heartbeat = None;
        if comes_back {
            self.beat_once(heartbeat::now().saturating_add(COMES_BACK_NS));
        }
    }

    fn beat_once(&self, heartbeat_ns: u64) {
        let state = MapData::from_pin(self.place.join("maps/STATE"))
            .map_err(|e| map_error("STATE", &e))
            .and_then(|map| {
                let mut state: Array<_, State> =
                    Map::Array(map).try_into().map_err(|e| map_error("STATE", &e))?;
                state
                    .set(0, State { heartbeat_ns }, 0)
                    .map_err(|e| map_error("STATE", &e))
            });
        if let Err(error) = state {
            tracing::warn!(%error, "the hooks deny in three seconds unless the agent is back by then");
        }
    }
}

/// Pinned tables, by name.
fn pinned(maps: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(maps).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    entries.filter_map(named).collect()
}

/// Pins what is not pinned yet; those whose name begins with a dot hold constants and belong to their program.
fn pin_new(hooks: &Ebpf, maps: &Path, kept: &[(String, PathBuf)]) -> Result<(), GuardError> {
    for (name, map) in hooks.maps() {
        if name.starts_with('.') || kept.iter().any(|(known, _)| known == name) {
            continue;
        }
        map.pin(maps.join(name)).map_err(|error| GuardError::Kernel {
            what: "cannot pin the table",
            path: maps.join(name),
            source: std::io::Error::other(error),
        })?;
    }
    Ok(())
}

fn directories(parent: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}
