//! Dialling a target, from the agent's network namespace or from that of the process.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::model::{NetnsCookie, UpstreamAddr};

/// How long a target has to accept.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

type Dialler = Box<dyn Fn(NetnsCookie, SocketAddr) -> io::Result<std::net::TcpStream> + Send + Sync>;

/// Of this process, once and for all: who connects from other network namespaces.
static DIALLER: OnceLock<Dialler> = OnceLock::new();

/// Why a target could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It did not answer.
    #[error("{address} did not accept a connection within 10 s")]
    TimedOut {
        /// Where.
        address: UpstreamAddr,
    },
    /// It refused, or no route leads there.
    #[error("{address} cannot be connected to: {source}")]
    Failed {
        /// Where.
        address: UpstreamAddr,
        /// Why.
        source: io::Error,
    },
}

/// From now on `dialler` is asked for connections from the namespaces of processes; it returns them not blocking, and
/// connecting. A second call has no effect.
pub fn dial_through(
    dialler: impl Fn(NetnsCookie, SocketAddr) -> io::Result<std::net::TcpStream> + Send + Sync + 'static,
) {
    let _first_counts = DIALLER.set(Box::new(dialler));
}

/// Connects to `address` with Nagle's algorithm off.
///
/// # Errors
/// Where it does not accept in time or at all, or the namespace to dial from is gone.
pub async fn dial(address: UpstreamAddr) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Failed { address, source };
    let UpstreamAddr { address: to, from } = address;
    let connecting = async {
        match from {
            None => TcpStream::connect(to).await,
            Some(cookie) => connected(cookie, to).await,
        }
    };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, connecting)
        .await
        .map_err(|_elapsed| DialError::TimedOut { address })?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// A socket stays in the namespace that it was made in.
async fn connected(from: NetnsCookie, to: SocketAddr) -> io::Result<TcpStream> {
    let gone = || io::Error::other("nobody connects from other network namespaces");
    let stream = TcpStream::from_std(DIALLER.get().ok_or_else(gone)?(from, to)?)?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}
