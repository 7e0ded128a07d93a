//! The kernel half's ABI: what both sides of the maps agree on, and the pure verdict.
//!
//! The hooks (`main.rs`) are thin shells around [`verdict`]; the same function is tested on the host and used by the
//! agent to explain a denial. Every type that crosses a map is `repr(C)` with explicit padding, so that no
//! uninitialised byte becomes part of a key.
//!
//! # What the hooks do
//!
//! All but the last are attached to the cgroup of one run, so they see every process below it, labelled or not.
//!
//! | hook | does |
//! |---|---|
//! | `connect4`, `connect6` | the rule of the destination's longest prefix: direct, deny, or (without one) redirect: TCP goes to the agent's listener in the socket's own network namespace; questions to servers of names (UDP port 53) to the agent too; what cannot be redirected is denied |
//! | `sock_ops` | before the SYN: the flow goes into the table that the agent reads; a failed connect takes it out |
//! | `getpeername4`, `getpeername6` | the process sees the peer that it asked for |
//! | `sendmsg4`, `sendmsg6` | UDP port 53 goes to the agent, a port for each server; other UDP is denied |
//! | `recvmsg4`, `recvmsg6` | the process sees the server that it asked |
//! | `bind4`, `bind6` | nobody takes the agent's ports |
//! | `sock_create` | TCP and UDP only |
//! | `cgroup_skb/egress` | twice: writes down whose question to a server a datagram to the agent is; and the backstop: what leaves the host is an answer, or direct by a rule |
//! | `cgroup_skb/ingress` | nobody outside connects to a governed process, unless a rule allows it |
//! | `sched_process_fork`, `sched_process_exit` | labels are inherited, and go with their process |
//!
//! Without a heartbeat of the agent for three seconds everything is denied. A full ring buffer loses the report, never
//! the denial; a full flow table refuses the connection.
//!
//! # Building
//!
//! Users build with stable Rust: the object is committed in `prebuilt/`, with what built it in `TOOLCHAIN.toml`.
//! `cargo xtask ebpf` builds it again, with the same bytes wherever the checkout is. After any change in `src` (tests are
//! kept in files called `tests.rs`, which do not count) do that and commit both files; a test fails until then.
#![cfg_attr(not(test), no_std)]

mod abi;
mod verdict;

pub use abi::{
    Address, Counter, DNS_PATIENCE_NS, DNS_RESOLVER_SLOTS, DNS_SLOTS, DatagramKey, DenialEvent, DnsSocket,
    FlowKey, FlowValue, Hook, Identity, LISTENER_PORTS, Listener, RUN_LABEL, Rule, RuleKey, State,
};
pub use verdict::{
    HEARTBEAT_LIMIT_NS, Kind, NO_RESOLVER, Packet, Question, Reason, RuleVerdict, Verdict, choose, dns_slot,
    inbound_allowed, packet_allowed, socket_allowed, verdict,
};
