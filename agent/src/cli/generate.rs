//! Completions and man pages.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::output::say_bytes;
use super::{Failure, OK, Outcome};

/// Completions for a shell, on standard output.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Man pages.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Where to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, command: &mut clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "interdict", &mut script);
    say_bytes(&script);
    Ok(OK)
}

pub(super) fn man(args: &ManArgs, command: clap::Command) -> Outcome {
    clap_mangen::generate_to(command, &args.dir).map_err(|error| {
        Failure::new(
            format!("{}: {error}", args.dir.display()),
            "Give a directory that exists.",
        )
    })?;
    Ok(OK)
}
