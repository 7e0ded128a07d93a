//! What can go wrong with the kernel, and what to do about it.

use std::path::PathBuf;

/// Why processes cannot be governed. Whoever gets one must not start the process.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Not enough authority.
    #[error(
        "loading kernel hooks needs root (or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and write access to the cgroup tree): run it with sudo"
    )]
    NotRoot,
    /// No cgroup2 hierarchy.
    #[error(
        "no cgroup2 file system is mounted here: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
    )]
    NoCgroup2,
    /// A file of the kernel could not be used.
    #[error("{what} {path}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel did not take the object.
    #[error("the kernel does not load the hooks: {0}. Linux 5.15 with BTF is the oldest that can")]
    Object(String),
    /// The kernel did not take one program.
    #[error("the kernel does not take the hook {hook}: {reason}")]
    Hook {
        /// Which.
        hook: &'static str,
        /// Why.
        reason: String,
    },
    /// A map could not be used.
    #[error("the kernel map {map} cannot be used: {reason}")]
    Map {
        /// Which.
        map: &'static str,
        /// Why.
        reason: String,
    },
    /// A socket could not be opened.
    #[error("the agent cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Between guard and proxy.
    #[error("the other half of the agent is not there: {0}")]
    Link(#[source] super::link::LinkError),
    /// The guard would not do it.
    #[error("the guard refuses: {0}")]
    Refused(String),
    /// The command could not be started.
    #[error("{command:?} cannot be started: {source}")]
    Launch {
        /// What.
        command: String,
        /// Why.
        source: std::io::Error,
    },
}

impl GuardError {
    pub(super) fn kernel(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Kernel { what, path, source }
    }
}
