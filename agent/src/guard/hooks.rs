//! Loading the hooks, attaching them to one cgroup, and keeping them alive.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap as KernelMap, MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use interdict_ebpf::{Listener, Rule, RuleKey, State};

use crate::config::InboundRule;
use crate::model::{ListenerAddr, NetnsCookie};
use crate::task::Task;

use super::attach::{HOOKS, HookState};
use super::btf::Types;
use super::cgroup::RunCgroup;
use super::counters::{CounterMap, CounterReader, Counters};
use super::datagrams::{self, DatagramTable};
use super::denials::Denials;
use super::error::GuardError;
use super::flow::{DatagramSource, FlowSource};
use super::heartbeat;
use super::listeners::Listeners;
use super::lsm::{self, Lsm, LsmDenials};
use super::object::OBJECT;
use super::pins::Pins;
use super::process::kernel_address;
use super::rules::{self, RuleTable};
use super::supervise::{self, Tell};
use super::table::{FlowTable, sweep};

/// What is attached, and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Attached hooks.
    pub attached: Vec<String>,
    /// Hooks that this kernel does not take, with what is lost by it.
    pub missing: Vec<(String, String)>,
    /// What a process can do although everything is attached, and what closes it, for people who decide whether that is
    /// enough.
    pub open: Vec<(&'static str, &'static str)>,
}

impl Features {
    /// Before anything is attached.
    pub(super) fn standing() -> Self {
        Self {
            open: OPEN.iter().map(|open| (open.what, open.closes)).collect(),
            ..Self::default()
        }
    }

    /// Notes what became of an optional hook.
    fn note(&mut self, state: HookState) {
        match state.taken {
            Ok(()) => self.attached.push(state.name.into()),
            Err(error) => self
                .missing
                .push((state.name.into(), format!("{}: {error}", state.without))),
        }
    }

    /// Leaves out what is not open because of hooks that are attached.
    pub(super) fn close(&mut self, is_attached: impl Fn(&str) -> bool) {
        self.open.retain(|(what, _)| {
            let Some(open) = OPEN.iter().find(|open| open.what == *what) else {
                return true;
            };
            open.lsm.is_empty() || !open.lsm.iter().all(|hook| is_attached(hook))
        });
    }
}

/// Something that neither a cgroup hook nor the system call filter sees.
struct Open {
    what: &'static str,
    /// What to do about it.
    closes: &'static str,
    /// The hooks of BPF LSM that close it; none: they do not.
    lsm: &'static [&'static str],
}

const OPEN: [Open; 3] = [
    Open {
        what: "it can talk to a local daemon over a Unix socket that is not hidden from it",
        closes: "boot with bpf in the kernel's list of LSMs, or name the socket in `hide` of [unix] (those of the usual daemons are hidden already)",
        lsm: &["on_unix_stream_connect", "on_unix_may_send"],
    },
    Open {
        what: "it can use a connected socket that an ungoverned process hands to it",
        closes: "boot with bpf in the kernel's list of LSMs, or give it a user of its own, whom no free process serves",
        lsm: &["on_file_receive"],
    },
    Open {
        what: "as root it can change what free processes do (cron, units of systemd, libraries that they load)",
        closes: "run it as another user (--user)",
        lsm: &[],
    },
];

/// What a hook has cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Its name.
    pub hook: String,
    /// How often it ran.
    pub calls: u64,
    /// How long, in all.
    pub time: std::time::Duration,
}

/// Has the kernel measure every program (`BPF_ENABLE_STATS`) until the descriptor is closed.
///
/// # Errors
/// Where it may not be asked.
pub fn count_costs() -> Result<std::os::fd::OwnedFd, GuardError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| GuardError::Object(chain(&error)))
}

/// The attached hooks. Dropping it detaches them: end the processes of the cgroup first.
pub struct Guard {
    // Keeps the programs and what no other field holds of the maps.
    hooks: Ebpf,
    lsm: Option<Lsm>,
    // The links: they stay when the agent dies, and go when this is dropped.
    pins: Pins,
    _heartbeat: Task<()>,
    pulse: Arc<AtomicU64>,
    _sweeps: [Task<()>; 2],
    counters: Arc<CounterMap>,
    labels: KernelMap<MapData, u32, u32>,
    flows: Arc<FlowTable>,
    datagrams: Arc<DatagramTable>,
    resolvers: Vec<SocketAddr>,
    inbound: LpmTrie<MapData, RuleKey, Rule>,
    denials: Option<Denials>,
    tell: Tell,
    rules: Option<RuleTable>,
    listeners: Option<Listeners>,
    netns: NetnsCookie,
    features: Features,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("netns", &self.netns)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Loads the hooks, opens the listeners, attaches everything to `cgroup` and starts the heartbeat.
    /// Of questions to servers of names, each of the first four `resolvers` has a port of its own.
    ///
    /// # Errors
    /// Where anything that the guard depends on is refused by the kernel: then nothing must be started in the cgroup.
    pub fn attach(cgroup: &RunCgroup, resolvers: &[SocketAddr]) -> Result<Self, GuardError> {
        if !rustix::process::geteuid().is_root() {
            return Err(GuardError::NotRoot);
        }
        let listeners = Listeners::open()?;
        let mut features = Features::standing();
        let types = Types::read();
        let mut hooks = load(&mut features, &types, &[])?;
        let mut map: KernelMap<_, u64, Listener> = take(&mut hooks, "LISTENERS")?;
        map.insert(listeners.netns.0, listeners.entry(), 0)
            .map_err(|e| map_error("LISTENERS", &e))?;
        let mut map: KernelMap<_, interdict_ebpf::Address, u8> = take(&mut hooks, "RESOLVERS")?;
        for (number, resolver) in (0..16).zip(resolvers) {
            map.insert(kernel_address(*resolver), number, 0)
                .map_err(|e| map_error("RESOLVERS", &e))?;
        }
        let labels = take(&mut hooks, "LABELS")?;
        let rules = Some(RuleTable::new(take(&mut hooks, "RULES")?));
        let counters = Arc::new(CounterMap::new(take(&mut hooks, "COUNTERS")?));
        let flows = Arc::new(FlowTable::new(take(&mut hooks, "FLOWS")?));
        let datagrams = Arc::new(DatagramTable::new(take(&mut hooks, "DATAGRAMS")?));
        let inbound = take(&mut hooks, "INBOUND")?;
        let ring: RingBuf<MapData> = take(&mut hooks, "DENIALS")?;
        let (tell, stopped) = supervise::channel();
        let pins = Pins::create(cgroup.name())?;
        for hook in &HOOKS {
            match hook.attach(
                &mut hooks,
                &types,
                cgroup.directory(),
                Some(&pins.path(hook.name)),
            ) {
                Ok(()) => features.attached.push(hook.name.into()),
                Err(error) if hook.required => return Err(error),
                Err(error) => features
                    .missing
                    .push((hook.name.into(), format!("{}: {error}", hook.without))),
            }
        }
        let (lsm, told) = beyond(cgroup, &pins, &types, &mut features)?;
        let denials =
            Denials::new(ring, Arc::clone(&counters), stopped, told).map_err(|source| GuardError::Map {
                map: "DENIALS",
                reason: source.to_string(),
            })?;
        let state: Array<_, State> = take(&mut hooks, "STATE")?;
        let pulse = heartbeat::alone();
        let heartbeat = crate::task::spawn("heartbeat", heartbeat::beat(state, Arc::clone(&pulse)));
        let sweeps = [
            crate::task::spawn("sweep flows", sweep(Arc::clone(&flows))),
            crate::task::spawn("sweep datagrams", datagrams::sweep(Arc::clone(&datagrams))),
        ];
        let netns = listeners.netns;
        Ok(Self {
            hooks,
            lsm,
            pins,
            _heartbeat: heartbeat,
            pulse,
            _sweeps: sweeps,
            counters,
            labels,
            flows,
            datagrams,
            resolvers: resolvers.to_vec(),
            inbound,
            denials: Some(denials),
            tell,
            rules,
            listeners: Some(listeners),
            netns,
            features,
        })
    }

    /// The listeners, once.
    pub fn take_listeners(&mut self) -> Vec<(std::net::TcpListener, ListenerAddr)> {
        let listeners = self.listeners.as_mut();
        listeners
            .map(|l| std::mem::take(&mut l.sockets))
            .unwrap_or_default()
    }

    /// The sockets for questions to servers of names, once.
    pub fn take_dns(&mut self) -> Vec<(std::net::UdpSocket, ListenerAddr)> {
        let listeners = self.listeners.as_mut();
        listeners.map(|l| std::mem::take(&mut l.dns)).unwrap_or_default()
    }

    /// Lets somebody outside connect to governed processes.
    ///
    /// # Errors
    /// Where the kernel's table is full.
    pub fn allow_inbound(&mut self, rules: &[InboundRule]) -> Result<(), GuardError> {
        rules::allow_inbound(&mut self.inbound, rules)
    }

    /// The namespace that the listeners live in.
    #[must_use]
    pub const fn netns(&self) -> NetnsCookie {
        self.netns
    }

    /// Labels a process; its children inherit the label.
    ///
    /// # Errors
    /// Where the table is full.
    pub fn label(&mut self, tgid: u32, label: u32) -> Result<(), GuardError> {
        self.labels
            .insert(tgid, label, 0)
            .map_err(|e| map_error("LABELS", &e))
    }

    /// The label of a process, where it has one.
    #[must_use]
    pub fn label_of(&self, tgid: u32) -> Option<u32> {
        self.labels.get(&tgid, 0).ok()
    }

    /// Lets the processes use Unix sockets of others: the path that the daemon bound, or `@name` for an abstract one.
    /// Without BPF LSM nobody is kept from any.
    ///
    /// # Errors
    /// Where the table is full.
    pub fn allow_unix(&mut self, names: &[String]) -> Result<(), GuardError> {
        self.lsm.as_mut().map_or(Ok(()), |lsm| lsm.allow(names))
    }

    /// The table of flows.
    #[must_use]
    pub fn flows(&self) -> Arc<dyn FlowSource> {
        Arc::clone(&self.flows) as Arc<dyn FlowSource>
    }

    /// The host's own servers of names.
    pub(super) fn resolvers(&self) -> &[SocketAddr] {
        &self.resolvers
    }

    pub(super) fn datagram_table(&self) -> Arc<DatagramTable> {
        Arc::clone(&self.datagrams)
    }

    /// The table of questions to servers of names.
    #[must_use]
    pub fn datagrams(&self) -> Arc<dyn DatagramSource> {
        Arc::clone(&self.datagrams) as Arc<dyn DatagramSource>
    }

    /// How many flows have not been taken.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// What the hooks have counted.
    ///
    /// # Errors
    /// Where the kernel's table cannot be read.
    pub fn counters(&self) -> Result<Counters, GuardError> {
        self.counters.all()
    }

    pub(super) fn flow_table(&self) -> Arc<FlowTable> {
        Arc::clone(&self.flows)
    }

    pub(super) fn counter_map(&self) -> Arc<CounterMap> {
        Arc::clone(&self.counters)
    }

    /// When the proxy was last known to be alive, as [`heartbeat::beat`] reads it; from now on that counts.
    pub(super) fn pulse(&self) -> Arc<AtomicU64> {
        self.pulse
            .store(heartbeat::now(), std::sync::atomic::Ordering::Relaxed);
        Arc::clone(&self.pulse)
    }

    /// Leaves the hooks attached when this is dropped: processes that have no agent any more stay denied, and the next
    /// agent takes the hooks away when the last of them has ended.
    pub fn leave(mut self) {
        self.pins.leave();
    }

    /// Where the filter's denials go.
    pub(super) fn tell(&self) -> Tell {
        self.tell.clone()
    }

    /// Reads them from elsewhere.
    #[must_use]
    pub fn counter_reader(&self) -> CounterReader {
        CounterReader::own(self.counter_map())
    }

    /// The stream of denials, once.
    pub fn take_denials(&mut self) -> Option<Denials> {
        self.denials.take()
    }

    /// The kernel's table of rules, once; empty, so everything is redirected.
    pub fn take_rules(&mut self) -> Option<RuleTable> {
        self.rules.take()
    }

    /// What each hook has cost since [`count_costs`].
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn costs(&self) -> Result<Vec<Cost>, GuardError> {
        let cost = |(name, program): (&str, &aya::programs::Program)| {
            let info = program.info().map_err(|error| GuardError::Hook {
                hook: "all",
                reason: chain(&error),
            })?;
            Ok(Cost {
                hook: name.to_owned(),
                calls: info.run_count(),
                time: info.run_time(),
            })
        };
        self.hooks.programs().map(cost).collect()
    }

    /// What is attached, and what is missing.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }
}

/// Attaches the hooks of BPF LSM, where it is active: every one is optional.
fn beyond(
    cgroup: &RunCgroup,
    pins: &Pins,
    types: &Types,
    features: &mut Features,
) -> Result<(Option<Lsm>, Option<LsmDenials>), GuardError> {
    let Some((lsm, told, states)) = lsm::attach(cgroup, Some(pins), types)? else {
        return Ok((None, None));
    };
    for state in states {
        features.note(state);
    }
    let attached = features.attached.clone();
    features.close(|hook| attached.iter().any(|name| name == hook));
    Ok((Some(lsm), Some(told)))
}

/// Loads the object. `kept` are pinned maps, by name, that its programs use in the place of new ones.
pub(super) fn load(
    features: &mut Features,
    types: &Types,
    kept: &[(String, PathBuf)],
) -> Result<Ebpf, GuardError> {
    let offsets = types.offsets(&[
        ("task_struct", "tgid"),
        ("task_struct", "signal"),
        ("signal_struct", "live"),
    ]);
    let offset = |at: usize| offsets.get(at).copied().flatten().unwrap_or(0);
    let (tgid, signal, live) = (offset(0), offset(1), offset(2));
    if tgid == 0 {
        let lost = "labels are not inherited at fork; the cgroup still governs every process".to_owned();
        features.missing.push(("on_fork".into(), lost));
    }
    let mut loader = EbpfLoader::new();
    loader
        .btf(types.btf.as_ref())
        .override_global("TGID_OFFSET", &tgid, true)
        .override_global("SIGNAL_OFFSET", &signal, true)
        .override_global("LIVE_OFFSET", &live, true);
    for (name, path) in kept {
        loader.map_pin_path(name, path.as_path());
    }
    loader
        .load(OBJECT)
        .map_err(|error| GuardError::Object(chain(&error)))
}

pub(super) fn take<M>(hooks: &mut Ebpf, name: &'static str) -> Result<M, GuardError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let missing = || GuardError::Map {
        map: name,
        reason: "the object does not hold it".into(),
    };
    let map = hooks.take_map(name).ok_or_else(missing)?;
    M::try_from(map).map_err(|e| map_error(name, &e))
}

pub(super) fn map_error(map: &'static str, error: &aya::maps::MapError) -> GuardError {
    GuardError::Map {
        map,
        reason: chain(error),
    }
}

/// An error with all its causes. The verifier's log can be thousands of lines: its end says what failed.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let text = causes(error);
    tracing::debug!(text, "the kernel's whole answer");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let start = lines.len().saturating_sub(8);
    lines.get(start..).unwrap_or_default().join("\n")
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
