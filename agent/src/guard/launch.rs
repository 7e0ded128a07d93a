//! Starting the command inside the governed cgroup.
//!
//! The agent starts itself once more (`interdict __launch`). That child joins the cgroup, stops itself, is labelled and
//! continued by the agent, and only then becomes the command: no instruction of the command runs ungoverned, and no
//! descriptor is handed down for it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process, setrlimit, waitid,
};
use tokio::process::{Child, Command};

use interdict_ebpf::RUN_LABEL;

use super::cgroup::RunCgroup;
use super::confine::confine;
use super::error::GuardError;
use super::filter;
use super::hooks::Guard;
use super::mounts;
use super::supervise::supervise;
use super::sys;
use super::trust;

/// As shells do: the command was found and could not be run.
const NOT_RUNNABLE: i32 = 126;
/// As shells do: the command was not found.
const NOT_FOUND: i32 = 127;

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// What to start.
#[derive(Debug)]
pub struct LaunchSpec {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Whom it runs as; `None`: as the agent.
    pub identity: Option<Identity>,
    /// Variables to set.
    pub set: Vec<(OsString, OsString)>,
    /// Variables to remove.
    pub removed: Vec<OsString>,
    /// The file of roots that stands in the place of the system's.
    pub trust: Option<PathBuf>,
    /// How many descriptors it may have, soft and hard (`RLIMIT_NOFILE`); `None`: as many as the agent.
    pub descriptors: Option<Rlimit>,
    /// What it does not see; `*` stands for one part of a path.
    pub hide: Vec<PathBuf>,
    /// What it sees all the same.
    pub show: Vec<PathBuf>,
}

/// A started command.
#[derive(Debug)]
pub struct Launched {
    /// The process; standard input, output and error are the agent's own.
    pub child: Child,
    /// Its process id.
    pub pid: u32,
}

/// Starts the command in the cgroup's `workload`, labelled before its first instruction.
///
/// # Errors
/// Where it cannot be started. Nothing of the command has run then.
pub async fn launch(guard: &mut Guard, cgroup: &RunCgroup, spec: LaunchSpec) -> Result<Launched, GuardError> {
    let name = spec
        .command
        .first()
        .map(|c| c.to_string_lossy().into_owned())
        .unwrap_or_default();
    let failed = |source| GuardError::Launch {
        command: name.clone(),
        source,
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg("__launch").arg("--procs").arg(cgroup.procs());
    if let Some(Identity { uid, gid, groups }) = &spec.identity {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        command.args([
            "--uid",
            &uid.to_string(),
            "--gid",
            &gid.to_string(),
            "--groups",
            &groups.join(","),
        ]);
    }
    if let Some(bundle) = &spec.trust {
        command.arg("--trust").arg(bundle);
    }
    if let Some(Rlimit { current, maximum }) = spec.descriptors {
        // RLIM_INFINITY is the greatest number.
        let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX).to_string();
        command.args(["--soft", &number(current), "--hard", &number(maximum)]);
    }
    for (option, paths) in [("--hide", &spec.hide), ("--show", &spec.show)] {
        for path in paths {
            command.arg(option).arg(path);
        }
    }
    command.arg("--").args(&spec.command);
    for name in &spec.removed {
        command.env_remove(name);
    }
    command.envs(spec.set);
    let mut child = command.spawn().map_err(failed)?;
    let pid = child.id().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let started = async {
        wait_stopped(pid).await.map_err(failed)?;
        if !mounts::has_own(pid) {
            tracing::warn!(
                "the command has no mounts of its own (a container without that right): sockets of daemons are not hidden from it, and as root it reaches the cgroup tree"
            );
        }
        if let Some(bundle) = &spec.trust
            && !trust::is_covered(pid, bundle)
        {
            tracing::warn!(
                "the system's roots could not be covered for the command: only programs that read SSL_CERT_FILE and its likes trust the agent"
            );
        }
        guard.label(pid, RUN_LABEL)?;
        if let Err(error) = supervise(raw(pid).map_err(failed)?, guard.tell()) {
            tracing::warn!(%error, "system calls that the filter stops fail, and are not recorded");
        }
        signal(pid, Signal::CONT).map_err(failed)
    };
    if let Err(error) = started.await {
        // It would stay stopped for ever. A child that has ended already needs no signal.
        if let Err(error) = child.kill().await {
            tracing::debug!(%error, "the child could not be ended");
        }
        return Err(error);
    }
    Ok(Launched { child, pid })
}

/// Waits until the child has stopped itself; an error when it ended instead.
async fn wait_stopped(pid: u32) -> io::Result<()> {
    let pid = raw(pid)?;
    let waiting = tokio::task::spawn_blocking(move || {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).map_err(io::Error::from)
    });
    match waiting.await.map_err(io::Error::other)?? {
        Some(status) if status.stopped() => Ok(()),
        _ => Err(io::Error::other(
            "it could not join the governed cgroup (its message is above)",
        )),
    }
}

/// Sends a signal to a process that the agent started.
///
/// # Errors
/// Where it is gone.
fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(kill_process(raw(pid)?, signal)?)
}

fn raw(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// What the child is told about itself.
#[derive(Debug)]
pub struct Launching<'a> {
    /// Where it writes `0` to join.
    pub procs: &'a Path,
    /// Whom it becomes.
    pub identity: Option<&'a Identity>,
    /// As in [`LaunchSpec`].
    pub trust: Option<&'a Path>,
    /// Soft and hard limit of its descriptors.
    pub descriptors: Option<(u64, u64)>,
    /// As in [`LaunchSpec`].
    pub hide: &'a [PathBuf],
    /// As in [`LaunchSpec`].
    pub show: &'a [PathBuf],
    /// As in [`LaunchSpec`].
    pub command: &'a [OsString],
}

impl Launching<'_> {
    fn stays_root(&self) -> bool {
        self.identity.is_none_or(|identity| identity.uid == 0)
    }

    /// Arranges what the command sees. Where there can be no mounts of its own, the agent sees that and says so.
    fn mount(&self) -> io::Result<()> {
        if !mounts::own()? {
            return Ok(());
        }
        // Said by the agent likewise.
        let _uncovered = self.trust.map(trust::trust);
        mounts::hide(self.hide, self.show)?;
        match self.procs.parent() {
            Some(own) if self.stays_root() => mounts::bind_root(own),
            _ => Ok(()),
        }
    }
}

/// The child's side: joins, waits for the agent's go, drops to the user, becomes the command. Returns only on failure:
/// the exit status and what to print.
#[must_use]
pub fn launched_main(launching: &Launching<'_>) -> (i32, String) {
    let Launching {
        procs,
        identity,
        descriptors,
        command,
        ..
    } = *launching;
    let Some((program, arguments)) = command.split_first() else {
        return (NOT_FOUND, "no command was given".into());
    };
    // Before its path is hidden.
    let joining = fs::OpenOptions::new().write(true).open(procs);
    // First, as the filter and the domain end it.
    if let Err(error) = launching.mount() {
        let what = "what the command must not see cannot be hidden from it";
        return (NOT_RUNNABLE, format!("{what}: {error}"));
    }
    // Its listener is the agent's once the agent has taken it; here it closes when this process becomes the command.
    let _listener = match filter::install() {
        Ok(listener) => listener,
        Err(error) => {
            let what = "no system call filter can be installed (a kernel without seccomp, or a seccomp profile that forbids it)";
            return (NOT_RUNNABLE, format!("{what}: {error}"));
        }
    };
    if let Err(error) = confine() {
        return (
            NOT_RUNNABLE,
            format!("cannot be put into a Landlock domain: {error}"),
        );
    }
    if let Err(error) = joining.and_then(join) {
        return (NOT_RUNNABLE, format!("cannot join {}: {error}", procs.display()));
    }
    if let Some((soft, hard)) = descriptors
        && let Err(error) = limit_descriptors(soft, hard)
    {
        return (NOT_RUNNABLE, format!("cannot limit its descriptors: {error}"));
    }
    if launching.stays_root()
        && let Err(error) = mounts::drop_capabilities()
    {
        return (NOT_RUNNABLE, format!("cannot drop capabilities: {error}"));
    }
    if let Err(error) = identity.map_or(Ok(()), become_user) {
        return (
            NOT_RUNNABLE,
            format!("cannot change to user {}: {error}", identity.map_or(0, |i| i.uid)),
        );
    }
    if let Err(error) = sys::close_others_on_exec() {
        return (
            NOT_RUNNABLE,
            format!("cannot close inherited descriptors: {error}"),
        );
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    let status = if is_there(program) {
        NOT_RUNNABLE
    } else {
        NOT_FOUND
    };
    (status, format!("{}: {error}", Path::new(program).display()))
}

/// Whether the command exists, as a path or in a directory of `PATH` (one that may not be read hides nothing else).
fn is_there(program: &OsString) -> bool {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn join(mut procs: fs::File) -> io::Result<()> {
    // Should the agent die in between, nobody would continue this process.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    procs.write_all(b"0")?;
    kill_process(rustix::process::getpid(), Signal::STOP)?;
    rustix::process::set_parent_process_death_signal(None)?;
    Ok(())
}

/// As it was before the agent raised its own limit: programs that close every descriptor that they could have are slow
/// with a million of them, and those that use `select` need fewer than 1024.
fn limit_descriptors(soft: u64, hard: u64) -> io::Result<()> {
    let known = |number: u64| (number != u64::MAX).then_some(number);
    let limit = Rlimit {
        current: known(soft),
        maximum: known(hard),
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

fn become_user(identity: &Identity) -> nix::Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // A set-user-id program would be root again, and root can undo the guard.
    rustix::thread::set_no_new_privs(true).map_err(|error| nix::Error::from_raw(error.raw_os_error()))
}
