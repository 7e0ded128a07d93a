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
mod object;
mod pins;
mod process;
mod rules;
mod supervise;
mod sys;
mod table;
mod trust;

pub use attach::{HookState, probe};
pub use cgroup::RunCgroup;
pub use confine::has_domains;
pub use counters::{CounterReader, Counters};
pub use denials::{Denial, Denials};
pub use error::GuardError;
pub use flow::{Flow, FlowSource};
pub use hooks::{Cost, count_costs};
pub use hooks::{Features, Guard};
pub use launch::{Identity, LaunchSpec, Launched, launch, launched_main};
pub use lsm::lsm_is_active;
pub use pins::bpffs;
pub use rules::RuleTable;
pub use sys::clock_is_kept;
