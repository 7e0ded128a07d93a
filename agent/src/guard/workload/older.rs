//! Connections that are older than the guard: no hook has judged them, so they are ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::netlink::{self, Connected};
use super::namespace::{Namespace, NamespaceId};
use super::processes::{Seen, below, processes_below};

/// Ends every connection, inbound ones too, that a process at or below `cgroup` has, or whose socket was made there; in
/// every network namespace of its processes. How many there were.
///
/// Sockets that nobody has open (in flight over a Unix socket) are found by the cgroup that they were made in (Linux 5.7).
/// Connections to `listeners` on the loopback are the guard's own work: they stay.
#[must_use]
pub fn close_older(cgroup: &Path, listeners: &BTreeSet<u16>) -> usize {
    each_older(cgroup, listeners, |socket| match netlink::destroy(socket) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::error!(%error, cgroup = %cgroup.display(), "a connection older than the guard could not be closed");
            false
        }
    })
}

/// How many such connections there are, without closing them.
#[must_use]
pub fn count_older(cgroup: &Path, listeners: &BTreeSet<u16>) -> usize {
    each_older(cgroup, listeners, |_| true)
}

fn each_older(cgroup: &Path, listeners: &BTreeSet<u16>, close: impl Fn(&Connected) -> bool + Sync) -> usize {
    let seen = processes_below(cgroup);
    let cgroups = ids_below(cgroup);
    let inodes: BTreeSet<u64> = seen.iter().flat_map(sockets).collect();
    let mut namespaces: BTreeMap<NamespaceId, u32> = BTreeMap::new();
    for Seen { pid, namespace, .. } in &seen {
        namespaces.extend(namespace.map(|id| (id, *pid)));
    }
    let mut closed = 0;
    for pid in namespaces.values() {
        let done = Namespace::of(*pid).and_then(|namespace| {
            namespace.enter(|| {
                let of_workload = |socket: &&Connected| {
                    let own = socket.peer.ip().to_canonical().is_loopback()
                        && listeners.contains(&socket.peer.port());
                    !own && (inodes.contains(&socket.inode)
                        || socket.cgroup.is_some_and(|id| cgroups.contains(&id)))
                };
                let all = netlink::connected()?;
                Ok(all.iter().filter(of_workload).filter(|s| close(s)).count())
            })
        });
        match done {
            Ok(count) => closed += count,
            Err(error) => tracing::debug!(pid, %error, "its connections could not be looked at"),
        }
    }
    closed
}

fn ids_below(cgroup: &Path) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        ids.extend(fs::metadata(&directory).ok().map(|meta| meta.ino()));
        open.extend(below(&directory));
    }
    ids
}

/// The inodes of a process's sockets; none where it ended meanwhile, and its number may be another's.
fn sockets(seen: &Seen) -> Vec<u64> {
    let Some(pid) = i32::try_from(seen.pid).ok().and_then(Pid::from_raw) else {
        return Vec::new();
    };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Vec::new();
    };
    let entries = fs::read_dir(format!("/proc/{}/fd", seen.pid));
    let links = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| fs::read_link(e.path()).ok());
    let inode = |link: std::path::PathBuf| {
        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        text.parse().ok()
    };
    let found = links.filter_map(inode).collect();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&now)) {
        // Readable: it has ended.
        Ok(0) => found,
        _ => Vec::new(),
    }
}
