//! Accepting: a socket becomes a connection only if the kernel knows its flow.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::guard::{Flow, FlowSource};
use crate::model::{
    ConnectionId, FlowKey, ListenerAddr, NetnsCookie, OriginalDst, PeerAddr, Process, UpstreamAddr,
};

/// How long to wait after a failed `accept` (no descriptors, no memory) before the next one.
const BREATH: Duration = Duration::from_millis(50);

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
    /// Where the agent connects to for it.
    pub upstream: UpstreamAddr,
    /// The process.
    pub process: Arc<Process>,
}

/// What came out of the listener.
#[derive(Debug)]
pub enum Accepted {
    /// A redirected connection.
    Connection(Connection),
    /// Somebody connected whom the kernel did not redirect: already reset.
    Stranger {
        /// Where from.
        peer: PeerAddr,
    },
}

/// One listener of the agent.
pub struct Acceptor {
    listener: TcpListener,
    address: ListenerAddr,
    netns: NetnsCookie,
    flows: Arc<dyn FlowSource>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor")
            .field("address", &self.address)
            .field("netns", &self.netns)
            .finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Accepts from `listener`, which lives in the namespace `netns`, and asks `flows` for each connection.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        address: ListenerAddr,
        netns: NetnsCookie,
        flows: Arc<dyn FlowSource>,
    ) -> Self {
        Self {
            listener,
            address,
            netns,
            flows,
        }
    }

    /// The next connection. Cancel-safe. Failures of `accept` are logged and tried again: a listener that gave up
    /// would leave the processes without network, but never unguarded.
    pub async fn next(&self) -> Accepted {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return self.attribute(stream, PeerAddr(peer)),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn attribute(&self, stream: TcpStream, peer: PeerAddr) -> Accepted {
        let key = FlowKey {
            netns: self.netns,
            peer,
            listener: self.address,
        };
        let Some(Flow { original, process }) = self.flows.take(&key, stream.as_fd()) else {
            reset(stream);
            return Accepted::Stranger { peer };
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let original = OriginalDst(std::net::SocketAddr::new(
            original.0.ip().to_canonical(),
            original.0.port(),
        ));
        Accepted::Connection(Connection {
            id: ConnectionId::new(),
            stream,
            peer,
            original,
            upstream: original.into(),
            process: Arc::new(process),
        })
    }
}

/// Closes with a reset, so that a client sees a failure and not an empty answer: after a redirect its `connect` has
/// already succeeded.
pub fn reset(stream: TcpStream) {
    if let Err(error) = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no SO_LINGER");
    }
    drop(stream);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::model::Executable;

    /// The kernel's table, filled by the test.
    #[derive(Default)]
    struct Table(Mutex<HashMap<FlowKey, Flow>>);

    impl FlowSource for Table {
        fn take(&self, key: &FlowKey, _accepted: BorrowedFd<'_>) -> Option<Flow> {
            self.0.lock().expect("lock").remove(key)
        }
    }

    fn flow(original: &str) -> Flow {
        let process = Process {
            tgid: 7,
            start_ns: 1,
            uid: 1000,
            gid: 1000,
            exe: Executable::default(),
            cgroup: 1,
            netns: NetnsCookie(1),
            comm: "test".into(),
        };
        Flow {
            original: OriginalDst(original.parse().expect("address")),
            process,
        }
    }

    #[tokio::test]
    async fn a_flow_is_given_out_once_and_a_stranger_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = ListenerAddr(listener.local_addr().expect("address"));
        let table = Arc::new(Table::default());
        let flows: Arc<dyn FlowSource> = Arc::<Table>::clone(&table);
        let acceptor = Acceptor::new(listener, address, NetnsCookie(1), flows);

        let known = TcpStream::connect(address.0).await.expect("connect");
        let peer = PeerAddr(known.local_addr().expect("address"));
        let key = FlowKey {
            netns: NetnsCookie(1),
            peer,
            listener: address,
        };
        table
            .0
            .lock()
            .expect("lock")
            .insert(key, flow("[::ffff:10.0.0.7]:5432"));
        let Accepted::Connection(connection) = acceptor.next().await else {
            panic!("a stranger")
        };
        assert_eq!(connection.original.to_string(), "10.0.0.7:5432");

        let mut stranger = TcpStream::connect(address.0).await.expect("connect");
        assert!(matches!(acceptor.next().await, Accepted::Stranger { .. }));
        let error = stranger.read(&mut [0; 1]).await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
