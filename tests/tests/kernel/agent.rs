//! This program as the agent, and as what the agent starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use interdict::guard::{Identity, LaunchSpec, Launching, launch, launched_main};

use crate::world::{World, python, script};

/// `__launch --procs FILE [--uid N --gid N --groups N,N] -- COMMAND…`, as the agent's own hidden subcommand.
pub(crate) fn launched(arguments: &[String]) -> ExitCode {
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str| value(name).and_then(|v| v.parse::<u32>().ok());
    let groups = value("--groups").unwrap_or_default();
    let identity = number("--uid").zip(number("--gid")).map(|(uid, gid)| Identity {
        uid,
        gid,
        groups: groups.split(',').filter_map(|g| g.parse().ok()).collect(),
    });
    let command: Vec<OsString> = arguments
        .iter()
        .skip_while(|a| *a != "--")
        .skip(1)
        .map(OsString::from)
        .collect();
    let procs = PathBuf::from(value("--procs").unwrap_or_default());
    let (status, message) = launched_main(&Launching {
        procs: &procs,
        identity: identity.as_ref(),
        trust: None,
        descriptors: None,
        hide: &[],
        show: &[],
        command: &command,
    });
    eprintln!("{message}");
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// `__agent PROGRAM`: an agent that governs one Python program and lives until it is killed.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &[String]) -> Result<()> {
    let program = arguments.get(1).context("a program")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut world = World::new(&[])?;
        println!("{}", world.cgroup.procs().display());
        let command = vec![python()?.into(), "-c".into(), script(program).into()];
        let spec = LaunchSpec {
            command,
            identity: None,
            set: Vec::new(),
            removed: Vec::new(),
            trust: None,
            descriptors: None,
            hide: Vec::new(),
            show: Vec::new(),
        };
        let mut launched = launch(&mut world.guard, &world.cgroup, spec).await?;
        launched.child.wait().await?;
        Ok(())
    })
}
