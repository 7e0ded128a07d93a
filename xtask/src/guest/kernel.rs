//! The guest's kernel and its first program: Debian's packages, unpacked below `target/tools` and never installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::shell::{command, output, run, step, tools};

/// Debian's kernels are what this depends on.
const KERNEL: &str = "linux-image-amd64";
/// What the guest starts with: one static program that is every usual one.
const BUSYBOX: &str = "busybox-static";

/// The variable that chooses another kernel: a package that apt knows, or a release of Debian, whose newest is taken.
const CHOICE: &str = "INTERDICT_GUEST_KERNEL";

/// Which kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// The oldest that this host's release has: what verifiers refuse, older ones refuse first.
    Host,
    /// One package, from wherever this host takes its packages.
    Package(String),
    /// The newest of another release.
    Release(String),
}

impl Choice {
    fn folder(&self) -> String {
        match self {
            Self::Host => "kernel".into(),
            Self::Package(name) | Self::Release(name) => format!("kernel-{name}"),
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("this host's release"),
            Self::Package(name) | Self::Release(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(words: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c);
        ensure!(
            words.starts_with(|c: char| c.is_ascii_lowercase()) && words.chars().all(plain),
            "{CHOICE}={words:?} is neither a release of Debian (trixie) nor a package (linux-image-6.1.0-51-amd64)"
        );
        Ok(if words.starts_with("linux-image-") {
            Self::Package(words.into())
        } else {
            Self::Release(words.into())
        })
    }
}

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

/// The kernel that [`CHOICE`] names, fetched the first time. To take a newer one, delete `target/tools/guest`.
pub(super) fn kernel() -> Result<Kernel> {
    let choice = match std::env::var(CHOICE) {
        Ok(words) if !words.is_empty() => words.parse()?,
        Ok(_) | Err(_) => Choice::Host,
    };
    let root = tools().join("guest").join(choice.folder());
    if !root.exists() {
        let what = format!("Debian's kernel ({choice}) into target/tools/guest");
        step(&what, || fetch(&choice, &root))?;
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

fn fetch(choice: &Choice, root: &Path) -> Result<()> {
    let parent = root.parent().context("no parent")?;
    let fresh = parent.join(format!("fetch-{}", std::process::id()));
    let unpacked = fresh.join("unpacked");
    std::fs::create_dir_all(&unpacked)?;
    let done = download(choice, &fresh)
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

fn download(choice: &Choice, into: &Path) -> Result<()> {
    let sources = match choice {
        Choice::Host | Choice::Package(_) => Vec::new(),
        Choice::Release(release) => other_release(release, into)?,
    };
    let package = match choice {
        Choice::Package(name) => name.clone(),
        Choice::Host | Choice::Release(_) => {
            let mut show = command("apt-cache", &["show", KERNEL]);
            show.args(&sources);
            let known = output(show).with_context(|| format!("apt knows no {KERNEL} (apt-get update)"))?;
            // One paragraph a version, the newest first.
            let mut packages = known
                .lines()
                .filter_map(|line| line.strip_prefix("Depends: "))
                .filter_map(|depends| {
                    depends
                        .split([' ', ','])
                        .find(|name| name.starts_with("linux-image-"))
                });
            let package = match choice {
                Choice::Host => packages.next_back(),
                Choice::Package(_) | Choice::Release(_) => packages.next(),
            };
            package
                .with_context(|| format!("{KERNEL} depends on no kernel"))?
                .to_owned()
        }
    };
    let fetch = |package: &str, sources: &[String]| {
        let mut download = command("apt-get", &["download", "-q", "-o", "APT::Sandbox::User=root"]);
        download.args(sources).arg(package).current_dir(into);
        output(download)
    };
    fetch(&package, &sources)?;
    fetch(BUSYBOX, &[]).map(drop)
}

/// Options that make apt look at that release only, with lists of its own.
fn other_release(release: &str, into: &Path) -> Result<Vec<String>> {
    let lists = into.join("lists");
    std::fs::create_dir_all(lists.join("partial"))?;
    let list = into.join("sources.list");
    std::fs::write(&list, format!("deb {} {release} main\n", super::debian::mirror()))?;
    let options: Vec<String> = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=/dev/null".into(),
        format!("Dir::State::lists={}", lists.display()),
        format!("Dir::Cache={}", into.display()),
        "APT::Sandbox::User=root".into(),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_owned(), option])
    .collect();
    let mut update = command("apt-get", &["update", "-q"]);
    update.args(&options);
    output(update)?;
    Ok(options)
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
    // What an installed kernel would have from depmod. Since Debian 13 below usr, and compressed.
    let below_usr = into.join("usr/lib/modules");
    if below_usr.exists() {
        std::fs::create_dir_all(into.join("lib"))?;
        std::fs::rename(&below_usr, into.join("lib/modules"))?;
    }
    let busybox_below_usr = into.join("usr/bin/busybox");
    if busybox_below_usr.exists() {
        std::fs::create_dir_all(into.join("bin"))?;
        std::fs::rename(&busybox_below_usr, into.join("bin/busybox"))?;
    }
    let modules = only(&into.join("lib/modules"), "")?;
    let mut decompress = command("find", &[]);
    decompress.arg(&modules);
    run({
        decompress.args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
        decompress
    })?;
    let version = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let busybox = into.join("bin/busybox").display().to_string();
    run(command(&busybox, &["depmod", "-b", &into_text, &version]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_release_or_a_package() {
        let choice = |words: &str| words.parse::<Choice>();
        assert_eq!(choice("trixie").unwrap(), Choice::Release("trixie".into()));
        let package = "linux-image-6.1.0-51-amd64";
        assert_eq!(choice(package).unwrap(), Choice::Package(package.into()));
        for wrong in ["../tools", "-o", "a b", "", "Trixie"] {
            assert!(choice(wrong).is_err(), "{wrong:?} names a folder");
        }
    }
}
