//! Sockets that no hook could judge are not made.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use interdict_ebpf::{DenialEvent, Hook, Reason, socket_allowed};

use super::report::{denial, identity, report};
use super::{ALLOW, DENY};

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
