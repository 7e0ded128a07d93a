//! Where control sockets are, and whom a token may be given to.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Of agents that run as root.
const SYSTEM: &str = "/run/interdict";

/// Where this process's own socket belongs: `/run/interdict` for root, below the XDG runtime directory for others.
#[must_use]
pub fn directory() -> PathBuf {
    match own_runtime() {
        Some(own) if !rustix::process::geteuid().is_root() => own,
        _ => PathBuf::from(SYSTEM),
    }
}

/// Where agents of this host may be found: those of root, which any user may have to decide for, and one's own.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    [PathBuf::from(SYSTEM)].into_iter().chain(own_runtime()).collect()
}

fn own_runtime() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
    Some(PathBuf::from(runtime).join("interdict"))
}

/// Makes the directory; one that somebody else could put sockets into is refused, as they would be given tokens.
pub(super) fn prepare(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(dir) {
        // Whatever the umask: approvers are ordinary users.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(dir)?;
    let ours = is_trusted(found.uid(), rustix::process::geteuid().as_raw());
    if found.is_dir() && ours && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} must be a directory that only its owner, root or the agent's user, can write to",
        dir.display()
    )))
}

/// Removes the sockets of agents that have ended. One with the number of the agent `own` is left from an earlier one.
pub(super) fn remove_stale(dir: &Path, own: u32) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix("run-")?.strip_suffix(".sock")?.parse::<u32>().ok());
        if let Some(pid) = pid
            && (pid == own || !Path::new("/proc").join(pid.to_string()).exists())
        {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(?name, ?removed, "stale control socket");
        }
    }
}

/// Removes the socket of this process, which another answered at and could not remove.
pub fn forget() {
    let path = directory().join(format!("run-{}.sock", std::process::id()));
    let removed = fs::remove_file(path);
    tracing::debug!(?removed, "the control socket");
}

/// Whether a process of `uid` is as good as oneself: root could read everything anyway.
pub(super) const fn is_trusted(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}
