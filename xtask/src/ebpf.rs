//! Building the kernel object, reproducibly, and comparing it with the one that is committed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::shell::{command, output, repository, run, say, step, target, tools};

/// Debian's compiler: any `rustc` with its library's source will do, but the bytes are those of this one.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// Of the LLVM that both the compiler and the linker have.
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";
/// Packages for it.
const PACKAGES: &str =
    "rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev libzstd-dev libxml2-dev zlib1g-dev";
const LINKER: &str = "0.13.0";

/// What is written down beside the object.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Toolchain {
    rustc: String,
    bpf_linker: String,
    /// SHA-256 of the object.
    object: String,
    /// SHA-256 over the sources that it was built from.
    sources: String,
}

/// How a comparison ended.
pub(crate) enum Compared {
    /// Built again with the recorded toolchain: the same bytes.
    Same,
    /// The recorded toolchain is not here.
    NotHere(String),
}

fn prebuilt() -> PathBuf {
    repository().join("agent-ebpf/prebuilt")
}

/// Builds the object and writes it down.
pub(crate) fn build() -> Result<()> {
    let linker = step("bpf-linker", linker)?;
    let bytes = step("the kernel object", || compile(&linker))?;
    let toolchain = Toolchain {
        rustc: rustc_version()?,
        bpf_linker: LINKER.into(),
        object: digest(&bytes)?,
        sources: sources_digest()?,
    };
    std::fs::create_dir_all(prebuilt())?;
    std::fs::write(prebuilt().join("interdict.bpf.o"), &bytes)?;
    let head = "# Written by `cargo xtask ebpf`: what built interdict.bpf.o, and from what.\n";
    std::fs::write(
        prebuilt().join("TOOLCHAIN.toml"),
        format!("{head}{}", toml::to_string(&toolchain)?),
    )?;
    say(&format!(
        "agent-ebpf/prebuilt/interdict.bpf.o: {} bytes, {}",
        bytes.len(),
        toolchain.object
    ));
    Ok(())
}

/// Holds the committed object against its sources, and, where the recorded toolchain is, against a new build.
pub(crate) fn compare() -> Result<Compared> {
    let text = std::fs::read_to_string(prebuilt().join("TOOLCHAIN.toml"))
        .context("agent-ebpf/prebuilt/TOOLCHAIN.toml")?;
    let recorded: Toolchain = toml::from_str(&text)?;
    let object = std::fs::read(prebuilt().join("interdict.bpf.o"))?;
    ensure!(
        digest(&object)? == recorded.object,
        "the committed object is not the one that was written down"
    );
    ensure!(
        sources_digest()? == recorded.sources,
        "agent-ebpf/src changed after the object was built: run `cargo xtask ebpf` and commit the result"
    );
    match rustc_version() {
        Ok(version) if version == recorded.rustc => {}
        Ok(other) => {
            return Ok(Compared::NotHere(format!(
                "{RUSTC} is {other}, the object is of {}",
                recorded.rustc
            )));
        }
        Err(_missing) => {
            return Ok(Compared::NotHere(format!(
                "{RUSTC} is not here (apt-get install {PACKAGES})"
            )));
        }
    }
    let linker = match linker() {
        Ok(linker) => linker,
        Err(error) => return Ok(Compared::NotHere(format!("no bpf-linker: {error:#}"))),
    };
    ensure!(
        compile(&linker)? == object,
        "the same sources and toolchain gave another object"
    );
    Ok(Compared::Same)
}

/// Finds or builds bpf-linker; its directory.
fn linker() -> Result<PathBuf> {
    let root = tools().join("bpf-linker");
    let binary = root.join("bin/bpf-linker");
    let fits = |path: &Path| {
        output(command(&path.display().to_string(), &["--version"])).is_ok_and(|text| text.contains(LINKER))
    };
    if binary.exists() && fits(&binary) {
        return Ok(root.join("bin"));
    }
    if !Path::new("/usr/lib/llvm-22").exists() {
        bail!("it is built against LLVM 22: apt-get install {PACKAGES}");
    }
    let root_text = root.display().to_string();
    let version = format!("={LINKER}");
    let mut install = crate::shell::cargo(&[
        "install",
        "bpf-linker",
        "--version",
        &version,
        "--no-default-features",
        "--features",
        "llvm-22",
        "--root",
        &root_text,
    ]);
    install
        .env("LLVM_PREFIX", "/usr/lib/llvm-22")
        .env("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22");
    run(install)?;
    Ok(root.join("bin"))
}

fn compile(linker: &Path) -> Result<Vec<u8>> {
    let home = std::env::var("CARGO_HOME").map_or_else(
        |_unset| PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let out = target().join("ebpf");
    // No path of this machine may be in the object.
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cpanic=abort".to_owned(),
        format!("--remap-path-prefix={}=/interdict", repository().display()),
        format!(
            "--remap-path-prefix={}=/registry",
            home.join("registry/src").display()
        ),
        "--remap-path-prefix=/usr/lib/rustlib/src=/rust".to_owned(),
        // Last, because the last prefix that fits wins: it may be below the repository.
        format!("--remap-path-prefix={}=/target", out.display()),
    ];
    let path = std::env::join_paths(std::iter::once(linker.to_owned()).chain(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    )))?;
    let mut build = command(
        CARGO,
        &[
            "build",
            "-q",
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
            "--release",
            "--locked",
        ],
    );
    build
        .args([
            "--package",
            "interdict-ebpf",
            "--features",
            "bpf",
            "--bin",
            "interdict-ebpf",
        ])
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &out)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", path)
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .current_dir(repository().join("agent-ebpf"));
    run(build)?;
    // BTF was made from the debug information; nothing reads that itself.
    let (linked, stripped) = (
        out.join("bpfel-unknown-none/release/interdict-ebpf"),
        out.join("interdict.bpf.o"),
    );
    let mut strip = command(STRIP, &["--strip-debug"]);
    strip.arg(linked).arg("-o").arg(&stripped);
    run(strip)?;
    Ok(std::fs::read(stripped)?)
}

fn rustc_version() -> Result<String> {
    Ok(output(command(RUSTC, &["--version"]))?.trim().to_owned())
}

fn digest(bytes: &[u8]) -> Result<String> {
    let dir = target();
    std::fs::create_dir_all(&dir)?;
    let file = dir.join(format!("digest-{}", std::process::id()));
    std::fs::write(&file, bytes)?;
    let text = output(command("sha256sum", &[&file.display().to_string()]));
    std::fs::remove_file(&file)?;
    Ok(text?.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Over the names and contents of everything that the object is made from; tests are not. `agent/src/guard/object.rs`
/// computes the same in a test, so that a forgotten rebuild is found without this toolchain.
fn sources_digest() -> Result<String> {
    let dir = repository().join("agent-ebpf/src");
    let mut files = Vec::new();
    collect(&dir, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(file.strip_prefix(&dir)?.to_string_lossy().bytes());
        all.push(0);
        all.extend(std::fs::read(&file)?);
        all.push(0);
    }
    digest(&all)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            files.push(path);
        }
    }
    Ok(())
}
