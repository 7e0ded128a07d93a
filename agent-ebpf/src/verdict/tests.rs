//! The verdict, row by row.

use super::*;

const V4: Address = Address::v4([10, 0, 0, 7], 5432);
const V6: Address = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], 5432);
const DNS: Address = Address::v4([10, 0, 0, 1], 53);
const DNS6: Address = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8], 53);
const BOTH: Listener = Listener {
    v4_ports: [4000, 4001, 4002, 4003],
    v6_ports: [6000, 6001, 6002, 6003],
    v4_dns: 4100,
    v6_dns: 6100,
};

fn ask(kind: Kind, destination: Address) -> Question {
    let now_ns = 10_000_000_000;
    Question {
        kind,
        destination,
        heartbeat_ns: now_ns - 1,
        now_ns,
        listener: BOTH,
        spread: 0,
        resolver: NO_RESOLVER,
        rule: Rule::NONE,
    }
}

#[test]
fn rules_come_before_the_usual_way() {
    let with = |kind, destination, verdict: u8| {
        let rule = Rule { verdict, bits: 128 };
        verdict_of(Question {
            rule,
            ..ask(kind, destination)
        })
    };
    let direct = RuleVerdict::Direct as u8;
    let deny = RuleVerdict::Deny as u8;
    let redirect = RuleVerdict::Redirect as u8;
    assert_eq!(with(Kind::Tcp, V4, direct), Verdict::Direct);
    assert_eq!(with(Kind::Udp, V6, direct), Verdict::Direct);
    assert_eq!(with(Kind::Other, V4, direct), Verdict::Deny(Reason::Protocol));
    assert_eq!(with(Kind::Tcp, V4, deny), Verdict::Deny(Reason::Rule));
    assert_eq!(with(Kind::Udp, V4, deny), Verdict::Deny(Reason::Rule));
    assert_eq!(with(Kind::Tcp, V4, redirect), Verdict::Redirect { port: 4000 });
    assert_eq!(with(Kind::Udp, V4, redirect), Verdict::Deny(Reason::Udp));
    // What is not known denies, and no rule leads to the agent itself or past its death.
    assert_eq!(with(Kind::Tcp, V4, 77), Verdict::Deny(Reason::Rule));
    let agent = Address::v4([127, 0, 0, 1], 4000);
    assert_eq!(with(Kind::Tcp, agent, direct), Verdict::Deny(Reason::AgentPort));
    let dead = Question {
        heartbeat_ns: 1,
        rule: Rule {
            verdict: direct,
            bits: 128,
        },
        ..ask(Kind::Tcp, V4)
    };
    assert_eq!(verdict_of(dead), Verdict::Deny(Reason::NoHeartbeat));
}

fn verdict_of(question: Question) -> Verdict {
    verdict(&question)
}

#[test]
fn the_longer_prefix_wins_and_then_the_port() {
    let rule = |verdict, bits| Rule { verdict, bits };
    let none = Rule::NONE;
    assert_eq!(choose(none, none), none);
    assert_eq!(choose(rule(1, 100), none), rule(1, 100));
    assert_eq!(choose(none, rule(2, 100)), rule(2, 100));
    assert_eq!(choose(rule(1, 100), rule(2, 101)), rule(2, 101));
    assert_eq!(choose(rule(1, 101), rule(2, 100)), rule(1, 101));
    assert_eq!(choose(rule(1, 100), rule(2, 100)), rule(1, 100));
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
        listener: Listener::default(),
        ..ask(Kind::Tcp, V4)
    };
    let only_v4 = Listener {
        v4_ports: [4000; 4],
        ..Listener::default()
    };
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
        (ask(Kind::Udp, DNS), Verdict::Redirect { port: 4107 }),
        (ask(Kind::Udp, DNS6), Verdict::Redirect { port: 6104 }),
        (
            Question {
                resolver: 1,
                ..ask(Kind::Udp, DNS)
            },
            Verdict::Redirect { port: 4101 },
        ),
        (
            Question {
                resolver: 1,
                listener: Listener::default(),
                ..ask(Kind::Udp, DNS)
            },
            Verdict::Deny(NoListener),
        ),
        (
            Question {
                listener: only_v4,
                ..ask(Kind::Udp, DNS)
            },
            Verdict::Deny(NoListener),
        ),
        (
            Question {
                resolver: 0,
                ..ask(Kind::Udp, V4)
            },
            Verdict::Deny(Udp),
        ),
        (
            Question {
                resolver: 0,
                heartbeat_ns: 0,
                ..ask(Kind::Udp, DNS)
            },
            Verdict::Deny(NoHeartbeat),
        ),
        (
            Question {
                resolver: 0,
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

#[test]
fn little_leaves_the_host() {
    let here = Packet {
        interface: 4,
        ..Packet::default()
    };
    let table = [
        (here, false),
        (
            Packet {
                is_direct: true,
                ..here
            },
            true,
        ),
        (
            Packet {
                is_answer: true,
                ..here
            },
            true,
        ),
        (Packet { interface: 1, ..here }, true),
        // No interface is not the loopback.
        (Packet::default(), false),
    ];
    for (packet, expected) in table {
        assert_eq!(packet_allowed(&packet), expected, "{packet:?}");
    }
}

#[test]
fn nobody_outside_connects_unless_allowed() {
    let rule = |verdict| Rule { verdict, bits: 128 };
    assert!(inbound_allowed(1, Rule::NONE));
    assert!(!inbound_allowed(2, Rule::NONE) && !inbound_allowed(0, Rule::NONE));
    assert!(inbound_allowed(2, rule(RuleVerdict::Direct as u8)));
    for other in [0, RuleVerdict::Redirect as u8, RuleVerdict::Deny as u8, 77] {
        assert!(!inbound_allowed(2, rule(other)));
    }
}

#[test]
fn each_resolver_has_a_slot_and_the_others_share() {
    for number in 0..4 {
        assert_eq!(dns_slot(&DNS, number), u16::from(number));
    }
    for resolver in [4, 100, NO_RESOLVER] {
        for last in 0..=255 {
            let slot = dns_slot(&Address::v4([10, 0, 0, last], 53), resolver);
            assert!((DNS_RESOLVER_SLOTS..DNS_SLOTS).contains(&slot));
        }
    }
    assert!(BOTH.has(4100) && BOTH.has(4107) && BOTH.has(6107));
    assert!(!BOTH.has(4099) && !BOTH.has(4108) && !Listener::default().has(7));
}

#[test]
fn every_reason_reads_back() {
    for number in 0..=u8::MAX {
        match Reason::from_number(number) {
            Some(reason) => assert_eq!(reason as u8, number),
            None => assert!(number == 0 || number > Reason::Egress as u8, "{number}"),
        }
    }
}

#[test]
fn connections_are_spread_over_the_ports() {
    let port = |destination, spread| match verdict(&Question {
        spread,
        ..ask(Kind::Tcp, destination)
    }) {
        Verdict::Redirect { port } => port,
        other @ (Verdict::Direct | Verdict::Deny(_)) => panic!("{other:?}"),
    };
    let v4: Vec<u16> = (0..5).map(|n| port(V4, n)).collect();
    assert_eq!(v4, [4000, 4001, 4002, 4003, 4000]);
    assert_eq!(port(V6, u32::MAX), 6003);
}

#[test]
fn the_agent_is_not_connected_to() {
    let loopback = Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 6002);
    let any = Address::v6([0; 16], 4003);
    let mine = [
        Address::v4([127, 0, 0, 1], 4001),
        Address::v4([127, 9, 9, 9], 6000),
        Address::v4([0, 0, 0, 0], 4000),
        loopback,
        any,
    ];
    for address in mine {
        assert_eq!(
            verdict(&ask(Kind::Tcp, address)),
            Verdict::Deny(Reason::AgentPort),
            "{address:?}"
        );
    }
    // The same port elsewhere is somebody else's, and so is another port here.
    let others = [
        Address::v4([10, 0, 0, 1], 4001),
        Address::v4([127, 0, 0, 1], 4004),
        Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 4000),
    ];
    for address in others {
        assert!(
            matches!(verdict(&ask(Kind::Tcp, address)), Verdict::Redirect { .. }),
            "{address:?}"
        );
    }
}
