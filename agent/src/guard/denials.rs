//! What the hooks denied, as it happens.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use interdict_ebpf::{Counter, DenialEvent, Hook, Reason};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::model::{OriginalDst, Process};

use super::counters::CounterMap;
use super::lsm::{self, LsmDenials};
use super::process::{enrich, socket_address};
use super::supervise::Stopped;
use super::sys;

/// Why a connection in another network namespace is denied.
const NO_LISTENER: &str = "the agent does not listen in this network namespace";

/// Something that a hook or the filter denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Which hook; `seccomp` for the filter.
    pub hook: &'static str,
    /// Who.
    pub process: Process,
    /// Where to, where there is such a thing.
    pub original: Option<OriginalDst>,
    /// Why.
    pub reason: String,
}

/// The stream of denials.
pub struct Denials(Source);

enum Source {
    Kernel(Box<Own>),
    /// The guard reads the kernel's and tells.
    Told {
        denials: mpsc::Receiver<Denial>,
        lost: Arc<AtomicU64>,
    },
}

struct Own {
    ring: AsyncFd<Ring>,
    counters: Arc<CounterMap>,
    stopped: Stopped,
    lsm: Option<(AsyncFd<Ring>, PerCpuArray<MapData, u64>)>,
    homeless: Option<mpsc::Sender<u32>>,
}

impl std::fmt::Debug for Denials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Denials")
    }
}

struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

// The ring buffer keeps its map's descriptor until it is dropped.
impl sys::OwnsDescriptor for Ring {}

impl Denials {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        counters: Arc<CounterMap>,
        stopped: Stopped,
        lsm: Option<LsmDenials>,
    ) -> std::io::Result<Self> {
        let lsm = match lsm {
            Some(LsmDenials { ring, lost }) => Some((sys::readable(Ring(ring))?, lost)),
            None => None,
        };
        Ok(Self(Source::Kernel(Box::new(Own {
            ring: sys::readable(Ring(ring))?,
            counters,
            stopped,
            lsm,
            homeless: None,
        }))))
    }

    pub(super) const fn told(denials: mpsc::Receiver<Denial>, lost: Arc<AtomicU64>) -> Self {
        Self(Source::Told { denials, lost })
    }

    /// From now on says which processes connected in a namespace that the agent does not listen in.
    pub fn tell_homeless(&mut self, told: mpsc::Sender<u32>) {
        if let Source::Kernel(own) = &mut self.0 {
            own.homeless = Some(told);
        }
    }

    /// How many denials the ring has had no room for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        match &self.0 {
            Source::Kernel(own) => own.lost(),
            Source::Told { lost, .. } => lost.load(Ordering::Relaxed),
        }
    }

    /// The next denial; `None` when the ring can no longer be read. Cancel-safe.
    pub async fn next(&mut self) -> Option<Denial> {
        match &mut self.0 {
            Source::Kernel(own) => own.next().await,
            Source::Told { denials, .. } => denials.recv().await,
        }
    }
}

impl Own {
    fn lost(&self) -> u64 {
        let lost = self.counters.read(Counter::DenialsLost);
        let lost = lost.unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known how many denials were not reported");
            0
        });
        let of_lsm = self.lsm.as_ref().and_then(|(_, lost)| lost.get(&0, 0).ok());
        lost.saturating_add(self.stopped.lost())
            .saturating_add(of_lsm.map_or(0, |values| values.iter().sum()))
    }

    async fn next(&mut self) -> Option<Denial> {
        let lsm = async {
            match &mut self.lsm {
                Some((ring, _)) => next_in(ring, lsm::read).await,
                None => std::future::pending().await,
            }
        };
        let denial = tokio::select! {
            // Nobody sends once the last filtered process has ended: then the rings are all there is.
            Some(denial) = self.stopped.denials.recv() => Some(denial),
            denial = next_in(&mut self.ring, read) => denial,
            denial = lsm => denial,
        }?;
        if denial.reason == NO_LISTENER
            && let Some(homeless) = &self.homeless
        {
            // Where too many wait already, the next look at all processes finds it.
            let _full = homeless.try_send(denial.process.tgid);
        }
        Some(denial)
    }
}

/// The next denial in a ring; `None` when it can no longer be read. Cancel-safe: what was taken is returned at once.
async fn next_in(ring: &mut AsyncFd<Ring>, read: fn(&[u8]) -> Option<Denial>) -> Option<Denial> {
    loop {
        let mut ready = ring.readable_mut().await.ok()?;
        if let Some(item) = ready.get_inner_mut().0.next() {
            if let Some(denial) = read(&item) {
                return Some(denial);
            }
            continue;
        }
        ready.clear_ready();
    }
}

/// The event's fields in the order of `interdict_ebpf::DenialEvent`.
fn read(bytes: &[u8]) -> Option<Denial> {
    let event = parse(bytes)?;
    let hook = match event.hook {
        n if n == Hook::Connect as u8 => "connect",
        n if n == Hook::SendMsg as u8 => "sendmsg",
        n if n == Hook::SockCreate as u8 => "sock_create",
        n if n == Hook::Bind as u8 => "bind",
        n if n == Hook::Egress as u8 => "egress",
        n if n == Hook::Ingress as u8 => "ingress",
        _ => "sock_ops",
    };
    let original = (event.destination.ip != [0; 16]).then(|| OriginalDst(socket_address(&event.destination)));
    Some(Denial {
        hook,
        process: enrich(&event.identity),
        original,
        reason: reason(&event),
    })
}

fn reason(event: &DenialEvent) -> String {
    match Reason::from_number(event.reason) {
        Some(Reason::NoHeartbeat) => "the agent was not alive".into(),
        Some(Reason::NoListener) => NO_LISTENER.into(),
        Some(Reason::Udp) => "UDP carries questions to servers of names (port 53) only".into(),
        Some(Reason::Protocol) => {
            format!(
                "a socket of type {} and protocol {} cannot be governed",
                event.socket_type, event.protocol
            )
        }
        Some(Reason::FlowsFull) => "the flow table was full".into(),
        Some(Reason::AgentPort) => "the port is the agent's".into(),
        Some(Reason::Egress) => "the packet would have left the host past the agent".into(),
        Some(Reason::Rule) => "a [[network]] of the configuration denies it".into(),
        Some(Reason::DnsServers) => "one socket asked more servers at once than can be told apart".into(),
        Some(Reason::Inbound) => {
            let from = socket_address(&event.peer).ip();
            format!("{from} connected from outside, and [inbound] does not allow it")
        }
        Some(Reason::NoStorage) => "the kernel had no memory for the socket".into(),
        None => format!("reason {}", event.reason),
    }
}

fn parse(bytes: &[u8]) -> Option<DenialEvent> {
    let mut fields = Fields(bytes);
    let identity = interdict_ebpf::Identity {
        tgid: fields.u32()?,
        uid: fields.u32()?,
        gid: fields.u32()?,
        label: fields.u32()?,
        cgroup: fields.u64()?,
        netns: fields.u64()?,
        comm: fields.array()?,
    };
    let destination = interdict_ebpf::Address {
        ip: fields.array()?,
        port: fields.u16()?,
        pad: fields.array()?,
    };
    let peer = interdict_ebpf::Address {
        ip: fields.array()?,
        port: fields.u16()?,
        pad: fields.array()?,
    };
    let [hook, reason] = fields.array()?;
    let pad = fields.array()?;
    Some(DenialEvent {
        identity,
        destination,
        peer,
        hook,
        reason,
        pad,
        socket_type: fields.u16()?,
        protocol: fields.u16()?,
    })
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }
}
