//! Hooks that see an address: `connect`, `sendmsg`, `bind`, `getpeername`.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_setsockopt,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interdict_ebpf::{
    Address, Counter, DenialEvent, FlowValue, Hook, Kind, NO_RESOLVER, Question, Reason, Verdict, verdict,
};

use super::dns::{ask, asked};
use super::report::{count, denial, identity, report};
use super::{ALLOW, DENY, LABELS, LISTENERS, RESOLVERS, RULES, SOCKETS, STATE, bytes_of, rule_in};

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

#[cgroup_sock_addr(connect4)]
fn on_connect4(ctx: SockAddrContext) -> i32 {
    on_connect(&ctx, destination4(&ctx), redirect4)
}

#[cgroup_sock_addr(connect6)]
fn on_connect6(ctx: SockAddrContext) -> i32 {
    on_connect(&ctx, destination6(&ctx), redirect6)
}

#[cgroup_sock_addr(sendmsg4)]
fn on_sendmsg4(ctx: SockAddrContext) -> i32 {
    let destination = destination4(&ctx);
    on_sendmsg(&ctx, destination, redirect4)
}

#[cgroup_sock_addr(sendmsg6)]
fn on_sendmsg6(ctx: SockAddrContext) -> i32 {
    let destination = destination6(&ctx);
    on_sendmsg(&ctx, destination, redirect6)
}

/// The process sees the server that it asked.
#[cgroup_sock_addr(recvmsg4)]
fn on_recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(server) = asked(&ctx, &destination4(&ctx)) {
        // SAFETY: the fields are writable in this hook, each with its own width.
        unsafe {
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(last_word(&server.ip));
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(server.port.to_be()));
        }
    }
    ALLOW
}

/// As above. A v4-mapped server stays v4-mapped.
#[cgroup_sock_addr(recvmsg6)]
fn on_recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(server) = asked(&ctx, &destination6(&ctx)) {
        // SAFETY: as above.
        unsafe {
            write_ip6(ctx.sock_addr, &server.ip);
            (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(server.port.to_be()));
        }
    }
    ALLOW
}

#[inline(always)]
fn last_word(ip: &[u8; 16]) -> u32 {
    u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]])
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
            (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(last_word(&flow.original.ip));
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

#[inline(always)]
fn on_connect(
    ctx: &SockAddrContext,
    destination: Address,
    redirect: impl Fn(&SockAddrContext, &Address, u16),
) -> i32 {
    let netns = netns(ctx);
    let question = question(ctx, destination, netns);
    match verdict(&question) {
        Verdict::Direct => {
            forget(ctx);
            ALLOW
        }
        Verdict::Deny(reason) => deny(ctx, Hook::Connect, reason, destination, netns),
        Verdict::Redirect { port } => {
            let mut flow = FlowValue {
                identity: identity(netns),
                original: destination,
                at_ns: 0,
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
            if question.kind == Kind::Udp
                && let Err(reason) = ask(
                    ctx,
                    &destination,
                    question.resolver,
                    &flow.identity,
                    question.now_ns,
                )
            {
                return deny(ctx, Hook::Connect, reason, destination, netns);
            }
            unbind_from_device(ctx);
            redirect(ctx, &destination, port);
            count(Counter::Redirected);
            ALLOW
        }
    }
}

/// What was meant by an earlier connect of the socket.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: the context's own socket; where nothing is stored nothing happens.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        let _absent = SOCKETS.delete(sk);
    }
}

/// A socket bound to a device would not reach the loopback.
#[inline(always)]
fn unbind_from_device(ctx: &SockAddrContext) {
    let mut none = [0u8; 4];
    // SAFETY: the context is the kernel's, the buffer lives on the stack; failure leaves the socket as it was, and the
    // connect then fails instead of escaping.
    unsafe {
        let value = none.as_mut_ptr().cast();
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, value, 4);
    }
}

// The verifier lets each program touch its own form of address only, so the two ways to redirect are two functions. A
// sockaddr_in given to an AF_INET6 socket runs connect4: the program follows the address, not the socket.

#[inline(always)]
fn redirect4(ctx: &SockAddrContext, _destination: &Address, port: u16) {
    // SAFETY: the fields are writable in this hook, each with its own width.
    unsafe {
        (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(u32::from_ne_bytes([127, 0, 0, 1]));
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be()));
    }
}

#[inline(always)]
fn redirect6(ctx: &SockAddrContext, destination: &Address, port: u16) {
    let loopback = if destination.is_v4_mapped() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]
    } else {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    };
    // SAFETY: as above.
    unsafe {
        write_ip6(ctx.sock_addr, &loopback);
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be()));
    }
}

#[inline(always)]
fn on_sendmsg(
    ctx: &SockAddrContext,
    destination: Address,
    redirect: impl Fn(&SockAddrContext, &Address, u16),
) -> i32 {
    let netns = netns(ctx);
    let question = question(ctx, destination, netns);
    match verdict(&question) {
        Verdict::Direct => ALLOW,
        Verdict::Deny(reason) => deny(ctx, Hook::SendMsg, reason, destination, netns),
        Verdict::Redirect { port } => {
            let identity = identity(netns);
            match ask(ctx, &destination, question.resolver, &identity, question.now_ns) {
                Ok(()) => {
                    redirect(ctx, &destination, port);
                    ALLOW
                }
                Err(reason) => deny(ctx, Hook::SendMsg, reason, destination, netns),
            }
        }
    }
}

/// Nobody but the agent binds the agent's ports, not even on another address.
#[inline(always)]
fn on_bind(ctx: &SockAddrContext, address: Address) -> i32 {
    let netns = netns(ctx);
    // SAFETY: a copy of plain numbers.
    let taken = unsafe { LISTENERS.get(netns) }.is_some_and(|listener| listener.has(address.port));
    if taken {
        deny(ctx, Hook::Bind, Reason::AgentPort, address, netns)
    } else {
        ALLOW
    }
}

#[inline(always)]
fn question(ctx: &SockAddrContext, destination: Address, netns: u64) -> Question {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: fields of the kernel's context, read with their own width; maps hold plain numbers.
    unsafe {
        Question {
            kind: Kind::of((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol),
            destination,
            heartbeat_ns: STATE.get(0).map_or(0, |state| state.heartbeat_ns),
            now_ns: bpf_ktime_get_boot_ns(),
            listener: LISTENERS.get(netns).copied().unwrap_or_default(),
            spread: bpf_get_prandom_u32(),
            resolver: RESOLVERS.get(destination).copied().unwrap_or(NO_RESOLVER),
            rule: rule_in(&RULES, LABELS.get(tgid).copied().unwrap_or(0), &destination),
        }
    }
}

#[inline(always)]
fn destination4(ctx: &SockAddrContext) -> Address {
    // SAFETY: fields of the kernel's context, read with their own width.
    unsafe {
        let ip = (&raw const (*ctx.sock_addr).user_ip4)
            .read_volatile()
            .to_ne_bytes();
        Address::v4(
            ip,
            u16::from_be((&raw const (*ctx.sock_addr).user_port).read_volatile() as u16),
        )
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
        Address::v6(
            bytes_of(words),
            u16::from_be((&raw const (*ctx.sock_addr).user_port).read_volatile() as u16),
        )
    }
}

/// # Safety
/// `addr` is the context of a hook in which the address is writable.
#[inline(always)]
unsafe fn write_ip6(addr: *mut bpf_sock_addr, ip: &[u8; 16]) {
    // SAFETY: the caller's. Volatile keeps the compiler from writing two words at once, which the verifier refuses.
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
fn deny(_ctx: &SockAddrContext, hook: Hook, reason: Reason, destination: Address, netns: u64) -> i32 {
    report(&DenialEvent {
        identity: identity(netns),
        destination,
        ..denial(hook, reason)
    });
    DENY
}
