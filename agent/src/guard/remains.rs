//! What agents have, or left, on a host: living agents and processes, cgroups, pins, a bpffs of the agent's own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::cgroup::{PARENT, cgroup2_mount};
use super::error::GuardError;
use super::pins::{BPFFS, OWN_BPFFS};

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// Agents whose control socket answers.
    pub agents: Vec<u32>,
    /// Living processes by cgroup: those of runs, and those of cgroups that a service left hooks on.
    pub processes: Vec<(PathBuf, Vec<u32>)>,
    /// Directories of pins.
    pub pins: Vec<PathBuf>,
    /// Cgroups that agents made.
    pub cgroups: Vec<PathBuf>,
    /// A bpffs that an agent mounted.
    pub mounts: Vec<PathBuf>,
}

/// Looks at the system below `root` (`/` outside tests: then the real mounts count).
///
/// # Errors
/// Where the mounts cannot be read.
pub fn remains(root: &Path) -> Result<Remains, GuardError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(GuardError::kernel("cannot read", "/proc/self/mountinfo"))?;
    let real = root == Path::new("/");
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let mut found = Remains {
        agents: agents(&below("/run/interdict")),
        ..Remains::default()
    };
    let cgroups = if real {
        cgroup2_mount(&mounts)
    } else {
        Some(below("/sys/fs/cgroup"))
    };
    let hooked = hooked([BPFFS, OWN_BPFFS].map(|mount| below(mount).join("interdict")));
    for cgroup in cgroups.iter().flat_map(|mount| with_inodes(mount, &hooked)) {
        let living = living(&cgroup);
        if !living.is_empty() {
            found.processes.push((cgroup, living));
        }
    }
    if let Some(parent) = cgroups.map(|mount| mount.join(PARENT))
        && parent.is_dir()
    {
        let living = living(&parent);
        if !living.is_empty() {
            found.processes.push((parent.clone(), living));
        }
        found.cgroups.push(parent);
    }
    for mount in [BPFFS, OWN_BPFFS] {
        let pins = below(mount).join("interdict");
        if pins.is_dir() {
            found.pins.push(pins);
        }
    }
    // One that another mount hides is not reached, and nobody's hooks are pinned in it here.
    if real && super::pins::is_bpffs(&mounts, OWN_BPFFS) && Path::new(OWN_BPFFS).is_dir() {
        found.mounts.push(OWN_BPFFS.into());
    }
    Ok(found)
}

/// Who answers: the kernel names the process behind a socket, its file name could be anybody's.
fn agents(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    let mut pids: Vec<u32> = sockets
        .filter_map(|path| UnixStream::connect(path).ok())
        .filter_map(|stream| rustix::net::sockopt::socket_peercred(&stream).ok())
        .filter_map(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Cgroups that links are pinned for: a service keeps them in `…/links/INODE/`.
fn hooked(pins: [PathBuf; 2]) -> BTreeSet<u64> {
    let mut open: Vec<PathBuf> = pins.into();
    let mut found = BTreeSet::new();
    while let Some(directory) = open.pop() {
        let of_links = directory.file_name().is_some_and(|name| name == "links");
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if of_links && let Some(inode) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                found.insert(inode);
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

/// The cgroups below a mount that have one of these inodes.
fn with_inodes(mount: &Path, wanted: &BTreeSet<u64>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![mount.to_owned()];
    while let Some(directory) = open.pop().filter(|_| !wanted.is_empty()) {
        if directory
            .metadata()
            .is_ok_and(|seen| wanted.contains(&seen.ino()))
        {
            found.push(directory.clone());
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(directories.map(|entry| entry.path()));
    }
    found
}

/// Every process in a cgroup and below it.
fn living(cgroup: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(directories.map(|entry| entry.path()));
    }
    pids.sort_unstable();
    pids
}
