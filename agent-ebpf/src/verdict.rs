//! The kernel's answer, as a pure function.

use crate::abi::{Address, Listener};

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

/// What is asked.
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
    /// The agent's listeners in the socket's namespace.
    pub listener: Option<Listener>,
    /// Whether the destination is one of the resolvers that the host is configured with.
    pub is_resolver: bool,
}

/// Why something is denied.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The agent has not been alive for too long.
    NoHeartbeat = 1,
    /// The agent has no listener in the socket's network namespace.
    NoListener = 2,
    /// UDP is only allowed to the configured resolvers.
    Udp = 3,
    /// The socket speaks neither TCP nor UDP.
    Protocol = 4,
    /// The flow table is full.
    FlowsFull = 5,
    /// The port is the agent's.
    AgentPort = 6,
    /// The socket's own storage could not be had.
    NoStorage = 7,
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
    match question.kind {
        Kind::Udp if question.is_resolver && question.destination.port == DNS_PORT => Verdict::Direct,
        Kind::Udp => Verdict::Deny(Reason::Udp),
        Kind::Other => Verdict::Deny(Reason::Protocol),
        Kind::Tcp => redirect(question),
    }
}

#[inline(always)]
fn redirect(question: &Question) -> Verdict {
    let Some(listener) = question.listener else {
        return Verdict::Deny(Reason::NoListener);
    };
    let port = if question.destination.is_v4_mapped() {
        listener.v4_port
    } else {
        listener.v6_port
    };
    if port == 0 {
        Verdict::Deny(Reason::NoListener)
    } else {
        Verdict::Redirect { port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Address = Address::v4([10, 0, 0, 7], 5432);
    const V6: Address = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], 5432);
    const DNS: Address = Address::v4([10, 0, 0, 1], 53);
    const BOTH: Option<Listener> = Some(Listener {
        v4_port: 4000,
        v6_port: 6000,
        pad: 0,
    });

    fn ask(kind: Kind, destination: Address) -> Question {
        let now_ns = 10_000_000_000;
        Question {
            kind,
            destination,
            heartbeat_ns: now_ns - 1,
            now_ns,
            listener: BOTH,
            is_resolver: false,
        }
    }

    #[test]
    fn verdicts() {
        use Reason::{NoHeartbeat, NoListener, Protocol, Udp};
        let silent = Question {
            heartbeat_ns: 0,
            ..ask(Kind::Tcp, V4)
        };
        let late = Question {
            heartbeat_ns: 1,
            ..ask(Kind::Tcp, V4)
        };
        let just = Question {
            heartbeat_ns: 7_000_000_000,
            ..ask(Kind::Tcp, V4)
        };
        let elsewhere = Question {
            listener: None,
            ..ask(Kind::Tcp, V4)
        };
        let only_v4 = Some(Listener {
            v4_port: 4000,
            ..Listener::default()
        });
        let table = [
            (ask(Kind::Tcp, V4), Verdict::Redirect { port: 4000 }),
            (ask(Kind::Tcp, V6), Verdict::Redirect { port: 6000 }),
            (
                Question {
                    listener: only_v4,
                    ..ask(Kind::Tcp, V6)
                },
                Verdict::Deny(NoListener),
            ),
            (silent, Verdict::Deny(NoHeartbeat)),
            (late, Verdict::Deny(NoHeartbeat)),
            (just, Verdict::Redirect { port: 4000 }),
            (elsewhere, Verdict::Deny(NoListener)),
            (ask(Kind::Udp, V4), Verdict::Deny(Udp)),
            (ask(Kind::Udp, DNS), Verdict::Deny(Udp)),
            (
                Question {
                    is_resolver: true,
                    ..ask(Kind::Udp, DNS)
                },
                Verdict::Direct,
            ),
            (
                Question {
                    is_resolver: true,
                    ..ask(Kind::Udp, V4)
                },
                Verdict::Deny(Udp),
            ),
            (
                Question {
                    is_resolver: true,
                    heartbeat_ns: 0,
                    ..ask(Kind::Udp, DNS)
                },
                Verdict::Deny(NoHeartbeat),
            ),
            (
                Question {
                    is_resolver: true,
                    ..ask(Kind::Tcp, DNS)
                },
                Verdict::Redirect { port: 4000 },
            ),
            (ask(Kind::Other, V4), Verdict::Deny(Protocol)),
        ];
        for (question, expected) in table {
            assert_eq!(verdict(&question), expected, "{question:?}");
        }
    }

    #[test]
    fn only_tcp_and_udp_sockets() {
        let (stream, dgram, raw, seqpacket, dccp) = (1, 2, 3, 5, 6);
        for family in [AF_INET, AF_INET6] {
            assert!(socket_allowed(family, stream, 0) && socket_allowed(family, stream, IPPROTO_TCP));
            assert!(socket_allowed(family, dgram, 0) && socket_allowed(family, dgram, IPPROTO_UDP));
            // MPTCP, SCTP, ping, ping6, UDP-Lite.
            for (kind, protocol) in [
                (stream, 262),
                (stream, 132),
                (dgram, 1),
                (dgram, 58),
                (dgram, 136),
            ] {
                assert!(!socket_allowed(family, kind, protocol), "{kind} {protocol}");
            }
            for kind in [raw, seqpacket, dccp] {
                assert!(!socket_allowed(family, kind, 0), "{kind}");
            }
        }
        assert!(!socket_allowed(17, raw, 0));
    }

    #[test]
    fn v4_mapped_is_ipv4() {
        assert!(V4.is_v4_mapped());
        assert!(!V6.is_v4_mapped());
        assert!(!Address::v6([0; 16], 1).is_v4_mapped());
    }
}
