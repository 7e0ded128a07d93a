//! The state directory becomes the proxy's: made, and its entries given to the proxy's user.
//!
//! Whoever owns a directory can put links into it, so nothing is followed and no file with a second name is touched.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, open, openat, statat};

/// What an agent keeps in its directories; anything else in a directory that is to be given away is somebody else's.
const OWN: [&str; 8] = [
    "audit",
    "ca",
    "mask.",
    "approvals.",
    "mcp-tools.",
    "usage.",
    "serve.",
    "lost+found",
];
/// Levels of directories below one that is given away: records are in `audit/BOOT/`.
const DEPTH: usize = 3;

/// Why the directories cannot be given to the proxy.
#[derive(Debug, thiserror::Error)]
pub enum BelongingsError {
    /// A file system.
    #[error("{path} cannot be given to the agent's user: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds other things.
    #[error(
        "{path} holds {other:?}, which is no agent's: give the agent a directory of its own (state_dir), as it gives all of it to its own user"
    )]
    Shared {
        /// Which.
        path: PathBuf,
        /// What.
        other: String,
    },
}

/// Makes `state` and `audit` where they are missing, and gives them and what is in them to the user; true where somebody
/// else had them before.
///
/// # Errors
/// Where the directory holds other things, or the file system refuses.
pub fn give(state: &Path, audit: &Path, uid: u32, gid: u32) -> Result<bool, BelongingsError> {
    let mut changed = false;
    for directory in [state, audit] {
        let failed = |source| BelongingsError::File {
            path: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(failed)?;
        let top = open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(e.into()))?;
        let found = rustix::fs::fstat(&top).map_err(|e| failed(e.into()))?;
        let ours = found.st_uid == uid;
        if !ours
            && directory == state
            && let Some(other) = others(directory).map_err(failed)?
        {
            let path = directory.to_owned();
            return Err(BelongingsError::Shared { path, other });
        }
        let before = changed;
        changed |= !ours;
        changed |= entries(&top, uid, gid, DEPTH).map_err(failed)?;
        if !ours {
            rustix::fs::fchown(&top, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| failed(e.into()))?;
        }
        if changed && !before {
            tracing::debug!(directory = %directory.display(), uid, "given to the agent's user");
        }
    }
    Ok(changed)
}

/// Something in the directory that no agent puts there.
fn others(directory: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !OWN.iter().any(|own| name.starts_with(own)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Gives what is in `directory` away; whether anything was another's.
fn entries(directory: &OwnedFd, uid: u32, gid: u32, depth: usize) -> io::Result<bool> {
    let mut changed = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let found = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            // Another agent was quicker.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        if found.st_uid != uid && can_be_given(&found, kind) {
            let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) => changed = true,
                // Something that is mounted there, such as a cluster's secret: whoever mounts it says who reads it.
                Err(rustix::io::Errno::ROFS) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if kind == FileType::Directory && depth > 0 {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(directory, name, flags, Mode::empty())?;
            changed |= entries(&below, uid, gid, depth - 1)?;
        }
    }
    Ok(changed)
}

fn can_be_given(found: &Stat, kind: FileType) -> bool {
    // With a second name it may be a file of somebody else's.
    kind == FileType::Directory || (kind == FileType::RegularFile && found.st_nlink == 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_not_the_agents_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let own = rustix::process::geteuid().as_raw();
        let state = dir.path().join("state");
        fs::create_dir(&state).expect("made");
        fs::write(state.join("mask.key"), "k").expect("written");
        fs::write(dir.path().join("secret"), "s").expect("written");
        fs::create_dir(state.join("audit")).expect("made");
        symlink(dir.path().join("secret"), state.join("audit/index.db")).expect("linked");
        fs::hard_link(dir.path().join("secret"), state.join("audit/signing.key")).expect("linked");
        let audit = state.join("audit");
        let changed = give(&state, &audit, own, rustix::process::getegid().as_raw()).expect("given");
        assert!(!changed, "nothing was another's");
        if own != 0 {
            return;
        }
        assert!(give(&state, &audit, 65_210, 65_210).expect("given"));
        let owner = |path: PathBuf| fs::symlink_metadata(path).expect("there").uid();
        for given in [state.clone(), audit.clone(), state.join("mask.key")] {
            assert_eq!(owner(given.clone()), 65_210, "{}", given.display());
        }
        assert_eq!(owner(dir.path().join("secret")), 0, "through a link");
        fs::write(state.join("thesis.txt"), "").expect("written");
        let refused = give(&state, &audit, 65_211, 65_211);
        assert!(
            matches!(&refused, Err(BelongingsError::Shared { other, .. }) if other == "thesis.txt"),
            "{refused:?}"
        );
    }
}
