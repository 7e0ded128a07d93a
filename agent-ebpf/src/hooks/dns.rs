//! Questions to servers of names (UDP port 53): which server a socket asks, and whose question a datagram is.
//!
//! Each server has a port of the agent's, so that a socket can ask several at once and be answered as by each. What the
//! agent needs to know is written down when the packet is made: then both ends and the question's id are known.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_sk_fullsock, bpf_sk_storage_get,
};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use interdict_ebpf::{
    Address, Counter, DNS_PATIENCE_NS, DatagramKey, DnsSocket, FlowKey, FlowValue, Identity, Listener,
    Reason, dns_slot,
};

use super::packet::Headers;
use super::report::count;
use super::{ASKING, DATAGRAMS, LISTENERS};

const UDP: u8 = 17;

/// Writes down that the context's socket asks `server`.
#[inline(always)]
pub(super) fn ask(
    ctx: &SockAddrContext,
    server: &Address,
    resolver: u8,
    identity: &Identity,
    now_ns: u64,
) -> Result<(), Reason> {
    // SAFETY: the storage belongs to the context's socket; new it is all zero. The slot is smaller than the array.
    unsafe {
        let socket = ASKING.get_or_insert_ptr_mut(ctx, None);
        if socket.is_null() {
            return Err(Reason::NoStorage);
        }
        let place = place(socket, dns_slot(server, resolver));
        let last = (&raw const (*place).at_ns).read_volatile();
        let waits = last != 0 && now_ns.saturating_sub(last) < DNS_PATIENCE_NS;
        if waits && !same(&(*place).original, server) {
            return Err(Reason::DnsServers);
        }
        (*socket).netns = identity.netns;
        (*place).identity = *identity;
        (*place).original = *server;
        (*place).at_ns = now_ns;
    }
    Ok(())
}

/// The server that an answer from one of the agent's ports is from.
#[inline(always)]
pub(super) fn asked(ctx: &SockAddrContext, from: &Address) -> Option<Address> {
    // SAFETY: as above; the storage is looked up, not made.
    unsafe {
        let socket = ASKING.get_ptr_mut(ctx);
        if socket.is_null() || !from.is_loopback() {
            return None;
        }
        let netns = bpf_get_netns_cookie(ctx.as_ptr());
        let slot = slot_of(LISTENERS.get(netns)?, from)?;
        let place = place(socket, slot);
        ((&raw const (*place).at_ns).read_volatile() != 0).then(|| (*place).original)
    }
}

/// Lets a packet on the loopback go, and writes down whose question it is where it is one. Whether it may go.
#[inline(always)]
pub(super) fn note(ctx: &SkBuffContext) -> bool {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: each pointer is checked before it is used; storage is looked up, not made.
    let socket = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return true;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return true;
        }
        let stored = bpf_sk_storage_get(
            (&raw const ASKING).cast_mut().cast(),
            full.cast(),
            core::ptr::null_mut(),
            0,
        );
        stored.cast::<DnsSocket>()
    };
    if socket.is_null() {
        return true;
    }
    let mut headers = Headers::default();
    if headers.read(ctx).is_none() {
        return false;
    }
    if headers.protocol != UDP {
        return true;
    }
    // SAFETY: not null; a plain number.
    let netns = unsafe { (*socket).netns };
    // SAFETY: a copy of plain numbers.
    let Some(slot) =
        unsafe { LISTENERS.get(netns) }.and_then(|listener| slot_of(listener, &headers.destination))
    else {
        return true;
    };
    let Ok(id) = ctx.load::<[u8; 2]>(headers.transport + 8) else {
        return false;
    };
    let key = DatagramKey {
        flow: FlowKey {
            netns,
            peer: headers.source,
            listener: headers.destination,
        },
        id: u16::from_be_bytes(id),
        pad: [0; 6],
    };
    // SAFETY: not null, and the slot is smaller than the array.
    let noted = unsafe {
        let place = place(socket, slot);
        if (&raw const (*place).at_ns).read_volatile() == 0 {
            return false;
        }
        (&raw mut (*place).at_ns).write_volatile(bpf_ktime_get_boot_ns());
        DATAGRAMS.insert(key, &*place, BPF_ANY as u64)
    };
    if noted.is_err() {
        // Dropped, and only counted: there is little room on this stack.
        count(Counter::DatagramsFull);
    }
    noted.is_ok()
}

#[inline(always)]
fn slot_of(listener: &Listener, at: &Address) -> Option<u16> {
    let first = if at.is_v4_mapped() {
        listener.v4_dns
    } else {
        listener.v6_dns
    };
    Listener::slot(first, at.port)
}

/// # Safety
/// `socket` is the storage of a socket.
#[inline(always)]
unsafe fn place(socket: *mut DnsSocket, slot: u16) -> *mut FlowValue {
    // SAFETY: a local is read; there are eight slots, and no number of three bits is larger. Volatile, because the
    // verifier must see the bound here, even where the compiler knows it already.
    unsafe {
        let slot = (&raw const slot).read_volatile() & 7;
        (&raw mut (*socket).servers)
            .cast::<FlowValue>()
            .add(usize::from(slot))
    }
}

/// Byte by byte: the compiler's own comparison would be a call.
#[inline(always)]
fn same(one: &Address, other: &Address) -> bool {
    let mut differs = u8::from(one.port != other.port);
    let mut at = 0;
    while at < 16 {
        differs |= one.ip[at] ^ other.ip[at];
        at += 1;
    }
    differs == 0
}
