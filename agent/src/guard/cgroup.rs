//! The cgroup of one run: made below the cgroup2 mount, hooks attached to it, removed at the end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};

use super::error::GuardError;
use super::pins;

/// The directory for all runs, below the cgroup2 mount.
pub(super) const PARENT: &str = "interdict";

/// The cgroup of one run: `interdict/run-PID-START/` with the hooks, `workload` below it with the processes.
#[derive(Debug)]
pub struct RunCgroup {
    path: PathBuf,
    directory: File,
    left: bool,
}

impl RunCgroup {
    /// Makes it, after removing what agents that died have left (empty ones only).
    ///
    /// # Errors
    /// Where there is no cgroup2 mount or it cannot be written to.
    pub fn create() -> Result<Self, GuardError> {
        let parent = mount_point()?.join(PARENT);
        let denied = |source: io::Error| {
            if source.kind() == io::ErrorKind::PermissionDenied {
                return GuardError::NotRoot;
            }
            GuardError::Kernel {
                what: "cannot make the cgroup",
                path: parent.clone(),
                source,
            }
        };
        fs::create_dir_all(&parent).map_err(denied)?;
        remove_stale(&parent);
        let path = parent.join(format!(
            "run-{}-{}",
            std::process::id(),
            crate::clock::now().as_nanos()
        ));
        make(&parent, &path)
            .and_then(|()| fs::create_dir(path.join("workload")))
            .map_err(GuardError::kernel("cannot make the cgroup", &path))?;
        let directory = File::open(&path).map_err(GuardError::kernel("cannot open the cgroup", &path))?;
        let left = false;
        Ok(Self {
            path,
            directory,
            left,
        })
    }

    /// The directory that hooks are attached to.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its id, which the kernel shows as the directory's inode (kernfs, 64 bits).
    pub(super) fn id(&self) -> Result<u64, GuardError> {
        let metadata = self.directory.metadata();
        Ok(metadata
            .map_err(GuardError::kernel("cannot look at the cgroup", &self.path))?
            .ino())
    }

    /// Its name, unique on this host.
    pub(super) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(std::ffi::OsStr::to_str)
            .unwrap_or("run")
    }

    /// Where a process writes `0` to join.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.path.join("workload").join("cgroup.procs")
    }

    /// Waits until no process is left.
    ///
    /// # Errors
    /// Where `cgroup.events` cannot be read.
    pub async fn wait_empty(&self) -> Result<(), GuardError> {
        let path = self.path.join("cgroup.events");
        let failed = GuardError::kernel("cannot watch", &path);
        let waiting = tokio::task::spawn_blocking({
            let path = path.clone();
            move || wait_unpopulated(&path)
        });
        waiting
            .await
            .map_err(io::Error::other)
            .and_then(|done| done)
            .map_err(failed)
    }

    /// Leaves it where it is, with its processes: the next agent removes it when the last of them has ended.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// Ends every process that is left (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        if let Err(error) = fs::write(self.path.join("cgroup.kill"), "1") {
            tracing::warn!(%error, "the processes of the run could not be ended");
        }
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        for path in [self.path.join("workload"), self.path.clone()] {
            if let Err(error) = fs::remove_dir(&path) {
                tracing::warn!(path = %path.display(), %error, "the cgroup could not be removed");
            }
        }
        // Other runs may live beside it: then it is not empty.
        if let Some(parent) = self.path.parent() {
            let _kept = fs::remove_dir(parent);
        }
    }
}

/// Makes a directory below `parent`, which another agent that ends right now may take away in between.
pub(super) fn make(parent: &Path, path: &Path) -> io::Result<()> {
    for _ in 0..16 {
        fs::create_dir_all(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Polls `cgroup.events` (POLLPRI on each change, cgroup-v2.rst) until it says `populated 0`. A second at most between
/// two looks, so that a missed change costs a second and not the run.
fn wait_unpopulated(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let pause = rustix::event::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where cgroup2 is mounted.
///
/// # Errors
/// Where it is not.
pub(super) fn mount_point() -> Result<PathBuf, GuardError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(GuardError::kernel("cannot read", "/proc/self/mountinfo"))?;
    cgroup2_mount(&mounts).ok_or(GuardError::NoCgroup2)
}

/// Where cgroup2 is mounted: hybrid hierarchies keep it beside version 1.
pub(super) fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    all_cgroup2_mounts(mountinfo).next()
}

/// Every place where cgroup2 is mounted, once.
pub(super) fn cgroup2_mounts(mountinfo: &str) -> BTreeSet<PathBuf> {
    all_cgroup2_mounts(mountinfo).collect()
}

/// proc(5): the file system type follows ` - `.
fn all_cgroup2_mounts(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (mount, fs) = line.split_once(" - ")?;
        if fs.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let point = mount.split(' ').nth(4)?;
        Some(PathBuf::from(point.replace("\\040", " ")))
    })
}

/// Removes the directories of agents that no longer live. A directory with processes in it cannot be removed: those
/// processes stay under whatever hooks they have.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix("run-"))
            .and_then(|n| n.split('-').next());
        let Some(pid) = pid.and_then(|p| p.parse::<u32>().ok()) else {
            continue;
        };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        let removed =
            fs::remove_dir(entry.path().join("workload")).and_then(|()| fs::remove_dir(entry.path()));
        if removed.is_ok()
            && let Some(name) = name.to_str()
        {
            pins::remove_run(name);
        }
        tracing::debug!(?name, ?removed, "stale cgroup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_in_hybrid_hierarchies() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu\n";
        let pure = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount(pure), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("32 30 0:28 / /x rw - cgroup cgroup rw\n"), None);
    }
}
