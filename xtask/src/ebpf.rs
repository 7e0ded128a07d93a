//! Building the kernel objects, reproducibly, and comparing them with the ones that are committed.

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

/// One kernel object.
struct Object {
    /// Its package and binary.
    package: &'static str,
    /// Its package's directory.
    directory: &'static str,
    /// The committed object, in `agent-ebpf/prebuilt`.
    file: &'static str,
    /// What is written down beside it.
    toolchain: &'static str,
}

/// The hooks that every run needs, and those of BPF LSM.
const OBJECTS: [Object; 2] = [
    Object {
        package: "interdict-ebpf",
        directory: "agent-ebpf",
        file: "interdict.bpf.o",
        toolchain: "TOOLCHAIN.toml",
    },
    Object {
        package: "interdict-lsm",
        directory: "agent-ebpf/lsm",
        file: "interdict-lsm.bpf.o",
        toolchain: "TOOLCHAIN-lsm.toml",
    },
];

/// What is written down beside an object.
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

/// Builds the objects and writes them down.
pub(crate) fn build() -> Result<()> {
    let linker = step("bpf-linker", linker)?;
    for object in &OBJECTS {
        let bytes = step(object.file, || compile(object, &linker))?;
        let toolchain = Toolchain {
            rustc: rustc_version()?,
            bpf_linker: LINKER.into(),
            object: digest(&bytes)?,
            sources: sources_digest(object)?,
        };
        std::fs::create_dir_all(prebuilt())?;
        std::fs::write(prebuilt().join(object.file), &bytes)?;
        let head = format!(
            "# Written by `cargo xtask ebpf`: what built {}, and from what.\n",
            object.file
        );
        std::fs::write(
            prebuilt().join(object.toolchain),
            format!("{head}{}", toml::to_string(&toolchain)?),
        )?;
        say(&format!(
            "agent-ebpf/prebuilt/{}: {} bytes, {}",
            object.file,
            bytes.len(),
            toolchain.object
        ));
    }
    Ok(())
}

/// Holds the committed objects against their sources, and, where the recorded toolchain is, against new builds.
pub(crate) fn compare() -> Result<Compared> {
    for object in &OBJECTS {
        if let Compared::NotHere(why) = compare_one(object).context(object.file)? {
            return Ok(Compared::NotHere(why));
        }
    }
    Ok(Compared::Same)
}

fn compare_one(object: &Object) -> Result<Compared> {
    let text = std::fs::read_to_string(prebuilt().join(object.toolchain)).context(object.toolchain)?;
    let recorded: Toolchain = toml::from_str(&text)?;
    let committed = std::fs::read(prebuilt().join(object.file))?;
    ensure!(
        digest(&committed)? == recorded.object,
        "the committed object is not the one that was written down"
    );
    ensure!(
        sources_digest(object)? == recorded.sources,
        "{}/src changed after the object was built: run `cargo xtask ebpf` and commit the result",
        object.directory
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
        compile(object, &linker)? == committed,
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

fn compile(object: &Object, linker: &Path) -> Result<Vec<u8>> {
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
            object.package,
            "--features",
            "bpf",
            "--bin",
            object.package,
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
        .current_dir(repository().join(object.directory));
    run(build)?;
    // BTF was made from the debug information; nothing reads that itself.
    let (linked, stripped) = (
        out.join("bpfel-unknown-none/release").join(object.package),
        out.join(object.file),
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

/// Over the names and contents of everything that an object is made from; tests are not. `agent/src/guard/object.rs`
/// computes the same in a test, so that a forgotten rebuild is found without this toolchain.
fn sources_digest(object: &Object) -> Result<String> {
    let dir = repository().join(object.directory).join("src");
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
