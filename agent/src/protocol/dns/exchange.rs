//! Asking a server: over UDP from a port of its own for each question, and over TCP where the answer does not fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Query;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::session::Datagram;

use super::answer::Answered;

/// How long a server has, in all.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// After this long a datagram is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest answer of a datagram that is read; the agent asks for shorter ones.
const MAX_DATAGRAM: usize = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// It says nothing.
    #[error("{0} did not answer in time")]
    TimedOut(SocketAddr),
    /// It cannot be asked.
    #[error("{0} cannot be asked: {1}")]
    Failed(SocketAddr, std::io::Error),
    /// What it says is no answer.
    #[error("{0} answered what cannot be used: {1}")]
    Unusable(SocketAddr, &'static str),
}

/// Sends the question to `server`, and again while it does not answer; its answer, within `patience`.
pub(super) async fn ask(
    message: &Datagram,
    server: SocketAddr,
    (id, query): (u16, &Query),
    tcp: bool,
    patience: Duration,
) -> Result<Answered, ExchangeError> {
    let asking = async {
        if !tcp {
            let answered = datagram(message, server, (id, query)).await?;
            if !answered.truncated {
                return Ok(answered);
            }
        }
        stream(message, server, (id, query)).await
    };
    timeout(patience, asking)
        .await
        .map_err(|_elapsed| ExchangeError::TimedOut(server))?
}

async fn datagram(
    message: &Datagram,
    server: SocketAddr,
    (id, query): (u16, &Query),
) -> Result<Answered, ExchangeError> {
    let failed = |error| ExchangeError::Failed(server, error);
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    // Connected: datagrams of others are not received.
    socket.connect(server).await.map_err(failed)?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        message.send(&socket).await.map_err(failed)?;
        let again = Instant::now() + AGAIN;
        while let Ok(received) = timeout_at(again, socket.recv(&mut buffer)).await {
            let length = received.map_err(failed)?;
            match Answered::read(buffer.get(..length).unwrap_or_default(), id, query) {
                Ok(answered) => return Ok(answered),
                // Somebody else's, or an earlier one: the right one may still come.
                Err(why) => tracing::debug!(%server, why, "a datagram that is no answer"),
            }
        }
    }
}

async fn stream(
    message: &Datagram,
    server: SocketAddr,
    (id, query): (u16, &Query),
) -> Result<Answered, ExchangeError> {
    let failed = |error| ExchangeError::Failed(server, error);
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    message.send_on(&mut stream).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await.map_err(failed)?;
    Answered::read(&buffer, id, query).map_err(|why| ExchangeError::Unusable(server, why))
}
