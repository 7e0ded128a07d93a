//! The escape suite, on this host or in a guest whose kernel has BPF LSM.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::guest::{self, Job, System};
use crate::setup;
use crate::shell::{cargo, command, run as execute, target};

/// Builds the agent and the suite, and runs it.
pub(crate) fn run(vm: bool, json: bool) -> Result<()> {
    if !setup::is_root() {
        bail!("the suite loads kernel hooks and makes network namespaces of its own: run it as root");
    }
    if vm && let Some(why) = guest::impossible() {
        bail!("no guest here: {why}");
    }
    build()?;
    let suite = target().join("debug/escape").display().to_string();
    let arguments = if json { &["--json"][..] } else { &[] };
    if vm {
        return in_guest(suite, arguments);
    }
    let mut suite = command(&suite, arguments);
    suite.env("INTERDICT_BIN", target().join("debug/interdict"));
    execute(suite)
}

fn build() -> Result<()> {
    execute(cargo(&[
        "build",
        "-q",
        "--locked",
        "--package",
        "interdict",
        "--package",
        "interdict-tests",
        "--bins",
    ]))
}

fn in_guest(suite: String, arguments: &[&str]) -> Result<()> {
    let mut words = vec![suite];
    words.extend(arguments.iter().map(|&word| word.to_owned()));
    let job = Job {
        command: &words,
        system: System::Host,
        variables: &[],
        patience: Duration::from_secs(1200),
    };
    match guest::run(&job)? {
        0 => Ok(()),
        status => bail!("the suite ended with {status} in the guest"),
    }
}
