//! Programs of others (Cilium's, systemd's, …) on the way of what is governed: which there are, and in which order the kernel runs them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::cgroup::cgroup2_mount;
use super::sys::effective_programs;

/// Where programs are attached (`enum bpf_attach_type`, include/uapi/linux/bpf.h), by the name of the agent's hook there.
const POINTS: [(&str, u32); 12] = [
    ("ingress", 0),
    ("egress", 1),
    ("sock_create", 2),
    ("sock_ops", 3),
    ("bind4", 8),
    ("bind6", 9),
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The programs at one place, by their names, in the order in which they run.
pub type Order = (&'static str, Vec<String>);

/// Every program that runs for a process in the cgroup `directory`: those of the cgroup itself first, then those of the ones above
/// it (`compute_effective_progs`, kernel/bpf/cgroup.c). Places without any are left out.
///
/// # Errors
/// Where the kernel does not say (it says it to root).
pub fn order_at(directory: &Path) -> io::Result<Vec<Order>> {
    let cgroup = File::open(directory)?;
    let mut found: Vec<(&'static str, Vec<u32>)> = Vec::new();
    for (name, point) in POINTS {
        let programs = effective_programs(cgroup.as_fd(), point)?;
        if !programs.is_empty() {
            found.push((name, programs));
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let loaded = aya::programs::loaded_programs().flatten();
    let names: BTreeMap<u32, String> = loaded
        .map(|program| {
            let name = program.name_as_str().unwrap_or_default();
            (program.id(), name.to_owned())
        })
        .collect();
    let named = |id: &u32| match names.get(id) {
        Some(name) if !name.is_empty() => name.clone(),
        Some(_) | None => format!("program {id}"),
    };
    let orders = found
        .into_iter()
        .map(|(place, programs)| (place, programs.iter().map(named).collect()));
    Ok(orders.collect())
}

/// Every program that runs for all processes of this host: those of others, as the agent attaches none there.
///
/// # Errors
/// As [`order_at`], and where there is no cgroup2.
pub fn programs_of_host() -> io::Result<Vec<Order>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let root = cgroup2_mount(&mounts).ok_or(io::ErrorKind::NotFound)?;
    order_at(&root)
}
