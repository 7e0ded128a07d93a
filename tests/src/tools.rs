//! Where tools are, and whether this machine can run what a test needs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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

/// Lets this process, and what it starts, have as many descriptors as may be: how many that is.
pub fn raise_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    for limit in [hard.map(|most| most.max(1 << 20)), hard] {
        let wanted = Rlimit {
            current: limit,
            maximum: limit,
        };
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            break;
        }
    }
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
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

/// Whether the HTTP relay can be tried here: nginx, curl and the Python clients. Where not, says so loudly; where `CI` is
/// set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_serve_http(test: &str) -> bool {
    let programs = ["/usr/sbin/nginx", "/usr/bin/curl"];
    if programs.iter().all(|path| Path::new(path).exists()) && python().exists() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} cannot run here, and CI must not skip: nginx, curl or the Python clients are missing (cargo xtask setup)"
    );
    let _closed = writeln!(
        std::io::stderr(),
        "\nSKIPPED {test}: nginx, curl or the Python clients are missing\n"
    );
    false
}

/// Whether MCP can be tried here: node with the official SDK, and the official SDK for Python. Where not, says so loudly;
/// where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_speak_mcp(test: &str) -> bool {
    let node = tool("node/node_modules/@modelcontextprotocol/sdk").exists();
    let rust = tool("mcp/rust/debug/interdict-mcp-client").exists();
    or_skip(
        test,
        node && rust && imports("mcp"),
        "an official SDK of MCP is missing",
    )
}

/// Whether the second generation of MCP's SDKs can be tried here: node 20 or newer with it, and that for Python. Where not,
/// says so loudly; where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_speak_mcp_v2(test: &str) -> bool {
    let new = "process.exit(Number(process.versions.node.split('.')[0]) >= 20 ? 0 : 1)";
    let node = std::process::Command::new("node").args(["-e", new]).status();
    let there = node.is_ok_and(|status| status.success())
        && tool("mcp/node/node_modules/@modelcontextprotocol/client").exists()
        && tool("mcp/venv/bin/python").exists()
        && tool("mcp/rust/debug/interdict-mcp-client").exists()
        && tool("mcp/rust/debug/interdict-mcp-tasks").exists();
    or_skip(
        test,
        there,
        "node 20 or the second generation of MCP's SDKs is missing",
    )
}

/// Whether APIs of models can be tried here: the official Python and TypeScript clients of OpenAI and Anthropic. Where not,
/// says so loudly; where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_ask_models(test: &str) -> bool {
    or_skip(
        test,
        imports("openai, anthropic")
            && ["openai", "@anthropic-ai/sdk"]
                .iter()
                .all(|name| tool("node/node_modules").join(name).exists()),
        "the clients of OpenAI and Anthropic are missing",
    )
}

/// Whether the client of OpenAI for TypeScript can have WebSockets here. Where not, says so loudly; where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_speak_over_websockets(test: &str) -> bool {
    let there = tool("node/node_modules/ws").exists();
    or_skip(test, there, "the package ws for node is missing")
}

/// Whether traces can be tried here: OpenTelemetry's packages for Python. Where not, says so loudly; where `CI` is set, fails.
///
/// # Panics
/// As [`can_govern`].
#[must_use]
pub fn can_trace(test: &str) -> bool {
    let there = tool("otel/venv/bin/python").exists();
    or_skip(test, there, "OpenTelemetry's packages for Python are missing")
}

fn imports(packages: &str) -> bool {
    let mut python = std::process::Command::new(python());
    let found = python.args(["-c", &format!("import {packages}")]).output();
    found.is_ok_and(|out| out.status.success())
}

fn or_skip(test: &str, there: bool, why: &str) -> bool {
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test} cannot run here, and CI must not skip: {why} (cargo xtask setup)"
        );
        let _closed = writeln!(std::io::stderr(), "\nSKIPPED {test}: {why}\n");
    }
    there
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

/// Writes `ca.crt`, and `server.crt` with `server.key` that it signed for `localhost` and `127.0.0.1`, into `dir`.
///
/// # Errors
/// The file system's.
pub fn certificates(dir: &Path) -> Result<()> {
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca, &ca_key);
    let leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?
        .signed_by(&key, &issuer)?;
    fs::write(dir.join("ca.crt"), ca_certificate.pem())?;
    fs::write(dir.join("server.crt"), leaf.pem())?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    fs::set_permissions(dir.join("server.key"), fs::Permissions::from_mode(0o600))?;
    fs::set_permissions(dir.join("ca.crt"), fs::Permissions::from_mode(0o644))?;
    Ok(())
}
