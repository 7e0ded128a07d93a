//! The kernel half's ABI: what both sides of the maps agree on, and the pure verdict.
//!
//! The hooks (`main.rs`) are thin shells around [`verdict`]; the same function is tested on the host and used by the
//! agent to explain a denial. Every type that crosses a map is `repr(C)` with explicit padding, so that no
//! uninitialised byte becomes part of a key.
#![cfg_attr(not(test), no_std)]

mod abi;
mod verdict;

pub use abi::{Address, Counter, DenialEvent, FlowKey, FlowValue, Hook, Identity, Listener, State};
pub use verdict::{
    HEARTBEAT_LIMIT_NS, Kind, Packet, Question, Reason, Verdict, packet_allowed, socket_allowed, verdict,
};
