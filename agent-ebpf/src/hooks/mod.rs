//! The programs. A function must not have the name of its own ELF section (`connect4`): the linker refuses it.
//!
//! Every program but those of `task` is attached to a governed cgroup, so whatever runs it is governed; the label only
//! says since when.
#![expect(unsafe_code, reason = "kernel contexts and helpers are raw pointers")]
#![expect(dead_code, reason = "the programs are called by the kernel")]

mod address;
mod dns;
mod flow;
mod packet;
mod report;
mod socket;
mod task;

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use interdict_ebpf::{
    Address, Counter, DatagramKey, DnsSocket, FlowKey, FlowValue, Listener, RUN_LABEL, Rule, RuleKey, State,
    choose,
};

/// The helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// Where `task_struct` keeps `tgid`, in bytes; set by the loader from the kernel's own BTF, 0 when unknown (then labels
/// are not inherited, and the agent says so).
#[unsafe(no_mangle)]
static TGID_OFFSET: u32 = 0;
/// Where `task_struct` keeps `signal`; as above.
#[unsafe(no_mangle)]
static SIGNAL_OFFSET: u32 = 0;
/// Where `signal_struct` keeps `live`, its count of threads that have not ended; as above.
#[unsafe(no_mangle)]
static LIVE_OFFSET: u32 = 0;

#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
#[map]
static LISTENERS: HashMap<u64, Listener> = HashMap::with_max_entries(1024, 0);
/// The host's resolvers by their number.
#[map]
static RESOLVERS: HashMap<Address, u8> = HashMap::with_max_entries(16, 0);
#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(16384, 0);
/// Who may connect to governed processes: the address is the other side's, the port the process's.
#[map]
static INBOUND: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(1024, 0);
/// Questions to servers on their way to the agent.
#[map]
static DATAGRAMS: HashMap<DatagramKey, FlowValue> = HashMap::with_max_entries(8192, 0);
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
/// Sockets that ask servers of names.
#[btf_map]
static ASKING: SkStorage<DnsSocket> = SkStorage::new();
/// Sockets whose connection somebody else opened: their packets are answers.
#[btf_map]
static ACCEPTED: SkStorage<u32> = SkStorage::new();

/// The rule for a destination. Whoever has no label is in the run's cgroup all the same.
#[inline(always)]
fn rule_in(rules: &LpmTrie<RuleKey, Rule>, label: u32, destination: &Address) -> Rule {
    let mut key = RuleKey {
        label: if label == 0 { RUN_LABEL } else { label },
        port: destination.port,
        pad: 0,
        ip: destination.ip,
    };
    let exact = *rules.get(Key::new(RuleKey::BITS, key)).unwrap_or(&Rule::NONE);
    key.port = 0;
    let any = *rules.get(Key::new(RuleKey::BITS, key)).unwrap_or(&Rule::NONE);
    choose(exact, any)
}

#[inline(always)]
fn bytes_of(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}
