//! The escape suite on this host.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, command, run as execute, target};

/// Builds the agent and the suite, and runs it.
pub(crate) fn run(json: bool) -> Result<()> {
    if !setup::is_root() {
        bail!("the suite loads kernel hooks and makes network namespaces of its own: run it as root");
    }
    execute(cargo(&[
        "build",
        "-q",
        "--locked",
        "--package",
        "interdict",
        "--package",
        "interdict-tests",
        "--bins",
    ]))?;
    let mut suite = command(&target().join("debug/escape").display().to_string(), &[]);
    suite.env("INTERDICT_BIN", target().join("debug/interdict"));
    if json {
        suite.arg("--json");
    }
    execute(suite)
}
