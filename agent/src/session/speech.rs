//! What the agent says for itself, on either side.

use bytes::Bytes;

/// Why the agent speaks. Closed: whoever needs another reason has to name it here, where a reviewer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    StartUp,
    LogIn,
    Cancel,
    Stand,
    Status,
}

/// Bytes that the agent made for itself: start-up, log-in with the real credential, cancel, a statement that stands in
/// for a refused one. Never built from the process's bytes: those need a `Permit`.
#[derive(Debug)]
pub struct AgentSpeech {
    bytes: Bytes,
    why: Why,
}

impl AgentSpeech {
    /// Opens a session with a target or answers the process's opening.
    pub fn start_up(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            why: Why::StartUp,
        }
    }

    /// Logs in with the real credential, or ends the process's own log-in.
    pub fn log_in(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            why: Why::LogIn,
        }
    }

    /// Asks the target to stop what it does.
    pub fn cancel(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            why: Why::Cancel,
        }
    }

    /// Stands in for an operation that was refused, so that the target's state follows (a statement that must fail).
    pub fn stand_in(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            why: Why::Stand,
        }
    }

    /// Protocol state that the agent keeps itself: ready, complete, closed.
    pub fn status(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            why: Why::Status,
        }
    }

    pub(in crate::session) fn into_bytes(self) -> Bytes {
        tracing::trace!(why = ?self.why, len = self.bytes.len(), "agent speaks");
        self.bytes
    }
}
