//! Clients that accept only certificates of the target's own: noticed by the alert that they end the handshake with, told
//! about in the record, and passed by where the target says so.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::AlertDescription;
use tokio::net::TcpStream;

/// Names that are remembered for one target.
const MAX_NAMES: usize = 256;
/// Longest ClientHello that is waited for, in bytes.
const LONGEST: usize = 16 * 1024;
/// A ClientHello comes in one or two packets: how often it is looked for, and how long between.
const LOOKS: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The alert with which a client refuses a certificate (RFC 8446, 6.2); `None`: something else went wrong.
pub(super) fn refusal(error: &io::Error) -> Option<AlertDescription> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = inner else {
        return None;
    };
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
    .then_some(*alert)
}

/// Names of a target whose clients refused the agent's certificates.
#[derive(Debug, Default)]
pub(super) struct PinnedNames(Mutex<BTreeSet<String>>);

impl PinnedNames {
    pub(super) fn add(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < MAX_NAMES {
            names.insert(name.to_owned());
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(name)
    }

    /// Whether a connection that begins asks for one of the names. Takes no byte from it.
    pub(super) async fn asked_for(&self, stream: &TcpStream) -> bool {
        if self.is_empty() {
            return false;
        }
        let name = server_name(stream).await;
        name.is_some_and(|name| self.has(&name))
    }
}

/// The name in a ClientHello, lower case.
async fn server_name(stream: &TcpStream) -> Option<String> {
    let mut bytes = vec![0; LONGEST];
    let mut seen = 0;
    for _ in 0..LOOKS {
        let length = stream.peek(&mut bytes).await.ok()?;
        if length > seen {
            seen = length;
            let mut acceptor = rustls::server::Acceptor::default();
            acceptor.read_tls(&mut bytes.get(..length)?).ok()?;
            if let Some(accepted) = acceptor.accept().ok()? {
                return accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}
