//! Everything that touches the kernel: hooks, maps, listeners, the governed cgroup. The only privileged room.

mod attach;
mod btf;
mod cgroup;
mod confine;
mod counters;
mod denials;
mod error;
mod filter;
mod flow;
mod heartbeat;
mod hooks;
mod launch;
mod listeners;
mod lsm;
mod mounts;
mod netlink;
mod object;
mod pins;
mod process;
mod remains;
mod rules;
mod supervise;
mod sys;
mod table;
mod trust;
mod workload;

pub use attach::{HookState, probe};
pub use cgroup::RunCgroup;
pub use confine::has_domains;
pub use counters::{CounterReader, Counters};
pub use denials::{Denial, Denials};
pub use error::GuardError;
pub use flow::{Flow, FlowSource};
pub use hooks::{Cost, count_costs};
pub use hooks::{Features, Guard};
pub use launch::{Identity, LaunchSpec, Launched, Launching, launch, launched_main};
pub use lsm::lsm_is_active;
pub use pins::bpffs;
pub use remains::{Remains, remains};
pub use rules::RuleTable;
pub use sys::{clock_is_kept, inherited_descriptors};
pub use trust::system_bundles;
pub use workload::{
    AgentPins, CgroupTree, Namespace, NamespaceId, NamespaceListeners, Seen, TreeEvent, WorkloadGuard,
    cgroup_of_self, close_older, count_older, processes, processes_below,
};
