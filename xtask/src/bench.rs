//! Benchmarks: side by side with what a user would pick instead, as ratios from one interleaved run.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, command, run as execute, step, target, tools};

/// Runs a benchmark.
pub(crate) fn run(name: &str, json: bool) -> Result<()> {
    let program = match name {
        "postgres" => "bench",
        "kernel" => "bench_kernel",
        "http" => "bench_http",
        _ => bail!("there is no benchmark {name:?}: there are `postgres`, `kernel` and `http`"),
    };
    if !setup::is_root() {
        bail!("the benchmarks load kernel hooks and start servers of their own: run them as root");
    }
    step("set up", || setup::run(false))?;
    if name == "http" {
        step("set up mitmproxy", setup::mitmproxy)?;
    }
    step("build, optimised", || {
        execute(cargo(&[
            "build",
            "--release",
            "--locked",
            "--package",
            "interdict",
            "--package",
            "interdict-tests",
            "--bin",
            "interdict",
            "--bin",
            program,
        ]))
    })?;
    let program = target().join("release").join(program);
    let mut bench = command(&program.display().to_string(), &[]);
    bench
        .env("INTERDICT_TOOLS", tools())
        .env("INTERDICT_BIN", target().join("release/interdict"));
    if json {
        bench.arg("--json");
    }
    execute(bench)
}
