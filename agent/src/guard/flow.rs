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

/// Where the flows of datagrams come from: questions to servers of names.
pub trait DatagramSource: Send + Sync + 'static {
    /// Looks the flow of a datagram up, by both ends and the question's id, and deletes it: each is given out once.
    /// `None` means that no governed process sent it: drop it. `socket` is the one that it came to, for a source that
    /// wants to see it.
    fn take(&self, key: &FlowKey, id: u16, socket: BorrowedFd<'_>) -> Option<Flow>;
}

/// Where flows come from: the kernel's table, or (in tests without privileges) a table that the test fills.
pub trait FlowSource: Send + Sync + 'static {
    /// Looks the flow up and deletes it: each is given out once. `None` means that the kernel redirected no such
    /// connection: close it. `accepted` is the connection's socket, for a source that wants to see it.
    fn take(&self, key: &FlowKey, accepted: BorrowedFd<'_>) -> Option<Flow>;
}
