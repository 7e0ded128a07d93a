//! Benchmarks: side by side with what a user would pick instead, as ratios from one interleaved run.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, command, run as execute, step, target, tools};

/// Runs a benchmark.
pub(crate) fn run(name: &str, json: bool) -> Result<()> {
    if name != "postgres" {
        bail!("there is no benchmark {name:?}: there is `postgres`");
    }
    if !setup::is_root() {
        bail!("the benchmark loads kernel hooks and starts a database of its own: run it as root");
    }
    step("set up", || setup::run(false))?;
    step("build, optimised", || {
        execute(cargo(&[
            "build",
            "--release",
            "--locked",
            "--package",
            "interdict",
            "--package",
            "interdict-tests",
            "--bins",
        ]))
    })?;
    let mut bench = command(&target().join("release/bench").display().to_string(), &[]);
    bench
        .env("INTERDICT_TOOLS", tools())
        .env("INTERDICT_BIN", target().join("release/interdict"));
    if json {
        bench.arg("--json");
    }
    execute(bench)
}
