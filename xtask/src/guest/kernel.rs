//! The guest's kernel and its first program: Debian's packages, unpacked below `target/tools` and never installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::shell::{command, output, run, step, tools};

/// Debian's newest kernel depends on this name.
const KERNEL: &str = "linux-image-amd64";
/// What the guest starts with: one static program that is every usual one.
const BUSYBOX: &str = "busybox-static";

/// What was unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The kernel that is booted.
    pub(super) image: PathBuf,
    /// Its modules, with `modules.dep`.
    pub(super) modules: PathBuf,
    /// The static program.
    pub(super) busybox: PathBuf,
}

/// The kernel, fetched the first time. To take a newer one, delete `target/tools/guest`.
pub(super) fn kernel() -> Result<Kernel> {
    let root = tools().join("guest/unpacked");
    if !root.exists() {
        step("Debian's kernel into target/tools/guest", || fetch(&root))?;
    }
    let (boot, modules) = (root.join("boot"), root.join("lib/modules"));
    Ok(Kernel {
        image: only(&boot, "vmlinuz-")?,
        modules: only(&modules, "")?,
        busybox: root.join("bin/busybox"),
    })
}

/// The one entry whose name begins so.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    paths
        .find(named)
        .with_context(|| format!("no {prefix}… in {}", directory.display()))
}

fn fetch(root: &Path) -> Result<()> {
    let parent = root.parent().context("no parent")?;
    let fresh = parent.join(format!("fetch-{}", std::process::id()));
    let unpacked = fresh.join("unpacked");
    std::fs::create_dir_all(&unpacked)?;
    let done = download(&fresh)
        .and_then(|()| unpack(&fresh, &unpacked))
        .and_then(|()| {
            // Somebody else may have been faster.
            std::fs::rename(&unpacked, root).or_else(
                |error| {
                    if root.exists() { Ok(()) } else { Err(error) }
                },
            )?;
            Ok(())
        });
    std::fs::remove_dir_all(&fresh)?;
    done
}

fn download(into: &Path) -> Result<()> {
    let depends = output(command("apt-cache", &["depends", "--important", KERNEL]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt knows no {KERNEL} (apt-get update)"))?;
    let mut download = command("apt-get", &["download", "-q", "-o", "APT::Sandbox::User=root"]);
    download.args([package, BUSYBOX]).current_dir(into);
    output(download).map(drop)
}

fn unpack(from: &Path, into: &Path) -> Result<()> {
    let into_text = into.display().to_string();
    let mut packages = 0;
    for entry in std::fs::read_dir(from)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "deb") {
            run(command(
                "dpkg-deb",
                &["-x", &path.display().to_string(), &into_text],
            ))?;
            packages += 1;
        }
    }
    ensure!(packages == 2, "{packages} packages came in the place of two");
    // What an installed kernel would have from depmod.
    let modules = only(&into.join("lib/modules"), "")?;
    let version = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let busybox = into.join("bin/busybox").display().to_string();
    run(command(&busybox, &["depmod", "-b", &into_text, &version]))
}
