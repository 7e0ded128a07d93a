//! Running commands and printing progress.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Where `setup` puts tools.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// Prints a line; a reader that went away is no error.
pub(crate) fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to standard error.
pub(crate) fn complain(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Runs a step under a heading with its time.
pub(crate) fn step<T>(heading: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("==> {heading}"));
    let begun = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    say(&format!(
        "    {verdict} in {:.1} s: {heading}",
        begun.elapsed().as_secs_f32()
    ));
    result
}

/// A command in the repository.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repository());
    command
}

/// Runs a command to its end; an error unless it succeeds.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs a command and returns what it prints; an error unless it succeeds.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?} ended with {}:\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Cargo with the toolchain that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_unset| "cargo".into());
    command(&program, arguments)
}
