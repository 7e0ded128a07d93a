//! Where tools are, and whether this machine can run what a test needs.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// A tool that `cargo xtask setup` puts below `target/tools`, by its path there.
#[must_use]
pub fn tool(path: &str) -> PathBuf {
    let base =
        std::env::var_os("INTERDICT_TOOLS").map_or_else(|| repository().join("target/tools"), PathBuf::from);
    base.join(path)
}

/// The Python with the client libraries.
#[must_use]
pub fn python() -> PathBuf {
    tool("venv/bin/python")
}

/// The agent's binary, built before the tests.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("INTERDICT_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().unwrap_or_default();
    let profile = here.ancestors().find(|dir| dir.join("interdict").is_file());
    profile.map(|dir| dir.join("interdict")).unwrap_or_default()
}

/// Whether the relay can be tried here: root (to start a server as another user) and PostgreSQL 15. Where not, says so
/// loudly; where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_relay(test: &str) -> bool {
    can_govern(test)
}

/// Whether processes can be governed here: root, cgroup2 and BPF. Where not, says so loudly; where `CI` is set, fails.
///
/// # Panics
/// Where `CI` is set and it cannot.
#[must_use]
pub fn can_govern(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    let installed = Path::new("/usr/lib/postgresql/15/bin/initdb").exists();
    if root && installed {
        return true;
    }
    let why = if root {
        "PostgreSQL 15 is not installed (cargo xtask setup)"
    } else {
        "it needs root"
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} cannot run here, and CI must not skip: {why}"
    );
    let _closed = writeln!(std::io::stderr(), "\nSKIPPED {test}: {why}\n");
    false
}
