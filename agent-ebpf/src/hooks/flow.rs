//! From a socket that connects to an entry in the table that the agent reads.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use interdict_ebpf::{Address, Counter, DenialEvent, FlowKey, FlowValue, Hook, Reason};

use super::report::{count, denial, report};
use super::{ACCEPTED, AF_INET, AF_INET6, FLOWS, SOCKETS, bytes_of};

/// At `TCP_CONNECT_CB` the source port is chosen and the SYN not yet sent: the flow is complete.
#[sock_ops]
fn on_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_STATE_CB => ended(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        _ => {}
    }
    1
}

/// Copies what the connect hook stored into the table that the agent reads.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    // SAFETY: the socket pointer is checked before it is used; storage is looked up, not made.
    let flow = unsafe {
        let family = (*ctx.ops).family;
        let sk = (*ctx.ops).__bindgen_anon_2.sk;
        if sk.is_null() || (family != AF_INET && family != AF_INET6) {
            return;
        }
        let stored = bpf_sk_storage_get(storage(&raw const SOCKETS), sk.cast(), core::ptr::null_mut(), 0)
            .cast::<FlowValue>();
        match stored.as_ref() {
            Some(flow) => FlowValue {
                at_ns: bpf_ktime_get_boot_ns(),
                ..*flow
            },
            None => return,
        }
    };
    let key = flow_key(ctx);
    if FLOWS.insert(key, flow, BPF_ANY as u64).is_err() {
        // The agent finds no flow and resets the connection: full is closed.
        count(Counter::FlowsFull);
        report(&DenialEvent {
            identity: flow.identity,
            destination: flow.original,
            ..denial(Hook::SockOps, Reason::FlowsFull)
        });
        return;
    }
    let _unsupported = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// A connect that failed leaves no flow behind.
#[inline(always)]
fn ended(ctx: &SockOpsContext) {
    if ctx.arg(0) == BPF_TCP_SYN_SENT && ctx.arg(1) == BPF_TCP_CLOSE {
        let _absent = FLOWS.remove(flow_key(ctx));
    }
}

#[inline(always)]
fn flow_key(ctx: &SockOpsContext) -> FlowKey {
    // SAFETY: the context is the kernel's; words are read with their own width. The remote port is in network order in
    // the upper half (uapi/linux/bpf.h), the local one in host order.
    unsafe {
        let ops = ctx.ops;
        let (local, remote) = (local_port(ctx), u32::from_be((*ops).remote_port) as u16);
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        if (*ops).family == AF_INET {
            let peer = Address::v4((*ops).local_ip4.to_ne_bytes(), local);
            return FlowKey {
                netns,
                peer,
                listener: Address::v4((*ops).remote_ip4.to_ne_bytes(), remote),
            };
        }
        let listener = Address::v6(
            bytes_of([
                (&raw const (*ops).remote_ip6[0]).read_volatile(),
                (&raw const (*ops).remote_ip6[1]).read_volatile(),
                (&raw const (*ops).remote_ip6[2]).read_volatile(),
                (&raw const (*ops).remote_ip6[3]).read_volatile(),
            ]),
            remote,
        );
        let peer = if listener.is_v4_mapped() {
            Address::v4((*ops).local_ip4.to_ne_bytes(), local)
        } else {
            Address::v6(
                bytes_of([
                    (&raw const (*ops).local_ip6[0]).read_volatile(),
                    (&raw const (*ops).local_ip6[1]).read_volatile(),
                    (&raw const (*ops).local_ip6[2]).read_volatile(),
                    (&raw const (*ops).local_ip6[3]).read_volatile(),
                ]),
                local,
            )
        };
        FlowKey {
            netns,
            peer,
            listener,
        }
    }
}

#[inline(always)]
fn local_port(ctx: &SockOpsContext) -> u16 {
    // SAFETY: as above.
    unsafe { (*ctx.ops).local_port as u16 }
}

/// The answers on a connection that somebody opened to a governed process may leave.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let mut mark = 1u32;
    // SAFETY: the socket pointer is checked before it is used. Without memory the answers are dropped.
    unsafe {
        let sk: *mut bpf_sock = (*ctx.ops).__bindgen_anon_2.sk;
        if !sk.is_null() {
            let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
            bpf_sk_storage_get(
                storage(&raw const ACCEPTED),
                sk.cast(),
                (&raw mut mark).cast(),
                create,
            );
        }
    }
}

/// A map's address, for a helper that aya wraps for another kind of context only.
#[inline(always)]
fn storage<T>(map: *const T) -> *mut core::ffi::c_void {
    map.cast_mut().cast()
}
