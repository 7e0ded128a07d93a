//! The cgroups of runs, seen from outside.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use interdict::guard::RunCgroup;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

/// Waits until no process is left in `run`. A process leaves its cgroup after it has closed its files.
///
/// # Errors
/// Where it takes longer than ten seconds.
pub fn wait_unpopulated(run: &Path) -> Result<()> {
    let mut events = File::open(run.join("cgroup.events"))?;
    let limit = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.contains("populated 0") {
            return Ok(());
        }
        let mut changes = [PollFd::new(&events, PollFlags::PRI)];
        ensure!(poll(&mut changes, Some(&limit))? > 0, "processes would not end");
    }
}

/// Takes away what the killed agent `pid` has left, as the next agent does, once its processes have ended.
///
/// # Errors
/// Where something is left.
pub fn take_away(pid: Pid) -> Result<()> {
    let next = RunCgroup::create()?;
    let parent = next.procs().ancestors().nth(3).context("path")?.to_owned();
    drop(next);
    let prefix = format!("run-{}-", pid.as_raw_nonzero());
    for entry in std::fs::read_dir(&parent).into_iter().flatten() {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        wait_unpopulated(&entry.path())?;
        drop(RunCgroup::create()?);
        ensure!(!entry.path().exists(), "{} is left", entry.path().display());
    }
    Ok(())
}
