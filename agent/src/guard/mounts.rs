//! What the command sees of the file system: its own mount namespace, in which the sockets of daemons are hidden and, for
//! root, what could free it cannot be reached. The host's own mounts are not touched.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

use super::cgroup::cgroup2_mounts;

/// Written to by root, these change what the whole host does (`core_pattern`, for one, is a program that the kernel starts).
const READ_ONLY: [&str; 3] = ["/sys", "/proc/sys", "/proc/sysrq-trigger"];
/// Where the hooks' pins are.
const BPFFS: [&str; 2] = ["/sys/fs/bpf", "/run/interdict/bpf"];
/// With these, root undoes what is hidden, loads modules, reaches into other processes and namespaces, or changes where
/// packets go.
const DROPPED: [CapabilitySet; 10] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::NET_ADMIN,
    CapabilitySet::MKNOD,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
];

/// Gives this process and its descendants mounts of their own. False where it may not, as in a container without that
/// right; nothing has changed then.
///
/// # Errors
/// Where they would be the host's all the same: the command must not start then.
pub(super) fn own() -> io::Result<bool> {
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return Ok(false);
    }
    // What the host mounts later is seen; what is mounted here is not seen there.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(true)
}

/// Hides what the patterns name, wherever it is there: a directory becomes an empty one that nobody may enter, anything
/// else a file that nothing can connect to. `*` stands for any one part of a path. What holds a path of `except` stays.
///
/// # Errors
/// Where something cannot be hidden: the command must not start then.
pub(super) fn hide(patterns: &[PathBuf], except: &[PathBuf]) -> io::Result<()> {
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_absent| path.clone());
    let except: Vec<PathBuf> = except.iter().map(real).collect();
    for path in patterns.iter().flat_map(|pattern| matching(pattern)) {
        // Whoever is not there, or goes just now, needs no hiding.
        let Ok(path) = path.canonicalize() else { continue };
        if except.iter().any(|kept| kept.starts_with(&path)) {
            continue;
        }
        match cover(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

fn cover(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("hidden", path, "tmpfs", flags, Some(c"size=4k,mode=000"))?;
    } else {
        mount_bind("/dev/null", path)?;
    }
    Ok(())
}

/// The paths that exist and that a pattern names.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        if part.as_os_str() != "*" {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        found = found
            .into_iter()
            .flat_map(entries)
            .map(|entry| entry.path())
            .collect();
    }
    found.retain(|path| path.exists());
    found
}

/// Keeps a command that stays root from undoing the guard: of the cgroup tree it sees `own` only, of bpffs nothing, and
/// what changes the host is read only. [`drop_capabilities`] keeps it from undoing that.
///
/// # Errors
/// Where any of that cannot be: the command must not start then.
pub(super) fn bind_root(own: &Path) -> io::Result<()> {
    // By its descriptor: the first mount hides its path.
    let own = std::fs::File::open(own)?;
    let own = format!("/proc/self/fd/{}", own.as_raw_fd());
    for path in READ_ONLY.iter().map(Path::new).filter(|path| path.exists()) {
        mount_bind_recursive(path, path)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_remount(path, MountFlags::BIND | flags, "")?;
    }
    for path in BPFFS.iter().map(Path::new).filter(|path| path.is_dir()) {
        cover(path)?;
    }
    // A read only mount would not do: CLONE_INTO_CGROUP takes any directory that can be opened.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for place in cgroup2_mounts(&mounts) {
        mount_bind(&own, &place)?;
    }
    Ok(())
}

/// Takes the capabilities that could undo the guard from a command that stays root, for good.
///
/// # Errors
/// Where they cannot be taken: the command must not start then.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for capability in DROPPED {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know the capability.
            Err(rustix::io::Errno::INVAL) => {}
            done => done?,
        }
    }
    let mut sets = capabilities(None)?;
    let dropped = DROPPED.iter().fold(CapabilitySet::empty(), |all, one| all | *one);
    sets.effective.remove(dropped);
    sets.permitted.remove(dropped);
    sets.inheritable.remove(dropped);
    Ok(set_capabilities(None, sets)?)
}

/// Whether a process has mounts of its own.
pub(super) fn has_own(pid: u32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let (theirs, ours) = (namespace(&pid.to_string()), namespace("self"));
    theirs.is_some() && theirs != ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_part_of_a_path() {
        let dir = tempfile::tempdir().expect("directory");
        for name in ["1/bus", "2/bus", "2/other", "3"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("directory");
        }
        let mut found = matching(&dir.path().join("*/bus"));
        found.sort();
        assert_eq!(found, [dir.path().join("1/bus"), dir.path().join("2/bus")]);
        assert_eq!(matching(&dir.path().join("3")), [dir.path().join("3")]);
        assert!(matching(Path::new("/nonexistent/*/x")).is_empty());
    }
}
