//! From a redirected connection back to what the process meant.

use std::os::fd::BorrowedFd;

use crate::model::{FlowKey, OriginalDst, Process};

/// One redirected connection as the kernel saw it being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where the process meant to connect to.
    pub original: OriginalDst,
    /// Who connected.
    pub process: Process,
}

/// Where flows come from: the kernel's table, or (in tests without privileges) a table that the test fills.
pub trait FlowSource: Send + Sync + 'static {
    /// Looks the flow up and deletes it: each is given out once. `None` means that the kernel redirected no such
    /// connection: close it. `accepted` is the connection's socket, for a source that wants to see it.
    fn take(&self, key: &FlowKey, accepted: BorrowedFd<'_>) -> Option<Flow>;
}
