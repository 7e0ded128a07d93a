//! Datagrams to the agent: one counts only if the kernel knows whose it is.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::guard::{DatagramSource, Flow};
use crate::model::{FlowKey, ListenerAddr, NetnsCookie, OriginalDst, PeerAddr, Process};

/// Longest datagram that is read whole; of a longer one the rest is lost, and it is then not understood.
const MAX_DATAGRAM: usize = 4096;
/// How long to wait after a failed read.
const BREATH: Duration = Duration::from_millis(50);

/// A datagram whose flow the kernel knew.
#[derive(Debug)]
pub struct Question {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Where the process meant to send it.
    pub original: OriginalDst,
    /// The process.
    pub process: Arc<Process>,
    /// The socket that the answer goes out of: the process takes it for the server's.
    pub socket: Arc<UdpSocket>,
    /// The process's own end.
    pub peer: SocketAddr,
}

/// One socket of the agent for questions to servers of names.
pub struct DatagramListener {
    socket: Arc<UdpSocket>,
    address: ListenerAddr,
    netns: NetnsCookie,
    flows: Arc<dyn DatagramSource>,
}

impl std::fmt::Debug for DatagramListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramListener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl DatagramListener {
    /// Receives from `socket`, which lives in the namespace `netns`, and asks `flows` for each datagram.
    #[must_use]
    pub fn new(
        socket: UdpSocket,
        address: ListenerAddr,
        netns: NetnsCookie,
        flows: Arc<dyn DatagramSource>,
    ) -> Self {
        Self {
            socket: Arc::new(socket),
            address,
            netns,
            flows,
        }
    }

    /// The next datagram of a governed process; others are dropped. Cancel-safe.
    pub async fn next(&self) -> Question {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, peer)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Some(question) = self.attribute(bytes, peer) {
                        return question;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a datagram could not be read");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn attribute(&self, bytes: &[u8], peer: SocketAddr) -> Option<Question> {
        let (id, _) = bytes.split_first_chunk::<2>()?;
        let key = FlowKey {
            netns: self.netns,
            peer: PeerAddr(peer),
            listener: self.address,
        };
        let Some(Flow { original, process }) =
            self.flows
                .take(&key, u16::from_be_bytes(*id), self.socket.as_fd())
        else {
            tracing::debug!(%peer, "a datagram that the kernel did not redirect was dropped");
            return None;
        };
        Some(Question {
            bytes: bytes.to_vec(),
            original,
            process: Arc::new(process),
            socket: Arc::clone(&self.socket),
            peer,
        })
    }
}
