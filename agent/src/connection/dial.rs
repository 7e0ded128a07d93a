//! Dialling a target, from the agent's network namespace or from that of the process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use socket2::Domain;
use tokio::net::{TcpSocket, TcpStream};

use crate::guard::Namespace;
use crate::model::{NetnsCookie, UpstreamAddr};

/// How long a target has to accept.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Namespaces that are dialled from. One table for the process, as cookies are unique on the host.
static WAYS: RwLock<BTreeMap<NetnsCookie, Weak<Namespace>>> = RwLock::new(BTreeMap::new());

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

/// Lets [`dial`] connect from `namespace` for as long as somebody keeps it.
pub fn dial_from(namespace: &Arc<Namespace>) {
    let mut ways = WAYS.write().unwrap_or_else(PoisonError::into_inner);
    ways.retain(|_, way| way.strong_count() > 0);
    ways.insert(namespace.cookie(), Arc::downgrade(namespace));
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
            Some(cookie) => socket_in(cookie, to)?.connect(to).await,
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
fn socket_in(cookie: NetnsCookie, to: SocketAddr) -> io::Result<TcpSocket> {
    let namespace = {
        let ways = WAYS.read().unwrap_or_else(PoisonError::into_inner);
        ways.get(&cookie).and_then(Weak::upgrade)
    };
    let gone = || io::Error::other("the network namespace of the process is gone");
    let socket = namespace.ok_or_else(gone)?.socket(Domain::for_address(to))?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}
