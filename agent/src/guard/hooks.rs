//! Loading the hooks, attaching them to one cgroup, and keeping them alive.

use std::net::SocketAddr;
use std::sync::Arc;

use aya::maps::{Array, HashMap as KernelMap, MapData, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, SockOps,
};
use aya::{Btf, Ebpf, EbpfLoader};
use interdict_ebpf::{Listener, State};

use crate::model::{ListenerAddr, NetnsCookie};
use crate::task::Task;

use super::btf;
use super::cgroup::RunCgroup;
use super::counters::{CounterMap, Counters};
use super::denials::Denials;
use super::error::GuardError;
use super::flow::FlowSource;
use super::heartbeat;
use super::listeners::Listeners;
use super::object::OBJECT;
use super::pins::Pins;
use super::process::kernel_address;
use super::table::{FlowTable, sweep};

const SOCKET_HOOKS: [&str; 8] = [
    "on_connect4",
    "on_connect6",
    "on_sendmsg4",
    "on_sendmsg6",
    "on_bind4",
    "on_bind6",
    "on_getpeername4",
    "on_getpeername6",
];

/// What is attached, and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Attached hooks.
    pub attached: Vec<String>,
    /// Hooks that this kernel does not take, with what is lost by it.
    pub missing: Vec<(String, String)>,
    /// What a process can do although everything is attached, for people who decide whether that is enough.
    pub open: Vec<&'static str>,
}

/// What no cgroup hook sees.
const OPEN: [&str; 6] = [
    "it can talk to a local daemon that has network of its own (docker.sock, D-Bus, systemd-resolved)",
    "it can open AF_VSOCK sockets, and AF_PACKET and AF_XDP ones when it has CAP_NET_RAW",
    "it can use a connected socket that an ungoverned process hands to it",
    "its DNS questions reach the configured resolvers unread, so data can leave in names",
    "it can be connected to from outside, and answer on such a connection",
    "as root it can leave its cgroup or undo the hooks: run it as another user",
];

/// The attached hooks. Dropping it detaches them: end the processes of the cgroup first.
pub struct Guard {
    // Keeps the programs and what no other field holds of the maps.
    _hooks: Ebpf,
    // The links: they stay when the agent dies, and go when this is dropped.
    _pins: Pins,
    _heartbeat: Task<()>,
    _sweep: Task<()>,
    counters: Arc<CounterMap>,
    labels: KernelMap<MapData, u32, u32>,
    flows: Arc<FlowTable>,
    denials: Option<Denials>,
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
    /// Loads the hooks, opens the listeners, attaches everything to `cgroup` and starts the heartbeat. UDP port 53 of
    /// `resolvers` stays reachable.
    ///
    /// # Errors
    /// Where anything that the guard depends on is refused by the kernel: then nothing must be started in the cgroup.
    pub fn attach(cgroup: &RunCgroup, resolvers: &[SocketAddr]) -> Result<Self, GuardError> {
        if !rustix::process::geteuid().is_root() {
            return Err(GuardError::NotRoot);
        }
        let listeners = Listeners::open()?;
        let mut features = Features {
            open: OPEN.to_vec(),
            ..Features::default()
        };
        let mut hooks = load(&mut features)?;
        let mut map: KernelMap<_, u64, Listener> = take(&mut hooks, "LISTENERS")?;
        map.insert(listeners.netns.0, listeners.entry(), 0)
            .map_err(|e| map_error("LISTENERS", &e))?;
        let mut map: KernelMap<_, interdict_ebpf::Address, u8> = take(&mut hooks, "RESOLVERS")?;
        for resolver in resolvers {
            map.insert(kernel_address(*resolver), 1, 0)
                .map_err(|e| map_error("RESOLVERS", &e))?;
        }
        let labels = take(&mut hooks, "LABELS")?;
        let counters = Arc::new(CounterMap::new(take(&mut hooks, "COUNTERS")?));
        let flows = Arc::new(FlowTable::new(take(&mut hooks, "FLOWS")?));
        let ring: RingBuf<MapData> = take(&mut hooks, "DENIALS")?;
        let denials = Denials::new(ring, Arc::clone(&counters)).map_err(|source| GuardError::Map {
            map: "DENIALS",
            reason: source.to_string(),
        })?;
        let pins = Pins::create(cgroup.name())?;
        attach_all(&mut hooks, cgroup, &pins, &mut features)?;
        let state: Array<_, State> = take(&mut hooks, "STATE")?;
        let heartbeat = crate::task::spawn("heartbeat", heartbeat::beat(state));
        let sweep = crate::task::spawn("sweep flows", sweep(Arc::clone(&flows)));
        let netns = listeners.netns;
        Ok(Self {
            _hooks: hooks,
            _pins: pins,
            _heartbeat: heartbeat,
            _sweep: sweep,
            counters,
            labels,
            flows,
            denials: Some(denials),
            listeners: Some(listeners),
            netns,
            features,
        })
    }

    /// The listeners, once.
    pub fn take_listeners(&mut self) -> Vec<(std::net::TcpListener, ListenerAddr)> {
        self.listeners.take().map(|l| l.sockets).unwrap_or_default()
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

    /// The table of flows.
    #[must_use]
    pub fn flows(&self) -> Arc<dyn FlowSource> {
        Arc::clone(&self.flows) as Arc<dyn FlowSource>
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

    /// The stream of denials, once.
    pub fn take_denials(&mut self) -> Option<Denials> {
        self.denials.take()
    }

    /// What is attached, and what is missing.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }
}

fn load(features: &mut Features) -> Result<Ebpf, GuardError> {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let offset = |structure, member| btf::member_offset(&btf, structure, member).unwrap_or(0);
    let (tgid, signal, live) = (
        offset("task_struct", "tgid"),
        offset("task_struct", "signal"),
        offset("signal_struct", "live"),
    );
    if tgid == 0 {
        let lost = "labels are not inherited at fork; the cgroup still governs every process".to_owned();
        features.missing.push(("on_fork".into(), lost));
    }
    let mut loader = EbpfLoader::new();
    loader
        .override_global("TGID_OFFSET", &tgid, true)
        .override_global("SIGNAL_OFFSET", &signal, true)
        .override_global("LIVE_OFFSET", &live, true);
    loader
        .load(OBJECT)
        .map_err(|error| GuardError::Object(chain(&error)))
}

fn attach_all(
    hooks: &mut Ebpf,
    cgroup: &RunCgroup,
    pins: &Pins,
    features: &mut Features,
) -> Result<(), GuardError> {
    let (directory, mode) = (cgroup.directory(), CgroupAttachMode::Single);
    for name in SOCKET_HOOKS {
        let hook: &mut CgroupSockAddr = program(hooks, name)?;
        hook.load().map_err(|e| refused(name, &e))?;
        let id = hook.attach(directory, mode).map_err(|e| refused(name, &e))?;
        pin(hook.take_link(id).map(TryInto::try_into), pins, name)?;
        features.attached.push(name.into());
    }
    let name = "on_sock_create";
    let create: &mut CgroupSock = program(hooks, name)?;
    create.load().map_err(|e| refused(name, &e))?;
    let id = create.attach(directory, mode).map_err(|e| refused(name, &e))?;
    pin(create.take_link(id).map(TryInto::try_into), pins, name)?;
    features.attached.push(name.into());
    let name = "on_sock_ops";
    let ops: &mut SockOps = program(hooks, name)?;
    ops.load().map_err(|e| refused(name, &e))?;
    let id = ops.attach(directory, mode).map_err(|e| refused(name, &e))?;
    pin(ops.take_link(id).map(TryInto::try_into), pins, name)?;
    features.attached.push(name.into());
    let name = "on_egress";
    // The backstop is optional: every other hook judges before a packet exists.
    match attach_egress(hooks, cgroup, pins, name) {
        Ok(()) => features.attached.push(name.into()),
        Err(error) => features
            .missing
            .push((name.into(), format!("packets are not looked at: {error}"))),
    }
    for (name, tracepoint) in [
        ("on_fork", "sched_process_fork"),
        ("on_exit", "sched_process_exit"),
    ] {
        // Labels are optional: the cgroup governs without them.
        match attach_tracepoint(hooks, name, tracepoint) {
            Ok(()) => features.attached.push(name.into()),
            Err(error) => features
                .missing
                .push((name.into(), format!("labels are not kept: {error}"))),
        }
    }
    Ok(())
}

fn attach_egress(
    hooks: &mut Ebpf,
    cgroup: &RunCgroup,
    pins: &Pins,
    name: &'static str,
) -> Result<(), GuardError> {
    let (at, mode) = (CgroupSkbAttachType::Egress, CgroupAttachMode::Single);
    let egress: &mut CgroupSkb = program(hooks, name)?;
    egress.load().map_err(|e| refused(name, &e))?;
    let id = egress
        .attach(cgroup.directory(), at, mode)
        .map_err(|e| refused(name, &e))?;
    pin(egress.take_link(id).map(TryInto::try_into), pins, name)
}

/// Pins a link. A kernel without links for cgroups (before 5.7) cannot keep the guard, and is refused.
fn pin(
    link: Result<Result<FdLink, aya::programs::links::LinkError>, aya::programs::ProgramError>,
    pins: &Pins,
    name: &'static str,
) -> Result<(), GuardError> {
    let link = link
        .map_err(|e| refused(name, &e))?
        .map_err(|e| refused(name, &e))?;
    let _pinned = link.pin(pins.path(name)).map_err(|e| refused(name, &e))?;
    Ok(())
}

fn attach_tracepoint(hooks: &mut Ebpf, name: &'static str, tracepoint: &str) -> Result<(), GuardError> {
    let btf = Btf::from_sys_fs().map_err(|e| refused(name, &e))?;
    let point: &mut BtfTracePoint = program(hooks, name)?;
    point.load(tracepoint, &btf).map_err(|e| refused(name, &e))?;
    point.attach().map_err(|e| refused(name, &e))?;
    Ok(())
}

fn program<'a, P>(hooks: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, GuardError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let missing = || GuardError::Hook {
        hook: name,
        reason: "the object does not hold it".into(),
    };
    hooks
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(missing)
}

fn take<M>(hooks: &mut Ebpf, name: &'static str) -> Result<M, GuardError>
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

fn refused(hook: &'static str, error: &dyn std::error::Error) -> GuardError {
    GuardError::Hook {
        hook,
        reason: chain(error),
    }
}

/// An error with all its causes. The verifier's log can be thousands of lines: its end says what failed.
fn chain(error: &dyn std::error::Error) -> String {
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
