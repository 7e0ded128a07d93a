//! The programs. A function must not have the name of its own ELF section (`connect4`): the linker refuses it.
//!
//! Context fields are read and written one by one (volatile): the verifier refuses an access that the compiler merged.
//!
//! Every program is attached to a governed cgroup, so whatever runs it is governed; the label only says since when.
#![expect(unsafe_code, reason = "kernel contexts and helpers are raw pointers")]
#![expect(dead_code, reason = "the programs are called by the kernel")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    BPF_TCP_SYN_SENT, bpf_sock_addr,
};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_ktime_get_boot_ns,
    bpf_probe_read_kernel, bpf_setsockopt, bpf_sk_storage_get,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use aya_ebpf::macros::{btf_map, btf_tracepoint, cgroup_sock, cgroup_sock_addr, map, sock_ops};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{BtfTracePointContext, SockAddrContext, SockContext, SockOpsContext};
use interdict_ebpf::{
    Address, Counter, DenialEvent, FlowKey, FlowValue, Hook, Identity, Kind, Listener, Question, Reason,
    State, Verdict, socket_allowed, verdict,
};

/// The helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// Where `task_struct` keeps `tgid`, in bytes; set by the loader from the kernel's own BTF, 0 when unknown (then labels
/// are not inherited, and the agent says so).
#[unsafe(no_mangle)]
static TGID_OFFSET: u32 = 0;

#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static LISTENERS: HashMap<u64, Listener> = HashMap::with_max_entries(1024, 0);
#[map]
static RESOLVERS: HashMap<Address, u8> = HashMap::with_max_entries(16, 0);
/// A plain hash: no eviction of somebody else's flow.
#[map]
static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(65536, 0);
#[map]
static LABELS: HashMap<u32, u32> = HashMap::with_max_entries(65536, 0);
#[map]
static DENIALS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
#[btf_map]
static SOCKETS: SkStorage<FlowValue> = SkStorage::new();

#[cgroup_sock_addr(connect4)]
fn on_connect4(ctx: SockAddrContext) -> i32 {
    let destination = destination4(&ctx);
    on_connect::<true>(&ctx, destination)
}

#[cgroup_sock_addr(connect6)]
fn on_connect6(ctx: SockAddrContext) -> i32 {
    let destination = destination6(&ctx);
    on_connect::<false>(&ctx, destination)
}

#[cgroup_sock_addr(sendmsg4)]
fn on_sendmsg4(ctx: SockAddrContext) -> i32 {
    let destination = destination4(&ctx);
    on_sendmsg(&ctx, destination)
}

#[cgroup_sock_addr(sendmsg6)]
fn on_sendmsg6(ctx: SockAddrContext) -> i32 {
    let destination = destination6(&ctx);
    on_sendmsg(&ctx, destination)
}

#[cgroup_sock_addr(bind4)]
fn on_bind4(ctx: SockAddrContext) -> i32 {
    let address = destination4(&ctx);
    on_bind(&ctx, address)
}

#[cgroup_sock_addr(bind6)]
fn on_bind6(ctx: SockAddrContext) -> i32 {
    let address = destination6(&ctx);
    on_bind(&ctx, address)
}

/// The process sees the peer that it asked for.
#[cgroup_sock_addr(getpeername4)]
fn on_getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the pointer is the kernel's context; the storage is looked up, not made.
    unsafe {
        let flow = SOCKETS.get_ptr_mut(&ctx);
        if let Some(flow) = flow.as_ref() {
            let ip = flow.original.ip;
            (&raw mut (*ctx.sock_addr).user_ip4)
                .write_volatile(u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]));
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(flow.original.port.to_be()));
        }
    }
    ALLOW
}

/// As above. A v4-mapped peer stays v4-mapped.
#[cgroup_sock_addr(getpeername6)]
fn on_getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    unsafe {
        let flow = SOCKETS.get_ptr_mut(&ctx);
        if let Some(flow) = flow.as_ref() {
            write_ip6(ctx.sock_addr, &flow.original.ip);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(flow.original.port.to_be()));
        }
    }
    ALLOW
}

#[cgroup_sock(sock_create)]
fn on_sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the pointer is the kernel's context; fields are read with their own width.
    let (family, socket_type, protocol) =
        unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    if socket_allowed(family, socket_type, protocol) {
        return ALLOW;
    }
    // SAFETY: the context is the kernel's.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let event = DenialEvent {
        identity: identity(netns),
        socket_type: socket_type as u16,
        protocol: protocol as u16,
        ..denial(Hook::SockCreate, Reason::Protocol)
    };
    report(&event);
    DENY
}

/// At `TCP_CONNECT_CB` the source port is chosen and the SYN not yet sent: the flow is complete.
#[sock_ops]
fn on_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_STATE_CB => ended(&ctx),
        _ => {}
    }
    1
}

/// A child inherits its parent's label.
#[btf_tracepoint(function = "sched_process_fork")]
fn on_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const u8 = ctx.arg(0);
    let child: *const u8 = ctx.arg(1);
    if let (Some(parent), Some(child)) = (tgid_of(parent), tgid_of(child))
        && parent != child
    {
        // SAFETY: a copy of a plain number.
        let label = unsafe { LABELS.get(parent) }.copied();
        if let Some(label) = label {
            // A full table loses the label, never the guard: the hooks are bound to the cgroup.
            let _full = LABELS.insert(child, label, BPF_ANY as u64);
        }
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
fn on_exit(_ctx: BtfTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, thread) = ((both >> 32) as u32, both as u32);
    if tgid == thread {
        let _absent = LABELS.remove(tgid);
    }
    0
}

fn tgid_of(task: *const u8) -> Option<u32> {
    // SAFETY: a constant that the loader replaced.
    let offset = unsafe { core::ptr::read_volatile(&raw const TGID_OFFSET) };
    if offset == 0 {
        return None;
    }
    let mut tgid = 0u32;
    // SAFETY: the helper checks the address.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut tgid).cast(),
            4,
            task.wrapping_add(offset as usize).cast(),
        )
    };
    (failed == 0).then_some(tgid)
}

/// `V4` says which hook it is: each may touch its own address fields only.
#[inline(always)]
fn on_connect<const V4: bool>(ctx: &SockAddrContext, destination: Address) -> i32 {
    let netns = netns(ctx);
    match verdict(&question(ctx, destination, netns)) {
        Verdict::Direct => ALLOW,
        Verdict::Deny(reason) => deny(ctx, Hook::Connect, reason, destination, netns),
        Verdict::Redirect { port } => {
            let mut flow = FlowValue {
                identity: identity(netns),
                original: destination,
            };
            // SAFETY: the storage belongs to the context's socket; it is overwritten at each connect, because a socket
            // can connect again.
            let stored = unsafe {
                let slot = SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut flow));
                match slot.as_mut() {
                    Some(slot) => {
                        *slot = flow;
                        true
                    }
                    None => false,
                }
            };
            if !stored {
                return deny(ctx, Hook::Connect, Reason::NoStorage, destination, netns);
            }
            redirect::<V4>(ctx, destination, port);
            count(Counter::Redirected);
            ALLOW
        }
    }
}

#[inline(always)]
fn redirect<const V4: bool>(ctx: &SockAddrContext, destination: Address, port: u16) {
    // A socket bound to a device would not reach the loopback.
    let mut none = [0u8; 4];
    // SAFETY: the context is the kernel's, the buffer lives on the stack; failure leaves the socket as it was, and the
    // connect then fails instead of escaping.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            SO_BINDTODEVICE,
            none.as_mut_ptr().cast(),
            4,
        );
    }
    // SAFETY: the fields are writable in connect hooks, each with its own width.
    unsafe {
        if V4 {
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(u32::from_ne_bytes([127, 0, 0, 1]));
        } else if destination.is_v4_mapped() {
            write_ip6(ctx.sock_addr, &Address::v4([127, 0, 0, 1], 0).ip);
        } else {
            write_ip6(ctx.sock_addr, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be()));
    }
}

#[inline(always)]
fn on_sendmsg(ctx: &SockAddrContext, destination: Address) -> i32 {
    let netns = netns(ctx);
    match verdict(&question(ctx, destination, netns)) {
        Verdict::Direct => ALLOW,
        Verdict::Deny(reason) => deny(ctx, Hook::SendMsg, reason, destination, netns),
        // A datagram cannot be redirected.
        Verdict::Redirect { .. } => deny(ctx, Hook::SendMsg, Reason::Udp, destination, netns),
    }
}

/// Nobody but the agent binds the agent's ports, not even on another address.
#[inline(always)]
fn on_bind(ctx: &SockAddrContext, address: Address) -> i32 {
    let netns = netns(ctx);
    // SAFETY: a copy of plain numbers.
    let taken = unsafe { LISTENERS.get(netns) }
        .is_some_and(|l| address.port != 0 && (address.port == l.v4_port || address.port == l.v6_port));
    if taken {
        deny(ctx, Hook::Bind, Reason::AgentPort, address, netns)
    } else {
        ALLOW
    }
}

#[inline(always)]
fn question(ctx: &SockAddrContext, destination: Address, netns: u64) -> Question {
    // SAFETY: fields of the kernel's context, read with their own width; maps hold plain numbers.
    unsafe {
        Question {
            kind: Kind::of((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol),
            destination,
            heartbeat_ns: STATE.get(0).map_or(0, |state| state.heartbeat_ns),
            now_ns: bpf_ktime_get_boot_ns(),
            listener: LISTENERS.get(netns).copied(),
            is_resolver: RESOLVERS.get(destination).is_some(),
        }
    }
}

#[inline(always)]
fn destination4(ctx: &SockAddrContext) -> Address {
    // SAFETY: fields of the kernel's context, read with their own width.
    unsafe {
        let ip = (*ctx.sock_addr).user_ip4.to_ne_bytes();
        Address::v4(ip, u16::from_be((*ctx.sock_addr).user_port as u16))
    }
}

#[inline(always)]
fn destination6(ctx: &SockAddrContext) -> Address {
    // SAFETY: as above.
    unsafe {
        let words = [
            (&raw const (*ctx.sock_addr).user_ip6[0]).read_volatile(),
            (&raw const (*ctx.sock_addr).user_ip6[1]).read_volatile(),
            (&raw const (*ctx.sock_addr).user_ip6[2]).read_volatile(),
            (&raw const (*ctx.sock_addr).user_ip6[3]).read_volatile(),
        ];
        Address::v6(bytes_of(words), u16::from_be((*ctx.sock_addr).user_port as u16))
    }
}

#[inline(always)]
fn bytes_of(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}

/// # Safety
/// `addr` is the context of a hook in which the address is writable.
#[inline(always)]
unsafe fn write_ip6(addr: *mut bpf_sock_addr, ip: &[u8; 16]) {
    // SAFETY: the caller's; each word is written with its own width.
    unsafe {
        (&raw mut (*addr).user_ip6[0]).write_volatile(u32::from_ne_bytes([ip[0], ip[1], ip[2], ip[3]]));
        (&raw mut (*addr).user_ip6[1]).write_volatile(u32::from_ne_bytes([ip[4], ip[5], ip[6], ip[7]]));
        (&raw mut (*addr).user_ip6[2]).write_volatile(u32::from_ne_bytes([ip[8], ip[9], ip[10], ip[11]]));
        (&raw mut (*addr).user_ip6[3]).write_volatile(u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]));
    }
}

#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn identity(netns: u64) -> Identity {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: helpers without arguments; a copy of a plain number.
    unsafe {
        let ids = bpf_get_current_uid_gid();
        Identity {
            tgid,
            uid: ids as u32,
            gid: (ids >> 32) as u32,
            label: LABELS.get(tgid).copied().unwrap_or(0),
            cgroup: bpf_get_current_cgroup_id(),
            netns,
            comm: bpf_get_current_comm().unwrap_or([0; 16]),
        }
    }
}

#[inline(always)]
fn denial(hook: Hook, reason: Reason) -> DenialEvent {
    DenialEvent {
        hook: hook as u8,
        reason: reason as u8,
        ..DenialEvent::default()
    }
}

#[inline(always)]
fn deny(_ctx: &SockAddrContext, hook: Hook, reason: Reason, destination: Address, netns: u64) -> i32 {
    report(&DenialEvent {
        identity: identity(netns),
        destination,
        ..denial(hook, reason)
    });
    DENY
}

#[inline(always)]
fn report(event: &DenialEvent) {
    match DENIALS.reserve::<DenialEvent>(0) {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(0);
        }
        None => count(Counter::DenialsLost),
    }
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this processor's own.
        unsafe { *slot += 1 };
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
        let stored =
            bpf_sk_storage_get(SOCKETS_PTR(), sk.cast(), core::ptr::null_mut(), 0).cast::<FlowValue>();
        match stored.as_ref() {
            Some(flow) => *flow,
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

/// The map's address, for a helper that aya wraps for another kind of context only.
#[inline(always)]
#[expect(non_snake_case, reason = "stands for the static")]
fn SOCKETS_PTR() -> *mut core::ffi::c_void {
    (&raw const SOCKETS).cast_mut().cast()
}
