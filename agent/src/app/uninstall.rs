//! Taking away what agents leave on a host: pins (with them the hooks), cgroups, a bpffs of the agent's own, sockets, drop-ins,
//! the bundle of certificates; with `purge` keys, records and configuration. What is alive stays, unless it is forced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::guard::{Remains, remains};

use super::govern;

/// The agent's runtime directory.
const RUNTIME: &str = "/run/interdict";
/// Its configuration.
const CONFIGURATION: &str = "/etc/interdict";

/// What to take away.
#[derive(Debug, Clone)]
pub struct UninstallSpec {
    /// The configuration: its state directory and log.
    pub config: Config,
    /// The file system: `/` outside tests.
    pub root: PathBuf,
    /// Keys, records, pending approvals and configuration too.
    pub purge: bool,
    /// Also while something is alive: its processes are ended.
    pub force: bool,
}

/// One thing to take away, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// Processes below a cgroup of the agent's; they are ended.
    Processes(PathBuf, Vec<u32>),
    /// A drop-in of a governed unit.
    DropIn(PathBuf),
    /// A directory of pins: the hooks go with them.
    Pins(PathBuf),
    /// A cgroup.
    Cgroup(PathBuf),
    /// A mounted bpffs of the agent's own.
    Mount(PathBuf),
    /// A file or a directory with everything in it.
    Tree(PathBuf),
}

impl Leftover {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Processes(..) => "processes",
            Self::DropIn(_) => "drop-in",
            Self::Pins(_) => "pins",
            Self::Cgroup(_) => "cgroup",
            Self::Mount(_) => "mount",
            Self::Tree(_) => "files",
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Processes(path, _)
            | Self::DropIn(path)
            | Self::Pins(path)
            | Self::Cgroup(path)
            | Self::Mount(path)
            | Self::Tree(path) => path,
        }
    }
}

/// Why nothing is taken away.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// Somebody is alive.
    #[error("{0}")]
    Alive(String),
    /// The kernel was not understood.
    #[error(transparent)]
    Guard(#[from] crate::guard::GuardError),
}

/// Lists what is there, in the order in which it goes.
///
/// # Errors
/// While an agent or a governed process is alive, unless it is forced.
pub fn plan(spec: &UninstallSpec) -> Result<Vec<Leftover>, UninstallError> {
    let Remains {
        agents,
        processes,
        pins,
        cgroups,
        mounts,
    } = remains(&spec.root)?;
    let alive = !agents.is_empty() || !processes.is_empty();
    if alive && !spec.force {
        let governed: usize = processes.iter().map(|(_, pids)| pids.len()).sum();
        return Err(UninstallError::Alive(format!(
            "{} agents and {governed} governed processes are alive{}",
            agents.len(),
            shown(&agents, &processes)
        )));
    }
    let mut all = Vec::new();
    all.extend(govern::drop_ins(&spec.root).into_iter().map(Leftover::DropIn));
    let mut living: Vec<(PathBuf, Vec<u32>)> = processes;
    if !agents.is_empty() {
        living.insert(0, (under(&spec.root, RUNTIME), agents));
    }
    all.extend(
        living
            .into_iter()
            .map(|(path, pids)| Leftover::Processes(path, pids)),
    );
    all.extend(cgroups.into_iter().map(Leftover::Cgroup));
    all.extend(pins.into_iter().map(Leftover::Pins));
    all.extend(mounts.into_iter().map(Leftover::Mount));
    let state = &spec.config.state_dir;
    let mut trees = vec![under(&spec.root, RUNTIME), state.join("ca").join("bundle.pem")];
    if spec.purge {
        trees.extend([state.clone(), spec.config.audit.dir.clone()]);
        trees.push(under(&spec.root, CONFIGURATION));
    }
    let trees = trees.into_iter().filter(|path| path.symlink_metadata().is_ok());
    all.extend(trees.map(Leftover::Tree));
    Ok(all)
}

fn shown(agents: &[u32], processes: &[(PathBuf, Vec<u32>)]) -> String {
    let pids = agents.iter().chain(processes.iter().flat_map(|(_, pids)| pids));
    let pids: Vec<String> = pids.take(8).map(u32::to_string).collect();
    format!(" (process {}…)", pids.join(", "))
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Takes one thing away.
///
/// # Errors
/// Where the system refuses.
pub fn take_away(leftover: &Leftover) -> io::Result<()> {
    match leftover {
        Leftover::Processes(_, pids) => end_all(pids),
        Leftover::DropIn(path) => govern::take_away(path).map_err(io::Error::other),
        Leftover::Pins(path) | Leftover::Tree(path) => gone(remove_tree(path)),
        Leftover::Cgroup(path) => gone(remove_cgroup(path)),
        Leftover::Mount(path) => {
            rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).map_err(io::Error::from)
        }
    }
}

/// What is gone already needs no more.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// A cgroup's files cannot be removed, and need not be.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    // Ended processes leave it a moment later.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match fs::remove_dir(path) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && std::time::Instant::now() < until =>
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Ends processes, through descriptors: a number that somebody else has by now is not hit.
fn end_all(pids: &[u32]) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    for pid in pids {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|fd| pidfd_send_signal(fd, Signal::KILL));
        match ended {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
