//! Packages of one binary: a tree of what is installed where, and from it a .deb, a .rpm, an OCI image. The same binary gives
//! the same bytes (`SOURCE_DATE_EPOCH`, sorted names, root's ownership).

mod deb;
mod image;
mod rpm;
mod sbom;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::shell::{cargo, command, output, repository, run as execute, say, step, target};

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Deb,
    Rpm,
    Image,
}

/// What to package, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct PackageArgs {
    /// This binary; without it the release build.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the packages go.
    #[arg(long, default_value = "target/package")]
    out: PathBuf,
    /// What to make; all of them without it.
    #[arg(long, value_enum)]
    format: Vec<Format>,
}

/// Makes packages.
pub(crate) fn run(args: PackageArgs) -> Result<()> {
    let PackageArgs {
        binary,
        out,
        mut format,
    } = args;
    if format.is_empty() {
        format = vec![Format::Deb, Format::Rpm, Format::Image];
    }
    let binary = match binary {
        Some(binary) => binary,
        None => {
            step("release build", || {
                execute(cargo(&[
                    "build",
                    "--release",
                    "--locked",
                    "--package",
                    "interdict",
                ]))
            })?;
            target().join("release/interdict")
        }
    };
    let out = absolute(&out)?;
    fs::create_dir_all(&out)?;
    let work = out.join(".work");
    fresh(&work)?;
    let source = Source {
        binary: absolute(&binary)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: epoch()?,
    };
    for one in format {
        let made = match one {
            Format::Deb => deb::make(&source, &work, &out),
            Format::Rpm => rpm::make(&source, &work, &out),
            Format::Image => image::make(&source, &work, &out),
        };
        say(&made?.display().to_string());
    }
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// Makes a .deb of this binary; where it is.
pub(crate) fn deb(binary: &Path, out: &Path) -> Result<PathBuf> {
    let out = absolute(out)?;
    let work = out.join(".work");
    fresh(&work)?;
    let source = Source {
        binary: absolute(binary)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: epoch()?,
    };
    let made = deb::make(&source, &work, &out)?;
    fs::remove_dir_all(&work)?;
    Ok(made)
}

/// Writes the document of what is linked in.
pub(crate) fn sbom(file: &Path) -> Result<()> {
    sbom::write(&absolute(file)?, epoch()?)
}

/// What packages are made from.
pub(crate) struct Source {
    binary: PathBuf,
    version: String,
    /// The time that every file has, in seconds since 1970.
    epoch: u64,
}

/// Where a family of systems keeps things.
struct Places {
    units: &'static str,
    zsh: &'static str,
}

const DEBIAN: Places = Places {
    units: "lib/systemd/system",
    zsh: "usr/share/zsh/vendor-completions",
};
const RED_HAT: Places = Places {
    units: "usr/lib/systemd/system",
    zsh: "usr/share/zsh/site-functions",
};

/// Files that are taken as they are: from where, where to, and whether they are configuration.
const FILES: &[(&str, &str)] = &[
    ("deploy/package/interdict.toml", "etc/interdict/interdict.toml"),
    (
        "deploy/package/sysusers.conf",
        "usr/lib/sysusers.d/interdict.conf",
    ),
    (
        "deploy/package/tmpfiles.conf",
        "usr/lib/tmpfiles.d/interdict.conf",
    ),
    ("deploy/metrics.md", "usr/share/doc/interdict/metrics.md"),
    ("deploy/systemd/README.md", "usr/share/doc/interdict/systemd.md"),
    ("deploy/clickhouse", "usr/share/interdict/clickhouse"),
    ("deploy/prometheus", "usr/share/interdict/prometheus"),
    ("policies", "usr/share/interdict/policies"),
    ("deploy/package/copyright", "usr/share/doc/interdict/copyright"),
];
/// Configuration: kept when somebody changed it.
const CONFIGURATION: &str = "etc/interdict/interdict.toml";

/// Lays out what is installed below `root`.
fn stage(source: &Source, root: &Path, places: &Places) -> Result<()> {
    fresh(root)?;
    put(&source.binary, &root.join("usr/bin/interdict"), 0o755)?;
    strip(&root.join("usr/bin/interdict"))?;
    let repository = repository();
    for (from, to) in FILES {
        copy(&repository.join(from), &root.join(to))?;
    }
    fs::set_permissions(root.join(CONFIGURATION), fs::Permissions::from_mode(0o640))?;
    let units = repository.join("deploy/systemd");
    for unit in fs::read_dir(units)?.flatten().map(|entry| entry.path()) {
        if unit.extension().is_some_and(|e| e == "service" || e == "slice") {
            put(&unit, &root.join(places.units).join(name_of(&unit)?), 0o644)?;
        }
    }
    generated(source, root, places)?;
    sbom::write(
        &root.join("usr/share/doc/interdict/interdict.cdx.json"),
        source.epoch,
    )?;
    gzip(
        &repository.join("CHANGELOG.md"),
        &root.join("usr/share/doc/interdict/changelog.gz"),
    )?;
    set_times(root, source.epoch)
}

/// Man pages and completions, as the binary writes them.
fn generated(source: &Source, root: &Path, places: &Places) -> Result<()> {
    let man = root.join("usr/share/man/man1");
    fs::create_dir_all(&man)?;
    let binary = source.binary.display().to_string();
    execute(command(&binary, &["man", "--dir", &man.display().to_string()]))?;
    for page in fs::read_dir(&man)?.flatten().map(|entry| entry.path()) {
        gzip(&page, &page.with_extension("1.gz"))?;
        fs::remove_file(page)?;
    }
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/interdict"),
        ("fish", "usr/share/fish/vendor_completions.d/interdict.fish"),
        ("zsh", &format!("{}/_interdict", places.zsh)),
    ] {
        let script = output(command(&binary, &["completions", shell]))?;
        let to = root.join(to);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&to, script)?;
    }
    Ok(())
}

fn name_of(path: &Path) -> Result<&std::ffi::OsStr> {
    path.file_name()
        .with_context(|| format!("{}: no name", path.display()))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return put(from, to, 0o644);
    }
    for entry in fs::read_dir(from)?.flatten() {
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Without debugging symbols, which users get from their own build.
fn strip(binary: &Path) -> Result<()> {
    let file = binary.display().to_string();
    execute(command(
        "strip",
        &[
            "--strip-unneeded",
            "--remove-section=.comment",
            "--remove-section=.note",
            &file,
        ],
    ))
}

/// `gzip -9n`: no name and no time in it.
fn gzip(from: &Path, to: &Path) -> Result<()> {
    let out = command("gzip", &["-9nc", &from.display().to_string()]).output()?;
    ensure!(out.status.success(), "gzip {}: {}", from.display(), out.status);
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(fs::write(to, out.stdout)?)
}

/// Gives everything below one time, and directories one mode.
fn set_times(root: &Path, epoch: u64) -> Result<()> {
    let script = "find \"$1\" -type d -exec chmod 0755 {} + && find \"$1\" -exec touch -h -d \"@$2\" {} +";
    execute(command(
        "sh",
        &[
            "-c",
            script,
            "sh",
            &root.display().to_string(),
            &epoch.to_string(),
        ],
    ))
}

/// A directory that is empty.
fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(fs::create_dir_all(dir)?)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(if path.is_absolute() {
        path.to_owned()
    } else {
        repository().join(path)
    })?)
}

/// `SOURCE_DATE_EPOCH`, else the time of the last commit.
fn epoch() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text
            .trim()
            .parse()
            .context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let text = output(command("git", &["log", "-1", "--format=%ct"]))?;
    Ok(text.trim().parse()?)
}

/// The machine, in the words of one family of systems.
fn architecture(x86: &'static str, arm: &'static str) -> &'static str {
    if cfg!(target_arch = "aarch64") { arm } else { x86 }
}
