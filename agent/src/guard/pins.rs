//! Pins: what keeps the hooks attached when the agent dies.
//!
//! A link that is only held by a descriptor goes with its process: `kill -9` of the agent would free the governed
//! processes. So every link is pinned in bpffs below `interdict/RUN/`, and unpinned when the run has ended in good
//! order. What a dead agent left is removed by the next one, once no process of that run is left.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::cgroup::make;
use super::error::GuardError;

/// Where bpffs is mounted by convention (Documentation/bpf).
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// Where the agent mounts one of its own when there is none.
pub(super) const OWN_BPFFS: &str = "/run/interdict/bpf";

/// The pins of one run.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    left: bool,
}

impl Pins {
    /// Makes the directory for the run `name`.
    pub(super) fn create(name: &str) -> Result<Self, GuardError> {
        let parent = bpffs()?.join("interdict");
        let directory = parent.join(name);
        make(&parent, &directory).map_err(GuardError::kernel("cannot make", &directory))?;
        let left = false;
        Ok(Self { directory, left })
    }

    /// They are not removed when this is dropped.
    pub(super) const fn leave(&mut self) {
        self.left = true;
    }

    /// Where to pin `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.left {
            remove(&self.directory);
        }
    }
}

/// Removes the pins of a run that has ended: its hooks are detached by it.
pub(super) fn remove_run(name: &str) {
    for mount in [BPFFS, OWN_BPFFS] {
        let directory = Path::new(mount).join("interdict").join(name);
        if directory.exists() {
            remove(&directory);
        }
    }
}

/// A mounted bpffs: the usual one, else the agent's own, mounted when needed.
///
/// # Errors
/// Where none is mounted and none can be.
pub fn bpffs() -> Result<PathBuf, GuardError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(GuardError::kernel("cannot read", "/proc/self/mountinfo"))?;
    for mount in [BPFFS, OWN_BPFFS] {
        if is_bpffs(&mounts, mount) {
            return Ok(mount.into());
        }
    }
    let failed = || GuardError::kernel("no bpffs is mounted, and one cannot be mounted on", OWN_BPFFS);
    fs::create_dir_all(OWN_BPFFS).map_err(failed())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", OWN_BPFFS, "bpf", flags, Some(c"mode=0700")).map_err(|errno| failed()(errno.into()))?;
    Ok(OWN_BPFFS.into())
}

pub(super) fn is_bpffs(mountinfo: &str, point: &str) -> bool {
    mountinfo.lines().any(|line| {
        line.split_once(" - ")
            .is_some_and(|(mount, fs)| fs.starts_with("bpf ") && mount.split(' ').nth(4) == Some(point))
    })
}

/// Removes a directory of pins with all below it.
pub(super) fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_tree(&path);
        } else if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a pin could not be removed");
        }
    }
    if directory.exists()
        && let Err(error) = fs::remove_dir(directory)
    {
        tracing::warn!(path = %directory.display(), %error, "pins could not be removed");
    }
}

fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a pin could not be removed");
        }
    }
    if directory.exists()
        && let Err(error) = fs::remove_dir(directory)
    {
        tracing::warn!(path = %directory.display(), %error, "pins could not be removed");
    }
    if let Some(parent) = directory.parent() {
        // Other runs may have theirs beside it.
        let _kept = fs::remove_dir(parent);
    }
}
