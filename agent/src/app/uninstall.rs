//! Taking away what agents leave on a host: pins (with them the hooks), cgroups, a bpffs of the agent's own, sockets, drop-ins,
//! the bundle of certificates; with `purge` keys, records and configuration. What is alive stays, unless it is forced.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// What becomes of what is alive.
    pub alive: Alive,
}

/// What becomes of agents and governed processes that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    /// Nothing is taken away.
    Refuse,
    /// They are ended.
    End,
    /// Agents and commands of `interdict run` are ended; what a service governs goes on, ungoverned.
    LetGo,
}

/// One thing to take away, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A unit of systemd that keeps an agent alive; it is stopped.
    Unit(String),
    /// Processes below a cgroup of the agent's; they are ended.
    Processes(PathBuf, Vec<u32>),
    /// Processes that go on, ungoverned from then on.
    LetGo(PathBuf, Vec<u32>),
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
            Self::Unit(_) => "unit",
            Self::Processes(..) => "processes",
            Self::LetGo(..) => "let go",
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
            Self::Unit(name) => Path::new(name),
            Self::Processes(path, _)
            | Self::LetGo(path, _)
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
/// While an agent or a governed process is alive, unless it is said what becomes of it.
pub fn plan(spec: &UninstallSpec) -> Result<Vec<Leftover>, UninstallError> {
    let Remains {
        agents,
        processes,
        pins,
        cgroups,
        mounts,
    } = remains(&spec.root)?;
    let alive = !agents.is_empty() || !processes.is_empty();
    if alive && spec.alive == Alive::Refuse {
        let governed: usize = processes.iter().map(|(_, pids)| pids.len()).sum();
        return Err(UninstallError::Alive(format!(
            "{} agents and {governed} governed processes are alive{}",
            agents.len(),
            shown(&agents, &processes)
        )));
    }
    let mut all = Vec::new();
    all.extend(govern::drop_ins(&spec.root).into_iter().map(Leftover::DropIn));
    // A service manager would start an agent again that was ended.
    all.extend(units(&spec.root, &agents).into_iter().map(Leftover::Unit));
    if !agents.is_empty() {
        all.push(Leftover::Processes(under(&spec.root, RUNTIME), agents));
    }
    all.extend(processes.into_iter().map(|(path, pids)| {
        // What agents made themselves holds the commands of `interdict run`.
        if spec.alive == Alive::LetGo && !cgroups.contains(&path) {
            Leftover::LetGo(path, pids)
        } else {
            Leftover::Processes(path, pids)
        }
    }));
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

/// The units of systemd that these agents are, where systemd runs.
fn units(root: &Path, agents: &[u32]) -> BTreeSet<String> {
    if root != Path::new("/") || !Path::new("/run/systemd/system").exists() {
        return BTreeSet::new();
    }
    let unit = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        unit_in(&text).map(str::to_owned)
    };
    agents.iter().filter_map(unit).collect()
}

/// The service in a `/proc/PID/cgroup` (cgroup2's line, else that of systemd's own hierarchy); a command of `interdict run` in
/// somebody's session is no service.
fn unit_in(text: &str) -> Option<&str> {
    let ours = text
        .lines()
        .filter(|line| line.starts_with("0::") || line.contains(":name=systemd:"));
    ours.filter_map(|line| line.rsplit('/').next())
        .find(|name| name.ends_with(".service") && !name.starts_with("user@"))
}

/// What is there again after everything was taken away: then somebody starts it.
///
/// # Errors
/// Where the kernel is not understood.
pub fn came_back(spec: &UninstallSpec) -> Result<Vec<Leftover>, UninstallError> {
    let spec = UninstallSpec {
        alive: Alive::LetGo,
        ..spec.clone()
    };
    let mut left = plan(&spec)?;
    left.retain(|one| match one {
        Leftover::Processes(..) | Leftover::Pins(_) | Leftover::Cgroup(_) | Leftover::Mount(_) => true,
        Leftover::Unit(_) | Leftover::LetGo(..) | Leftover::DropIn(_) | Leftover::Tree(_) => false,
    });
    Ok(left)
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
        Leftover::Unit(name) => stop(name),
        Leftover::Processes(path, pids) => end(path, pids),
        Leftover::LetGo(..) => Ok(()),
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

/// Stops a unit of systemd, as `systemctl disable --now` does: a restart of the host does not start it again.
fn stop(unit: &str) -> io::Result<()> {
    let told = Command::new("systemctl")
        .args(["disable", "--now", "--quiet", unit])
        .stdin(Stdio::null())
        .status()?;
    if told.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "systemctl disable --now {unit}: {told}"
    )))
}

/// Ends what is in a cgroup at once, children that it makes meanwhile too (Linux 5.14); elsewhere one by one.
fn end(path: &Path, pids: &[u32]) -> io::Result<()> {
    let kill = fs::OpenOptions::new().write(true).open(path.join("cgroup.kill"));
    match kill {
        Ok(mut file) => io::Write::write_all(&mut file, b"1"),
        Err(_none) => end_all(pids),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_an_agent_is_a_service() {
        let table = [
            ("0::/system.slice/interdict.service\n", Some("interdict.service")),
            (
                "5:freezer:/a.service\n1:name=systemd:/system.slice/interdict.service\n0::/\n",
                Some("interdict.service"),
            ),
            ("0::/user.slice/user-0.slice/user@0.service\n", None),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("4:freezer:/x.service\n", None),
        ];
        for (text, expected) in table {
            assert_eq!(unit_in(text), expected, "{text}");
        }
    }
}
