//! Dialling a target.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::model::UpstreamAddr;

/// How long a target has to accept.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

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
        source: std::io::Error,
    },
}

/// Connects to `address` with Nagle's algorithm off.
///
/// # Errors
/// Where it does not accept in time or at all.
pub async fn dial(address: UpstreamAddr) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Failed { address, source };
    let connecting = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address.0)).await;
    let stream = connecting
        .map_err(|_elapsed| DialError::TimedOut { address })?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
