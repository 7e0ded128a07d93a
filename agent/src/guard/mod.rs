//! Everything that touches the kernel: hooks, maps, listeners, the governed cgroup. The only privileged room.

mod answers;
mod attach;
mod belongings;
mod btf;
mod cgroup;
mod client;
mod confine;
mod counters;
mod datagrams;
mod denials;
mod error;
mod filter;
mod flow;
mod heartbeat;
mod hooks;
mod launch;
mod link;
#[cfg(test)]
mod link_tests;
mod listeners;
mod lsm;
mod mounts;
mod netlink;
mod object;
mod others;
mod pins;
mod process;
mod proxy_filter;
mod remains;
mod rules;
mod server;
#[cfg(test)]
mod server_tests;
mod service;
mod supervise;
mod sys;
mod table;
mod trust;
mod unprivileged;
mod workload;

pub use attach::{HookState, probe};
pub use belongings::{BelongingsError, give};
pub use cgroup::RunCgroup;
pub use client::{GuardLink, Handed, Order};
pub use confine::has_domains;
pub use counters::{CounterReader, Counters};
pub use denials::{Denial, Denials};
pub use error::GuardError;
pub use flow::{DatagramSource, Flow, FlowSource};
pub use hooks::{Cost, count_costs};
pub use hooks::{Features, Guard};
pub use launch::{Identity, LaunchSpec, Launched, Launching, launch, launched_main};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use link::promise as link_promise;
pub use link::{Link, LinkError};
pub use lsm::lsm_is_active;
pub use others::{Order as HookOrder, order_at, programs_of_host};
pub use pins::bpffs;
pub use remains::{Remains, remains};
pub use rules::RuleTable;
pub use server::{Allowed, Heard, Overseen, Proxy};
pub use service::{
    Begin, Beginning, Door, Expected, GovernedPod, ServiceHeard, ServiceLink, ServiceOrder, ServiceProxy,
    WorkloadTables,
};
pub use sys::{clock_is_kept, inherited_descriptors};
pub use trust::system_bundles;
pub use unprivileged::{Lowly, Standing, UnprivilegedError, give_up};
pub use workload::{
    AgentPins, CgroupTree, Namespace, NamespaceId, NamespaceListeners, Seen, TreeEvent, WorkloadGuard,
    cgroup_of_self, close_older, count_older, holds_cgroup, processes, processes_below,
};
