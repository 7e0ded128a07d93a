//! A Debian of the guest's own, with systemd as its first process: where packages are installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::shell::{command, output, step, tools};

/// The release that packages are made for.
const RELEASE: &str = "bookworm";
/// More than the smallest system.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,curl,python3-minimal";

/// Its folder, made the first time. To make it anew, delete it.
pub(super) fn debian() -> Result<PathBuf> {
    let root = tools().join("guest/debian");
    let made_of = root.join("etc/interdict-guest");
    let wanted = format!("{RELEASE} {PACKAGES}\n");
    if std::fs::read_to_string(&made_of).is_ok_and(|found| found == wanted) {
        return Ok(root);
    }
    step(
        "a Debian with systemd into target/tools/guest (a minute, once)",
        || make(&root, &wanted),
    )?;
    Ok(root)
}

fn make(root: &Path, made_of: &str) -> Result<()> {
    let parent = root.parent().context("no parent")?;
    std::fs::create_dir_all(parent)?;
    let fresh = parent.join(format!("debian-{}", std::process::id()));
    let include = format!("--include={PACKAGES}");
    let mut bootstrap = command("debootstrap", &["--variant=minbase", &include, RELEASE]);
    bootstrap.arg(&fresh).arg(mirror());
    let done = output(bootstrap).and_then(|_log| {
        std::fs::write(fresh.join("etc/interdict-guest"), made_of)?;
        std::fs::write(fresh.join("etc/hostname"), "guest\n")?;
        if root.exists() {
            std::fs::remove_dir_all(root)?;
        }
        Ok(std::fs::rename(&fresh, root)?)
    });
    if done.is_err() && fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    done?;
    ensure!(root.join("sbin/init").exists(), "the Debian has no systemd");
    Ok(())
}

/// Where this host takes its own packages from, so that a mirror or a proxy serves here too.
pub(super) fn mirror() -> String {
    let policy = output(command("apt-cache", &["policy", "base-files"])).unwrap_or_default();
    let line = policy
        .lines()
        .find(|line| line.contains(RELEASE) && line.contains("/main") && !line.contains("security"));
    let url = line.and_then(|line| {
        line.split_ascii_whitespace()
            .find(|word| word.starts_with("http"))
    });
    url.unwrap_or("http://deb.debian.org/debian").to_owned()
}
