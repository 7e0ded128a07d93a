//! Who speaks to the serving guard from outside: signals; and the sockets that it opens for its proxy.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::control::{Server, directory};
use crate::guard::{Begin, ServiceProxy};

use super::super::agent_user::AgentUser;
use super::super::health::{self, SocketFile};
use super::ServeError;

/// Sockets in places where only root can put them; their files go with this.
#[derive(Debug)]
pub(super) struct Doors {
    _control: Option<Server>,
    _health: Option<SocketFile>,
}

impl Doors {
    /// Opens the control socket, and that of health and figures where it is configured, and hands the proxy all that it begins
    /// with.
    pub(super) async fn hand_over(
        proxy: &ServiceProxy,
        (file, text, config): (&Path, &str, &Config),
        user: &AgentUser,
    ) -> Result<Self, ServeError> {
        let control = match Server::listen(&directory()) {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::warn!(%error, "approvals cannot be decided through this agent");
                None
            }
        };
        let health = health::open(&config.telemetry).map(health::Door::handed);
        let (health, file_of_health) = match health {
            Some((door, file)) => (Some(door), file),
            None => (None, None),
        };
        let failed = |source| ServeError::System {
            what: "the proxy cannot be given what it begins with",
            source,
        };
        let socket = control.as_ref().map(Server::socket).transpose();
        let begin = Begin {
            user: (user.uid, user.gid),
            file,
            text,
            config,
            control: socket.map_err(failed)?,
            health,
        };
        proxy.begin(begin).await.map_err(failed)?;
        Ok(Self {
            _control: control,
            _health: file_of_health,
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    Reload,
    Stop,
}

pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
