//! Fuzzing with libFuzzer, on stable Rust: the counters are a pass of LLVM's, asked for by flags.

use std::fs;

use anyhow::{Result, bail};

use crate::shell::{cargo, command, output, repository, run as execute, say, step, target};

/// The promises of `agent/src/fuzz.rs`.
const PROMISES: [&str; 25] = [
    "audit",
    "dns",
    "guard-link",
    "http-events",
    "http-framing",
    "http-grpc",
    "http-kept",
    "http-sent",
    "http-text",
    "http-uploads",
    "http-websocket",
    "json",
    "llm-prompts",
    "llm-streams",
    "llm-websocket",
    "mask",
    "mcp",
    "mcp-schema",
    "mcp-state",
    "mcp-tasks",
    "policy-unread",
    "postgres",
    "postgres-rows",
    "recordings",
    "sql",
];
/// As cargo-fuzz has them, without an address sanitizer, which needs an unstable compiler.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// Fuzzes one promise, or all of them, for so long each. What is found lies in `target/fuzz/found`.
pub(crate) fn run(name: &str, seconds: u64) -> Result<()> {
    let names: Vec<&str> = match name {
        "all" => PROMISES.to_vec(),
        one if PROMISES.contains(&one) => vec![one],
        other => bail!(
            "no promise {other:?}: write \"all\" or one of {}",
            PROMISES.join(", ")
        ),
    };
    let dir = target().join("fuzz");
    let host = output(command("rustc", &["-vV"]))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap_or_default();
    step(
        "build, optimised and with counters (several minutes the first time)",
        || {
            let manifest = repository().join("tests/fuzz/Cargo.toml");
            let mut build = cargo(&["build", "--release", "--target", host, "--manifest-path"]);
            build
                .arg(manifest)
                .arg("--target-dir")
                .arg(&dir)
                .env("RUSTFLAGS", FLAGS);
            execute(build)
        },
    )?;
    let fuzzer = dir.join(host).join("release/interdict-fuzz");
    for name in names {
        let (corpus, found) = (dir.join("corpus").join(name), dir.join("found").join(name));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&found)?;
        step(&format!("{name}, {seconds} s"), || {
            let mut fuzz = command(&fuzzer.display().to_string(), &[]);
            fuzz.arg(&corpus)
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-artifact_prefix={}/", found.display()))
                .args([
                    "-max_len=4096",
                    "-timeout=10",
                    "-print_final_stats=1",
                    "-verbosity=0",
                ])
                .env("INTERDICT_PROMISE", name);
            execute(fuzz)
        })?;
    }
    say("nothing was found");
    Ok(())
}
