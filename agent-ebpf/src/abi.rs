//! Map keys, map values and events.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`), and a port in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address, most significant byte first.
    pub ip: [u8; 16],
    /// The port, host order.
    pub port: u16,
    /// Always zero.
    pub pad: [u8; 6],
}

impl Address {
    /// An IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn v4(ip: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = ip;
        Self {
            ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
            port,
            pad: [0; 6],
        }
    }

    /// An IPv6 address, which may be a v4-mapped one.
    #[must_use]
    #[inline(always)]
    pub const fn v6(ip: [u8; 16], port: u16) -> Self {
        Self {
            ip,
            port,
            pad: [0; 6],
        }
    }

    /// Whether it is this host to itself: 127.0.0.0/8 and `::1`, and the unspecified addresses, which mean the same.
    #[must_use]
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.ip;
        if self.is_v4_mapped() {
            return m == 127 || (m | n | o | p) == 0;
        }
        (a | b | c | d | e | f | g | h | i | j | k | l | m | n | o) == 0 && p <= 1
    }

    /// Whether it is an IPv4 address in its v4-mapped form.
    #[must_use]
    #[inline(always)]
    pub fn is_v4_mapped(&self) -> bool {
        let [a, b, c, d, e, f, g, h, i, j, k, l, _, _, _, _] = self.ip;
        (a | b | c | d | e | f | g | h | i | j) == 0 && k == 0xff && l == 0xff
    }
}

/// Ports that the agent listens on per address family, a power of two: one port has room for some 28,000 connections
/// from one address (`ip_local_port_range`).
pub const LISTENER_PORTS: usize = 4;

/// Servers that one socket can ask at a time and be answered as from each: each has a port of the agent's.
pub const DNS_SLOTS: u16 = 8;
/// Of those, how many belong to the host's resolvers, in their order; all other servers share the rest.
pub const DNS_RESOLVER_SLOTS: u16 = 4;
/// How long (nanoseconds) an answer is waited for: until then no other server may take the same slot of a socket.
pub const DNS_PATIENCE_NS: u64 = 5_000_000_000;

/// The agent's listeners in one network namespace. All places of a family are filled, with the same port again where
/// there are fewer; or all are 0: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Ports on 127.0.0.1.
    pub v4_ports: [u16; LISTENER_PORTS],
    /// Ports on `::1`.
    pub v6_ports: [u16; LISTENER_PORTS],
    /// The first of [`DNS_SLOTS`] UDP ports on 127.0.0.1 that follow each other; 0: none.
    pub v4_dns: u16,
    /// The same on `::1`.
    pub v6_dns: u16,
}

impl Listener {
    /// Whether the agent has this port in either family.
    #[must_use]
    #[inline(always)]
    pub fn has(&self, port: u16) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.v4_ports, self.v6_ports);
        port != 0
            && (a == port
                || b == port
                || c == port
                || d == port
                || e == port
                || f == port
                || g == port
                || h == port
                || Self::slot(self.v4_dns, port).is_some()
                || Self::slot(self.v6_dns, port).is_some())
    }

    /// Which of the UDP ports that begin with `first` this is.
    #[must_use]
    #[inline(always)]
    pub const fn slot(first: u16, port: u16) -> Option<u16> {
        let slot = port.wrapping_sub(first);
        if first != 0 && slot < DNS_SLOTS {
            Some(slot)
        } else {
            None
        }
    }
}

/// What names one redirected connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Network namespace cookie.
    pub netns: u64,
    /// The process's end.
    pub peer: Address,
    /// The agent's end.
    pub listener: Address,
}

/// What names one datagram that was redirected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// From where to where.
    pub flow: FlowKey,
    /// Its first two bytes, which are the question's id (RFC 1035, 4.1.1), big end first.
    pub id: u16,
    /// Always zero.
    pub pad: [u8; 6],
}

/// Who acts, as the kernel knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Thread group id.
    pub tgid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The label that the process inherited; 0 for none.
    pub label: u32,
    /// Cgroup (v2) id.
    pub cgroup: u64,
    /// Network namespace cookie.
    pub netns: u64,
    /// The process's own word, NUL-padded.
    pub comm: [u8; 16],
}

/// What a process meant when it connected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue {
    /// Who.
    pub identity: Identity,
    /// Where to.
    pub original: Address,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`; 0 while it is only known to the socket.
    pub at_ns: u64,
}

/// What is known of a socket that asks servers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsSocket {
    /// Network namespace cookie.
    pub netns: u64,
    /// Whom it asks, by slot, and who asked last; `at_ns` is when, and 0 for never.
    pub servers: [FlowValue; DNS_SLOTS as usize],
}

/// The label of a run's processes. Whoever is in the governed cgroup and has lost its label counts as labelled with it.
pub const RUN_LABEL: u32 = 1;

/// What a rule of the kernel is found by: label and port exactly (port 0: the rules for any port), the address by its
/// longest prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// Whose rule.
    pub label: u32,
    /// The destination's port, or 0.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
    /// The destination, as in [`Address`].
    pub ip: [u8; 16],
}

impl RuleKey {
    /// Bits before the address; all of them always match exactly.
    pub const HEAD_BITS: u32 = 64;
    /// Bits of a key that is looked up.
    pub const BITS: u32 = Self::HEAD_BITS + 128;
}

/// What is done with destinations under a prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// A [`crate::RuleVerdict`].
    pub verdict: u8,
    /// How long the prefix is, of 128 bits.
    pub bits: u8,
}

/// What the agent tells the hooks; the only entry of its map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When the agent was last alive, in nanoseconds of `CLOCK_BOOTTIME`; 0 before it is ready.
    pub heartbeat_ns: u64,
}

/// A hook that can deny.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `connect4`, `connect6`.
    Connect = 1,
    /// `sendmsg4`, `sendmsg6`.
    SendMsg = 2,
    /// `sock_create`.
    SockCreate = 3,
    /// `bind4`, `bind6`.
    Bind = 4,
    /// `sock_ops`.
    SockOps = 5,
    /// `cgroup_skb/egress`.
    Egress = 6,
    /// `cgroup_skb/ingress`.
    Ingress = 7,
}

/// Something was denied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenialEvent {
    /// Who.
    pub identity: Identity,
    /// Where to; zero for a socket that was not created.
    pub destination: Address,
    /// Who wanted to connect, for a connection from outside; zero for anything else.
    pub peer: Address,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// For a socket that was not created: its type and protocol.
    pub socket_type: u16,
    /// See `socket_type`.
    pub protocol: u16,
}

/// Index into the map of counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Denials that the ring buffer had no room for.
    DenialsLost = 0,
    /// Connections denied because the flow table was full.
    FlowsFull = 1,
    /// Connections redirected.
    Redirected = 2,
    /// Questions to servers denied because their table was full.
    DatagramsFull = 3,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 4;
}

const _: () = {
    assert!(size_of::<Address>() == 24);
    assert!(size_of::<Listener>() == 20);
    assert!(size_of::<FlowKey>() == 56);
    assert!(size_of::<Identity>() == 48);
    assert!(size_of::<FlowValue>() == 80);
    assert!(size_of::<RuleKey>() == 24);
    assert!(size_of::<Rule>() == 2);
    assert!(size_of::<State>() == 8);
    assert!(size_of::<DenialEvent>() == 104);
    assert!(size_of::<DatagramKey>() == 64);
    assert!(size_of::<DnsSocket>() == 8 + 80 * DNS_SLOTS as usize);
};

#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "a marker that aya asks for: these types cross the maps"
)]
mod pod {
    use super::{
        Address, DatagramKey, DenialEvent, FlowKey, FlowValue, Identity, Listener, Rule, RuleKey, State,
    };

    // SAFETY: repr(C), Copy, every byte named (see the size assertions), any bit pattern valid.
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Listener {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DatagramKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Identity {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for State {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DenialEvent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RuleKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Rule {}
}
