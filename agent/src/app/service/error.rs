//! Why the service does not begin, or not go on.

use std::path::PathBuf;

use crate::guard::{BelongingsError, GuardError, ServiceHeard};

use super::super::agent_user::AgentUserError;
use super::super::rooms::BuildError;

/// Why the agent does not serve. What an agent before has guarded stays guarded.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent.
    #[error(
        "another agent serves with the state directory {0}: stop it first, or configure another state_dir"
    )]
    Taken(PathBuf),
    /// A room.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The kernel.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A record.
    #[error("nothing is governed that cannot be recorded: {0}")]
    Audit(#[from] crate::audit::AuditError),
    /// A target.
    #[error(transparent)]
    Tls(#[from] crate::connection::tls::TlsError),
    /// The proxy's user.
    #[error(transparent)]
    User(#[from] AgentUserError),
    /// The proxy's directories.
    #[error(transparent)]
    Belongings(#[from] BelongingsError),
    /// The proxy, while nothing was served yet.
    #[error("{0}")]
    Proxy(String),
    /// The proxy, while it served.
    #[error("the proxy has ended ({0}): nothing is connected any more until the agent is started again")]
    Abandoned(String),
    /// The proxy said something that nobody asked.
    #[error("the proxy said something out of turn ({0})")]
    Unlike(String),
    /// A workload that the proxy cannot serve.
    #[error("{0}")]
    Unserved(String),
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// The proxy said what was not its turn to say.
pub(super) fn unlike(heard: ServiceHeard) -> ServeError {
    ServeError::Unlike(format!("{heard:?}").chars().take(200).collect())
}
