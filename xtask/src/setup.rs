//! Installing what is missing, and saying what.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, bail};

use crate::shell::{cargo, command, complain, repository, run as execute, say, step, tools};

/// Debian packages with what they are for.
const PACKAGES: &[(&str, &str)] = &[
    ("build-essential", "C parts of dependencies"),
    ("cmake", "the cryptography library"),
    ("clang", "bindings to PostgreSQL's grammar"),
    ("libclang-dev", "bindings to PostgreSQL's grammar"),
    ("pkg-config", "C parts of dependencies"),
    ("postgresql", "the database of tests and demo"),
    ("postgresql-contrib", "pgbench"),
    ("pgbouncer", "the benchmark's yardstick"),
    ("iproute2", "the network namespaces of the escape suite"),
    ("qemu-system-x86", "the guest with a kernel that has BPF LSM"),
    ("runc", "containers of the tests"),
    ("busybox-static", "what runs in them"),
    (
        "debootstrap",
        "the guest's own Debian, where packages are installed",
    ),
    ("nginx", "the HTTP target of the tests"),
    ("curl", "an HTTP client of the tests"),
    ("wget", "an HTTP client of the tests"),
    ("unbound", "the resolver of the tests"),
    ("bind9-dnsutils", "dig, a client of the tests"),
    ("restic", "an HTTP client of the tests, in Go"),
    ("nftables", "the kernel benchmark's yardstick"),
    ("haproxy", "the HTTP benchmark's yardstick"),
    ("nghttp2-client", "the HTTP benchmark's load"),
    ("clickhouse-server", "a real, old server for the sink's tests"),
    ("systemd", "what it says of the units (nothing is started)"),
    ("rpm", "packages for Red Hat's family"),
    ("lintian", "what is wrong with the Debian package"),
    ("skopeo", "what is wrong with the container image"),
    ("umoci", "what is in the container image"),
    ("python3-venv", "Python clients"),
    ("ca-certificates", "root certificates"),
];

/// Python packages: a PostgreSQL driver, ClickHouse's own engine for the sink's tests, clients of HTTP, and
/// the official SDKs of MCP, OpenAI and Anthropic, the schemas of Kubernetes, a terminal.
const PYTHON: &[&str] = &[
    "psycopg[binary]==3.*",
    "chdb-core==26.9.*",
    "requests==2.*",
    "httpx[http2]==0.28.*",
    "grpcio==1.*",
    "grpcio-tools==1.*",
    "aiohttp==3.*",
    "boto3==1.*",
    "websockets==17.*",
    "mcp==1.*",
    "openai==2.*",
    "anthropic==0.*",
    "kubernetes-validate==1.37.*",
    "pyte==0.8.*",
];
/// The HTTP benchmark's other yardstick.
const MITMPROXY: &[&str] = &["mitmproxy==11.*"];
/// What reads traces, and a client that makes some: apart, because its packages of Google's protocol are pinned.
const PYTHON_OTEL: &[&str] = &[
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-proto==1.45.2",
    "opentelemetry-instrumentation-httpx==0.66b2",
    "httpx==0.28.*",
];
/// npm packages: a real MCP server for PostgreSQL, the official MCP SDK, node-postgres, the official SDKs of OpenAI (with what
/// its WebSockets need) and Anthropic.
const NPM: &[&str] = &[
    "@henkey/postgres-mcp-server@1.0.7",
    "@modelcontextprotocol/sdk@1.32.2",
    "pg@8.23.1",
    "openai@6.49.0",
    "@anthropic-ai/sdk@0.137.0",
    "ws@8.23.0",
];

/// The second generation of the MCP SDKs, the suite of conformance and the Inspector: apart from the first, whose packages
/// have the same names or need others of theirs.
const PYTHON_MCP: &[&str] = &["mcp==2.3.0"];
/// See `PYTHON_MCP`. The newest suite that runs on Node 20.
const NPM_MCP: &[&str] = &[
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/server@2.4.0",
    "@modelcontextprotocol/node@2.1.2",
    "@modelcontextprotocol/ext-tasks@0.2.2",
    "@modelcontextprotocol/conformance@0.1.13",
    "@modelcontextprotocol/inspector@2.12.0",
];

/// Installs what is missing. `loud`: says so when nothing is.
pub(crate) fn run(loud: bool) -> Result<()> {
    debian()?;
    node()?;
    python("venv", PYTHON)?;
    python("mcp/venv", PYTHON_MCP)?;
    python("otel/venv", PYTHON_OTEL)?;
    npm("node", NPM)?;
    npm("mcp/node", NPM_MCP)?;
    rust_mcp_client()?;
    if loud {
        say("Everything is there.");
    }
    Ok(())
}

fn debian() -> Result<()> {
    let mut missing: Vec<&(&str, &str)> = PACKAGES.iter().filter(|(name, _)| !installed(name)).collect();
    if !there("node") && !installed("nodejs") {
        missing.push(&("nodejs", "MCP server and clients"));
        missing.push(&("npm", "MCP server and clients"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    for (name, why) in &missing {
        say(&format!("missing: {name} ({why})"));
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let install = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if !is_root() {
        bail!("these packages are missing, and installing them needs root:\n  sudo {install}");
    }
    step(&format!("apt-get install {}", names.join(" ")), || {
        // Services are not started: tests and demo start their own.
        let script = format!(
            "set -e; export DEBIAN_FRONTEND=noninteractive; \
             apt-get update -q || apt-get update -q; \
             policy=/usr/sbin/policy-rc.d; made=; \
             if [ ! -e $policy ]; then printf '#!/bin/sh\\nexit 101\\n' > $policy; chmod +x $policy; made=1; fi; \
             trap '[ -z \"$made\" ] || rm -f $policy' EXIT; {install}"
        );
        shell_run(&script)
    })
}

fn node() -> Result<()> {
    if there("node") && there("npm") {
        Ok(())
    } else {
        bail!("node and npm are needed: install nodejs and npm")
    }
}

fn python(place: &str, packages: &[&str]) -> Result<()> {
    let venv = tools().join(place);
    if done(&venv, packages) {
        return Ok(());
    }
    step(&format!("Python clients into target/tools/{place}"), || {
        std::fs::create_dir_all(tools())?;
        shell_run(&format!(
            "python3 -m venv {0} && {0}/bin/pip install -q --retries 5 {1}",
            quoted(&venv),
            packages
                .iter()
                .map(|p| format!("'{p}'"))
                .collect::<Vec<_>>()
                .join(" ")
        ))?;
        mark(&venv, packages)
    })
}

/// mitmproxy, a yardstick, in an environment of its own: it pins what others need newer.
pub(crate) fn mitmproxy() -> Result<()> {
    let venv = tools().join("mitmproxy");
    if done(&venv, MITMPROXY) {
        return Ok(());
    }
    std::fs::create_dir_all(tools())?;
    shell_run(&format!(
        "python3 -m venv {0} && {0}/bin/pip install -q --retries 5 '{1}'",
        quoted(&venv),
        MITMPROXY.join("' '")
    ))?;
    mark(&venv, MITMPROXY)
}

fn npm(place: &str, packages: &[&str]) -> Result<()> {
    let dir = tools().join(place);
    if done(&dir, packages) {
        return Ok(());
    }
    step(
        &format!("MCP servers, SDKs and node clients into target/tools/{place}"),
        || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("package.json"), "{\"private\": true}\n")?;
            let install = format!(
                "npm install --no-audit --no-fund --loglevel=error {}",
                packages.join(" ")
            );
            shell_run(&format!("cd {0} && ({install} || {install})", quoted(&dir)))?;
            mark(&dir, packages)
        },
    )
}

/// The client and the server on the Rust SDK, built into `target/tools/mcp/rust` (a minute or two the first time).
fn rust_mcp_client() -> Result<()> {
    let place = tools().join("mcp/rust");
    let build = || {
        let manifest = repository().join("tests/mcp-client/Cargo.toml");
        let mut build = cargo(&["build", "--quiet", "--locked", "--manifest-path"]);
        build.arg(manifest).arg("--target-dir").arg(&place);
        execute(build)
    };
    if place.exists() {
        return build();
    }
    step(
        "a client and a server on the Rust SDK of MCP into target/tools/mcp/rust (a minute or two)",
        build,
    )
}

/// What was put there is written down, so that a changed list is noticed.
fn done(dir: &Path, what: &[&str]) -> bool {
    std::fs::read_to_string(dir.join(".interdict")).is_ok_and(|text| text == what.join("\n"))
}

fn mark(dir: &Path, what: &[&str]) -> Result<()> {
    Ok(std::fs::write(dir.join(".interdict"), what.join("\n"))?)
}

fn installed(package: &str) -> bool {
    let mut query = command("dpkg-query", &["-W", "-f=${Status}", package]);
    query.stderr(Stdio::null());
    query
        .output()
        .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("install ok installed"))
}

/// Whether the program is in `PATH`.
pub(crate) fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether this runs as root.
pub(crate) fn is_root() -> bool {
    command("id", &["-u"])
        .output()
        .is_ok_and(|out| out.stdout.starts_with(b"0"))
}

fn shell_run(script: &str) -> Result<()> {
    let mut shell = command("sh", &["-c", script]);
    shell.stdin(Stdio::null());
    let result = run_quietly(&mut shell);
    if result.is_err() {
        complain("(the network may have been away: run it again)");
    }
    result
}

fn run_quietly(shell: &mut std::process::Command) -> Result<()> {
    let out = shell.output()?;
    if !out.status.success() {
        complain(&String::from_utf8_lossy(&out.stdout));
        complain(&String::from_utf8_lossy(&out.stderr));
        bail!("installing failed ({})", out.status);
    }
    Ok(())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
