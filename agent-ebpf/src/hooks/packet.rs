//! The backstop: a packet leaves the host only if some other hook can have judged it, and none opens a connection from
//! outside unless a rule allows it.

use aya_ebpf::bindings::{__sk_buff, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, BPF_TCP_SYN_RECV};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interdict_ebpf::{
    Address, DenialEvent, HEARTBEAT_LIMIT_NS, Hook, Identity, Packet, RUN_LABEL, Reason, RuleVerdict,
    inbound_allowed, packet_allowed,
};

use super::dns::note;
use super::report::{denial, report};
use super::{ACCEPTED, ALLOW, DENY, INBOUND, RULES, STATE, rule_in};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A question to a server of names stays on the loopback: written down whose it is.
#[cgroup_skb(egress)]
fn on_question(ctx: SkBuffContext) -> i32 {
    // SAFETY: a field of the kernel's context, read with its own width.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let stays = packet_allowed(&Packet {
        interface,
        ..Packet::default()
    });
    if !stays || note(&ctx) { ALLOW } else { DENY }
}

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
    let mut headers = Headers::default();
    if headers.read(&ctx).is_none() {
        return drop_packet(skb, Address::default());
    }
    let protocol = headers.protocol;
    let packet = Packet {
        interface,
        is_answer: protocol == TCP && is_answer(skb),
        is_direct: (protocol == TCP || protocol == UDP) && is_direct(&headers.destination),
    };
    if packet_allowed(&packet) {
        ALLOW
    } else {
        drop_packet(skb, headers.destination)
    }
}

/// A packet for a socket that listens opens a connection. It is dropped: whoever sent it hears nothing.
#[cgroup_skb(ingress)]
fn on_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the socket is checked before it is read.
    let (interface, listens) = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        ((*skb).ifindex, !sk.is_null() && (*sk).state == BPF_TCP_LISTEN)
    };
    if !listens {
        return ALLOW;
    }
    let mut headers = Headers::default();
    if headers.read(&ctx).is_none() {
        return DENY;
    }
    let Headers {
        source, destination, ..
    } = headers;
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let heartbeat_ns = STATE.get(0).map_or(0, |state| state.heartbeat_ns);
    let reason = if now_ns.saturating_sub(heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        Reason::NoHeartbeat
    } else {
        let from = Address::v6(source.ip, destination.port);
        if inbound_allowed(interface, rule_in(&INBOUND, RUN_LABEL, &from)) {
            return ALLOW;
        }
        Reason::Inbound
    };
    let identity = Identity {
        // SAFETY: the context is the kernel's.
        cgroup: unsafe { bpf_skb_cgroup_id(skb) },
        ..Identity::default()
    };
    report(&DenialEvent {
        identity,
        destination,
        peer: source,
        ..denial(Hook::Ingress, reason)
    });
    DENY
}

/// What a packet says of itself. Read into a value that was there before: an `Option` of it is copied with whatever its
/// empty case left on the stack, and verifiers before Linux 6.3 refuse to read that.
#[derive(Default)]
pub(super) struct Headers {
    pub(super) protocol: u8,
    /// Ports are 0 for what is neither TCP nor UDP.
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Where the transport's header begins.
    pub(super) transport: usize,
}

impl Headers {
    /// Transport protocol and both ends. At these hooks the data starts with the IP header, and is not yet cut into
    /// fragments, or whole again. IPv6 extension headers are not followed: then there is no port, and nothing that needs
    /// one is allowed. `None`: the packet is shorter than its header.
    #[inline(always)]
    pub(super) fn read(&mut self, ctx: &SkBuffContext) -> Option<()> {
        let first: u8 = ctx.load(0).ok()?;
        if first >> 4 == 4 {
            self.transport = usize::from(first & 0xf) * 4;
            self.protocol = ctx.load(9).ok()?;
            let (from, to) = ports(ctx, self.protocol, self.transport);
            self.source = Address::v4(ctx.load(12).ok()?, from);
            self.destination = Address::v4(ctx.load(16).ok()?, to);
            return Some(());
        }
        self.transport = 40;
        self.protocol = ctx.load(6).ok()?;
        let (from, to) = ports(ctx, self.protocol, self.transport);
        self.source = Address::v6(ctx.load(8).ok()?, from);
        self.destination = Address::v6(ctx.load(24).ok()?, to);
        Some(())
    }
}

#[inline(always)]
fn ports(ctx: &SkBuffContext, protocol: u8, start: usize) -> (u16, u16) {
    if protocol != TCP && protocol != UDP {
        return (0, 0);
    }
    let [a, b, c, d] = ctx.load(start).unwrap_or([0; 4]);
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Who sends is not known here: the rules are the run's.
#[inline(always)]
fn is_direct(destination: &Address) -> bool {
    let rule = rule_in(&RULES, RUN_LABEL, destination);
    RuleVerdict::from_number(rule.verdict) == RuleVerdict::Direct
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
