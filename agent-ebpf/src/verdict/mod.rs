//! The kernel's answer, as a pure function.

use crate::abi::{Address, DNS_RESOLVER_SLOTS, DNS_SLOTS, Listener, Rule};

/// Without a heartbeat for this long (nanoseconds), nothing passes.
pub const HEARTBEAT_LIMIT_NS: u64 = 3_000_000_000;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A stream socket that speaks TCP.
    Tcp,
    /// A datagram socket that speaks UDP.
    Udp,
    /// Anything else.
    Other,
}

impl Kind {
    /// From a socket's type and protocol (0: the type's default).
    #[must_use]
    #[inline(always)]
    pub const fn of(socket_type: u32, protocol: u32) -> Self {
        match (socket_type, protocol) {
            (SOCK_STREAM, 0 | IPPROTO_TCP) => Self::Tcp,
            (SOCK_DGRAM, 0 | IPPROTO_UDP) => Self::Udp,
            _ => Self::Other,
        }
    }
}

/// Whether a governed process may have such a socket at all. Only families whose hooks judge each destination:
/// everything else of the families that this hook sees is denied (raw, ping, SCTP, DCCP, UDP-Lite, MPTCP).
#[must_use]
#[inline(always)]
pub const fn socket_allowed(family: u32, socket_type: u32, protocol: u32) -> bool {
    match family {
        AF_INET | AF_INET6 => !matches!(Kind::of(socket_type, protocol), Kind::Other),
        // The hook runs for inet families only; another kernel's surprise is a denial.
        _ => false,
    }
}

/// What is asked. No field is an `Option`: the compiler carries the content of an empty one through the program as whatever
/// was on the stack, and verifiers without "allow reads from uninit stack" (Linux 6.3) refuse the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the socket speaks.
    pub kind: Kind,
    /// Where to.
    pub destination: Address,
    /// The agent's last heartbeat and the time now, both in nanoseconds of `CLOCK_BOOTTIME`.
    pub heartbeat_ns: u64,
    /// See `heartbeat_ns`.
    pub now_ns: u64,
    /// The agent's listeners in the socket's namespace; where there are none, all ports are 0.
    pub listener: Listener,
    /// Any number: chooses among the agent's ports.
    pub spread: u32,
    /// Which of the resolvers that the host is configured with the destination is, or [`NO_RESOLVER`].
    pub resolver: u8,
    /// The rule for the destination, or [`Rule::NONE`].
    pub rule: Rule,
}

/// The destination is none of the host's resolvers.
pub const NO_RESOLVER: u8 = u8::MAX;

/// What a rule says.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleVerdict {
    /// To the agent, as without a rule: an exception within a wider prefix.
    Redirect = 1,
    /// As it is, TCP and UDP: the agent sees nothing of it.
    Direct = 2,
    /// Not at all.
    Deny = 3,
    /// There is no rule ([`Rule::NONE`]).
    None = 4,
}

impl RuleVerdict {
    /// From its number; an unknown one denies.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Redirect,
            2 => Self::Direct,
            4 => Self::None,
            _ => Self::Deny,
        }
    }
}

impl Rule {
    /// Stands for no rule. Shorter than any prefix, and never in a table.
    pub const NONE: Self = Self {
        verdict: RuleVerdict::None as u8,
        bits: 0,
    };

    #[inline(always)]
    const fn is_none(self) -> bool {
        matches!(RuleVerdict::from_number(self.verdict), RuleVerdict::None)
    }
}

/// Of the rule for the port and the one for any port, the longer prefix; the port's where they are equally long.
#[must_use]
#[inline(always)]
pub const fn choose(exact: Rule, any: Rule) -> Rule {
    if exact.is_none() || (!any.is_none() && any.bits > exact.bits) {
        any
    } else {
        exact
    }
}

/// Why something is denied.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The agent has not been alive for too long.
    NoHeartbeat = 1,
    /// The agent has no listener in the socket's network namespace.
    NoListener = 2,
    /// UDP carries questions to servers of names only.
    Udp = 3,
    /// The socket speaks neither TCP nor UDP.
    Protocol = 4,
    /// The flow table is full.
    FlowsFull = 5,
    /// The port is the agent's.
    AgentPort = 6,
    /// The socket's own storage could not be had.
    NoStorage = 7,
    /// The packet would leave the host, and no other hook can have judged it.
    Egress = 8,
    /// A rule of the kernel says so.
    Rule = 9,
    /// One socket asks more servers at once than can be told apart.
    DnsServers = 10,
    /// Somebody outside connects to a governed process, and no rule allows it.
    Inbound = 11,
}

impl Reason {
    /// From its number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::NoHeartbeat,
            2 => Self::NoListener,
            3 => Self::Udp,
            4 => Self::Protocol,
            5 => Self::FlowsFull,
            6 => Self::AgentPort,
            7 => Self::NoStorage,
            8 => Self::Egress,
            9 => Self::Rule,
            10 => Self::DnsServers,
            11 => Self::Inbound,
            _ => return None,
        })
    }
}

/// The kernel's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Direct,
    /// To the agent: this port on the loopback address of the destination's own family.
    Redirect {
        /// The port, host order.
        port: u16,
    },
    /// Not at all.
    Deny(Reason),
}

/// Decides one `connect` or `sendmsg` of a governed process. What cannot be redirected is denied.
#[must_use]
#[inline(always)]
pub fn verdict(question: &Question) -> Verdict {
    let alive = question.heartbeat_ns != 0
        && question.now_ns.saturating_sub(question.heartbeat_ns) <= HEARTBEAT_LIMIT_NS;
    if !alive {
        return Verdict::Deny(Reason::NoHeartbeat);
    }
    if is_agent(question) {
        // Redirected to itself, it would be a connection whose target is the agent.
        return Verdict::Deny(Reason::AgentPort);
    }
    let rule = RuleVerdict::from_number(question.rule.verdict);
    match question.kind {
        Kind::Tcp | Kind::Udp if rule == RuleVerdict::Deny => Verdict::Deny(Reason::Rule),
        Kind::Tcp | Kind::Udp if rule == RuleVerdict::Direct => Verdict::Direct,
        Kind::Udp if question.destination.port == DNS_PORT => redirect_dns(question),
        Kind::Udp => Verdict::Deny(Reason::Udp),
        Kind::Other => Verdict::Deny(Reason::Protocol),
        Kind::Tcp => redirect(question),
    }
}

#[inline(always)]
fn is_agent(question: &Question) -> bool {
    question.destination.is_loopback() && question.listener.has(question.destination.port)
}

#[inline(always)]
fn redirect(question: &Question) -> Verdict {
    let listener = &question.listener;
    let ports = if question.destination.is_v4_mapped() {
        listener.v4_ports
    } else {
        listener.v6_ports
    };
    // Chosen by hand: indexing becomes a pointer computed with `|`, which the verifier refuses.
    let [a, b, c, d] = ports;
    let (low, high) = if question.spread & 1 == 0 { (a, c) } else { (b, d) };
    let port = if question.spread & 2 == 0 { low } else { high };
    if port == 0 {
        Verdict::Deny(Reason::NoListener)
    } else {
        Verdict::Redirect { port }
    }
}

#[inline(always)]
fn redirect_dns(question: &Question) -> Verdict {
    let listener = &question.listener;
    let first = if question.destination.is_v4_mapped() {
        listener.v4_dns
    } else {
        listener.v6_dns
    };
    if first == 0 {
        return Verdict::Deny(Reason::NoListener);
    }
    let port = first.wrapping_add(dns_slot(&question.destination, question.resolver));
    Verdict::Redirect { port }
}

/// The slot of a server: the agent answers it from a port of its own, so that a socket that asks several is answered
/// as by each. Resolvers have their own; all others share the rest, and two that meet there are told apart in time.
#[must_use]
#[inline(always)]
pub fn dns_slot(server: &Address, resolver: u8) -> u16 {
    if (resolver as u16) < DNS_RESOLVER_SLOTS {
        return resolver as u16;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = server.ip;
    let all = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j ^ k ^ l ^ m ^ n ^ o ^ p;
    DNS_RESOLVER_SLOTS + (all as u16) % (DNS_SLOTS - DNS_RESOLVER_SLOTS)
}

/// The loopback interface: the first of every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// A packet that a governed socket sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The interface that it is about to leave by.
    pub interface: u32,
    /// Whether it belongs to a connection that the other side opened.
    pub is_answer: bool,
    /// Whether a rule lets its destination be reached as it is.
    pub is_direct: bool,
}

/// Whether the packet may go. Redirected connections stay on the loopback, so little else has a reason to leave.
#[must_use]
#[inline(always)]
pub const fn packet_allowed(packet: &Packet) -> bool {
    packet.interface == LOOPBACK || packet.is_answer || packet.is_direct
}

/// Whether a packet that came by `interface` may open a connection to a governed process. Whoever is on this host may:
/// what is asked of a governed server by another process here is seen where that process asks.
#[must_use]
#[inline(always)]
pub const fn inbound_allowed(interface: u32, rule: Rule) -> bool {
    interface == LOOPBACK || matches!(RuleVerdict::from_number(rule.verdict), RuleVerdict::Direct)
}

#[cfg(test)]
mod tests;
