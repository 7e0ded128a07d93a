//! The main job, end to end.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, run as execute, step, target, tools};

/// Sets up, builds, and hands over to the demonstration.
pub(crate) fn run(keep: bool) -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the demo loads kernel hooks and starts a database of its own: run it as root (sudo -E cargo xtask demo)"
        );
    }
    step("set up", || setup::run(false))?;
    step("build (a few minutes the first time)", || {
        execute(cargo(&[
            "build",
            "--locked",
            "--package",
            "interdict",
            "--package",
            "interdict-tests",
            "--bins",
        ]))
    })?;
    let mut demo = crate::shell::command(&target().join("debug/demo").display().to_string(), &[]);
    demo.env("INTERDICT_TOOLS", tools())
        .env("INTERDICT_BIN", target().join("debug/interdict"));
    if keep {
        demo.arg("--keep");
    }
    execute(demo)
}
