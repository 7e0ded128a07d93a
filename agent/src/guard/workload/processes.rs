//! Processes of cgroups, as `/proc` shows them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::namespace::NamespaceId;

/// A process, as it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Device and inode of what it runs; `None` for a kernel thread.
    pub executable: Option<(u64, u64)>,
    /// Its network namespace.
    pub namespace: Option<NamespaceId>,
}

/// The processes that are in a cgroup itself; those that end while they are looked at are left out.
#[must_use]
pub fn processes(cgroup: &Path) -> Vec<Seen> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // A process of another pid namespace shows as 0.
    let numbers = text.lines().filter_map(|line| line.parse().ok());
    numbers.filter(|pid| *pid != 0).filter_map(look).collect()
}

/// The processes that are in a cgroup or below it.
#[must_use]
pub fn processes_below(cgroup: &Path) -> Vec<Seen> {
    let mut found = Vec::new();
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        found.extend(processes(&directory));
        open.extend(below(&directory));
    }
    found
}

/// Whether the cgroup with this id (the inode of its directory) is `cgroup` or lies below it.
#[must_use]
pub fn holds_cgroup(cgroup: &Path, id: u64) -> bool {
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        if fs::metadata(&directory).is_ok_and(|meta| meta.ino() == id) {
            return true;
        }
        open.extend(below(&directory));
    }
    false
}

/// The cgroups directly below one.
pub(super) fn below(cgroup: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path())
}

fn look(pid: u32) -> Option<Seen> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uid = uids.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let executable = fs::metadata(format!("/proc/{pid}/exe")).ok();
    Some(Seen {
        pid,
        uid,
        executable: executable.map(|meta| (meta.dev(), meta.ino())),
        namespace: NamespaceId::of(pid),
    })
}
