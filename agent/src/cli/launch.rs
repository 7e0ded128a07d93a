//! The child's side of `interdict run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::guard::{Identity, Launching, launched_main};

use super::{Failure, Outcome};

/// What the agent tells the child.
#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    #[arg(long)]
    procs: PathBuf,
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    #[arg(long)]
    gid: Option<u32>,
    #[arg(long, value_delimiter = ',')]
    groups: Vec<u32>,
    #[arg(long)]
    trust: Option<PathBuf>,
    #[arg(long, requires = "hard")]
    soft: Option<u64>,
    #[arg(long)]
    hard: Option<u64>,
    #[arg(long)]
    hide: Vec<PathBuf>,
    #[arg(long)]
    show: Vec<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(super) fn run(args: &LaunchArgs) -> Outcome {
    let identity = match (args.uid, args.gid) {
        (Some(uid), Some(gid)) => Some(Identity {
            uid,
            gid,
            groups: args.groups.clone(),
        }),
        _ => None,
    };
    let (status, message) = launched_main(&Launching {
        procs: &args.procs,
        identity: identity.as_ref(),
        trust: args.trust.as_deref(),
        descriptors: args.soft.zip(args.hard),
        hide: &args.hide,
        show: &args.show,
        command: &args.command,
    });
    Err(Failure {
        status: u8::try_from(status).unwrap_or(super::FAILED),
        message,
        hint: String::new(),
    })
}
