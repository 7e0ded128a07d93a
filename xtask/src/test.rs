//! Everything that must hold, in one command.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ebpf::{self, Compared};
use crate::escape;
use crate::guest::{self, Job, System};
use crate::package;
use crate::setup;
use crate::shell::{cargo, command, complain, output, repository, run as execute, say, step, target, tools};
use crate::tidy;

/// Counts of the tests that ran.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs everything; the last line counts tests.
pub(crate) fn run(fast: bool) -> Result<()> {
    if !fast {
        step("set up", || setup::run(false))?;
    }
    step("formatting", || execute(cargo(&["fmt", "--all", "--check"])))?;
    step("clippy, warnings denied", || {
        execute(cargo(&[
            "clippy",
            "-q",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("house rules", tidy::run)?;
    if !fast {
        step(
            "the client on the Rust SDK of MCP: formatting, clippy",
            rust_client,
        )?;
        step("licences, sources, duplicates (cargo deny)", deny)?;
        step("the kernel object is that of its sources", kernel_object)?;
        step("build", || {
            execute(cargo(&["build", "-q", "--locked", "--package", "interdict"]))
        })?;
    }
    let mut counts = step("tests", || tests(fast))?;
    if !fast {
        step("what needs another kernel, in a guest", || guests(&mut counts))?;
    }
    say("");
    say(&format!("{} passed, {} failed", counts.passed, counts.failed));
    if counts.failed > 0 || counts.passed == 0 {
        bail!("not every test passed");
    }
    Ok(())
}

/// The release of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

fn deny() -> Result<()> {
    let root = tools().join("cargo-deny");
    let binary = root.join("bin/cargo-deny");
    if !binary.exists() {
        say(&format!(
            "    installing cargo-deny {CARGO_DENY} (a few minutes, once)"
        ));
        let mut install = cargo(&["install", "-q", "cargo-deny", "--version", CARGO_DENY, "--locked"]);
        install.arg("--root").arg(&root);
        if let Err(error) = execute(install) {
            complain(&format!("SKIPPED cargo deny: it cannot be installed: {error:#}"));
            return Ok(());
        }
    }
    complain("SKIPPED advisories of cargo deny: their database is asked for by users' own CI");
    let mut check = command(
        &binary.display().to_string(),
        &["--log-level", "error", "--offline"],
    );
    check.args(["check", "licenses", "bans", "sources"]);
    execute(check)
}

/// It is of no workspace: what it depends on is its own.
fn rust_client() -> Result<()> {
    let manifest = repository().join("tests/mcp-client/Cargo.toml");
    let mut format = cargo(&["fmt", "--check", "--manifest-path"]);
    format.arg(&manifest);
    execute(format)?;
    let mut clippy = cargo(&["clippy", "-q", "--all-targets", "--locked", "--manifest-path"]);
    clippy
        .arg(&manifest)
        .arg("--target-dir")
        .arg(tools().join("mcp/rust"))
        .args(["--", "-D", "warnings"]);
    execute(clippy)
}

fn kernel_object() -> Result<()> {
    match ebpf::compare()? {
        Compared::Same => say("    built again: the same bytes"),
        Compared::NotHere(why) => complain(&format!("NOT COMPARED with a new build: {why}")),
    }
    Ok(())
}

/// Runs the tests and counts what their closing lines say.
fn tests(fast: bool) -> Result<Counts> {
    let mut arguments = vec!["test", "--locked", "--no-fail-fast"];
    if fast {
        arguments.extend([
            "--package",
            "interdict",
            "--package",
            "interdict-ebpf",
            "--package",
            "xtask",
            "--lib",
            "--bins",
        ]);
    } else {
        arguments.push("--workspace");
    }
    let mut command = cargo(&arguments);
    command
        .env("INTERDICT_TOOLS", tools())
        .env("INTERDICT_BIN", target().join("debug/interdict"))
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut counts = Counts::default();
    for line in lines {
        let line = line?;
        if let Some((passed, failed)) = closing(&line) {
            counts.passed += passed;
            counts.failed += failed;
        }
        say(&line);
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        bail!("the tests did not run: {status}");
    }
    Ok(counts)
}

/// The tests of BPF LSM on a kernel that has it; with `INTERDICT_FULL=1` the whole escape suite there too, and a Debian
/// with systemd.
fn guests(counts: &mut Counts) -> Result<()> {
    if let Some(why) = guest::impossible() {
        complain(&format!(
            "\nSKIPPED every test of BPF LSM: no guest here: {why}\n"
        ));
        return Ok(());
    }
    let words = [kernel_tests()?, "lsm::".to_owned()];
    let job = Job {
        command: &words,
        system: System::Host,
        variables: &[],
        patience: Duration::from_secs(300),
    };
    let status = guest::listen(&job, &mut |line| {
        if let Some((passed, failed)) = closing(line) {
            counts.passed += passed;
            counts.failed += failed;
        }
    })?;
    if status != 0 && counts.failed == 0 {
        bail!("the tests did not run in the guest: {status}");
    }
    if std::env::var_os("INTERDICT_FULL").is_none() {
        let what = "the escape suite under BPF LSM, and a Debian with systemd";
        complain(&format!(
            "SKIPPED {what}: some minutes; INTERDICT_FULL=1 runs them"
        ));
        return Ok(());
    }
    escape::run(true, false)?;
    in_debian()?;
    counts.passed += 2;
    Ok(())
}

/// The package in a Debian with systemd.
fn in_debian() -> Result<()> {
    let out = target().join("guest/package");
    std::fs::create_dir_all(&out)?;
    // Without what debuggers read: the guest unpacks slowly.
    let binary = out.join("interdict");
    let mut strip = command("strip", &["-o"]);
    strip.arg(&binary).arg(target().join("debug/interdict"));
    execute(strip)?;
    let deb = package::deb(&binary, &out)?;
    let words = ["sh", "xtask/src/guest/systemd.sh"].map(str::to_owned);
    let job = Job {
        command: &words,
        system: System::Debian,
        variables: &[("INTERDICT_DEB", deb.display().to_string())],
        patience: Duration::from_secs(900),
    };
    match guest::run(&job)? {
        0 => Ok(()),
        status => bail!("the Debian's tests ended with {status}"),
    }
}

/// The program with the tests of the kernel half.
fn kernel_tests() -> Result<String> {
    let build = cargo(&[
        "test",
        "-q",
        "--locked",
        "--no-run",
        "--package",
        "interdict-tests",
        "--test",
        "kernel",
        "--message-format=json",
    ]);
    let messages = output(build)?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_kernel = message["target"]["name"] == "kernel";
        Some(message["executable"].as_str()?.to_owned()).filter(|_path| is_kernel)
    });
    programs
        .next_back()
        .context("cargo names no program with the kernel's tests")
}

/// `test result: ok. 5 passed; 0 failed; …`
fn closing(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let before = rest.split(word).next()?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    Some((count(" passed")?, count(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(closing(line), Some((12, 3)));
        assert_eq!(closing("running 3 tests"), None);
    }
}
