//! Accepted sockets.

use std::sync::Arc;

use tokio::net::TcpStream;

use crate::model::{ConnectionId, OriginalDst, PeerAddr, Process};

/// An accepted connection whose flow the kernel knew.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The socket.
    pub stream: TcpStream,
    /// The process's own end.
    pub peer: PeerAddr,
    /// Where the process meant to connect to.
    pub original: OriginalDst,
    /// The process.
    pub process: Arc<Process>,
}
