//! A copy of this system that is thrown away: overlayfs over the real one, in namespaces of its own.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// What a script did there.
#[derive(Debug)]
pub struct Copied {
    /// Everything that it printed.
    pub told: String,
    /// What it left with the agent's name, outside of `/run` and `/tmp`.
    pub left: Vec<PathBuf>,
}

/// Runs a shell script (`sh -e`) in `/tmp/p` of a copy, with `files` there; `None` where overlayfs cannot be mounted. With `kernel` it sees
/// the real `/sys`: nothing that takes hooks or cgroups of others away may run then.
///
/// # Errors
/// Where the script fails.
pub fn on_a_copy(files: &[&Path], kernel: bool, script: &str) -> Result<Option<Copied>> {
    let dir = tempfile::tempdir()?;
    for part in ["upper", "work", "root"] {
        fs::create_dir_all(dir.path().join(part))?;
    }
    let setting = "set -e; cd \"$1\"; script=$2; kernel=$3; shift 3; mount --make-rprivate /; \
                   mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root || exit 77; \
                   mount -t proc proc root/proc; mount -t tmpfs tmpfs root/run; mount -t tmpfs tmpfs root/tmp; \
                   mount --bind /dev root/dev; \
                   if [ $kernel = true ]; then mount --rbind /sys root/sys; else mount -t tmpfs tmpfs root/sys; fi; \
                   mkdir root/tmp/p; for f; do cp -r \"$f\" root/tmp/p/; done; \
                   exec chroot root sh -c 'cd /tmp/p; exec sh -ec \"$1\"' sh \"$script\"";
    let out = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "sh", "-c", setting, "sh"])
        .arg(dir.path())
        .args([script, if kernel { "true" } else { "false" }])
        .args(files)
        .env_remove("SUDO_UID")
        .output()?;
    if out.status.code() == Some(77) {
        return Ok(None);
    }
    let told = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if !out.status.success() {
        bail!("{} of\n{script}\n{told}", out.status);
    }
    let left = named(&dir.path().join("upper"))?;
    Ok(Some(Copied { told, left }))
}

/// What is below `upper` with the agent's name, and no mark of something removed (a character device, overlayfs' whiteout).
fn named(upper: &Path) -> Result<Vec<PathBuf>> {
    let mut open = vec![upper.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)?.flatten() {
            let kind = entry.file_type()?;
            if kind.is_char_device() {
                continue;
            }
            if kind.is_dir() {
                open.push(entry.path());
            }
            if entry.file_name().to_string_lossy().contains("interdict") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
