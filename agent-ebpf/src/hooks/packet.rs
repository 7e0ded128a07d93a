//! The backstop: a packet leaves the host only if some other hook can have judged it.

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, BPF_TCP_SYN_RECV};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interdict_ebpf::{
    Address, DenialEvent, Hook, Identity, Packet, RUN_LABEL, Reason, RuleVerdict, packet_allowed,
};

use super::report::{denial, report};
use super::{ACCEPTED, ALLOW, DENY, RESOLVERS, rule_of};

const TCP: u8 = 6;
const UDP: u8 = 17;

#[cgroup_skb(egress)]
fn on_egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: a field of the kernel's context, read with its own width.
    let interface = unsafe { (*skb).ifindex };
    // The usual case before anything is read: redirected connections stay on the loopback.
    if packet_allowed(&Packet {
        interface,
        ..Packet::default()
    }) {
        return ALLOW;
    }
    let Some((protocol, destination)) = headers(&ctx) else {
        return drop_packet(skb, Address::default());
    };
    let packet = Packet {
        interface,
        is_udp: protocol == UDP,
        // SAFETY: the map holds plain numbers.
        is_resolver: unsafe { RESOLVERS.get(destination) }.is_some(),
        port: destination.port,
        is_answer: protocol == TCP && is_answer(skb),
        is_direct: (protocol == TCP || protocol == UDP) && is_direct(&destination),
    };
    if packet_allowed(&packet) {
        ALLOW
    } else {
        drop_packet(skb, destination)
    }
}

/// Transport protocol and destination. At this hook the data starts with the IP header, and is not yet cut into
/// fragments. IPv6 extension headers are not followed: then there is no port, and nothing that needs one is allowed.
#[inline(always)]
fn headers(ctx: &SkBuffContext) -> Option<(u8, Address)> {
    let first: u8 = ctx.load(0).ok()?;
    if first >> 4 == 4 {
        let length = usize::from(first & 0xf) * 4;
        let protocol: u8 = ctx.load(9).ok()?;
        let port = port(ctx, protocol, length);
        return Some((protocol, Address::v4(ctx.load(16).ok()?, port)));
    }
    let protocol: u8 = ctx.load(6).ok()?;
    let port = port(ctx, protocol, 40);
    Some((protocol, Address::v6(ctx.load(24).ok()?, port)))
}

#[inline(always)]
fn port(ctx: &SkBuffContext, protocol: u8, start: usize) -> u16 {
    if protocol == TCP || protocol == UDP {
        ctx.load(start + 2).map_or(0, u16::from_be_bytes)
    } else {
        0
    }
}

/// Who sends is not known here: the rules are the run's.
#[inline(always)]
fn is_direct(destination: &Address) -> bool {
    rule_of(RUN_LABEL, destination)
        .is_some_and(|rule| RuleVerdict::from_number(rule.verdict) == RuleVerdict::Direct)
}

/// Whether the packet belongs to a connection that was opened from the other side.
#[inline(always)]
fn is_answer(skb: *mut __sk_buff) -> bool {
    // SAFETY: the socket is checked before it is read; storage is looked up, not made.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        if matches!(
            (*sk).state,
            BPF_TCP_LISTEN | BPF_TCP_NEW_SYN_RECV | BPF_TCP_SYN_RECV
        ) {
            return true;
        }
        let full = bpf_sk_fullsock(sk);
        !full.is_null()
            && !bpf_sk_storage_get(
                (&raw const ACCEPTED).cast_mut().cast(),
                full.cast(),
                core::ptr::null_mut(),
                0,
            )
            .is_null()
    }
}

/// Whatever runs here is not always the process that sent: only the cgroup is known for certain.
#[inline(always)]
fn drop_packet(skb: *mut __sk_buff, destination: Address) -> i32 {
    let identity = Identity {
        // SAFETY: the context is the kernel's.
        cgroup: unsafe { bpf_skb_cgroup_id(skb) },
        ..Identity::default()
    };
    report(&DenialEvent {
        identity,
        destination,
        ..denial(Hook::Egress, Reason::Egress)
    });
    DENY
}
