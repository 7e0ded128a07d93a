//! Everything that touches the kernel: hooks, maps, listeners, the governed cgroup. The only privileged room.

mod flow;

pub use flow::{Flow, FlowSource};
