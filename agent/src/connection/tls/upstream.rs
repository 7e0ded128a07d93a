//! Verifying targets.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::TlsError;

/// How one target's certificate is verified: chain and name, always.
#[derive(Debug, Clone)]
pub struct UpstreamVerifier {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl UpstreamVerifier {
    /// Verifies against the system's roots and the certificates of `ca_file`, for `server_name` (a DNS name or an
    /// address). `alpn` is offered in this order.
    ///
    /// # Errors
    /// Where the file holds no certificate, no root is there at all, or the name cannot be proved by a certificate.
    pub fn new(
        target: &str,
        server_name: &str,
        ca_file: Option<&Path>,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_invalid| TlsError::Name {
            name: server_name.to_owned(),
        })?;
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (_added, unusable) = roots.add_parsable_certificates(native.certs);
        if unusable > 0 {
            tracing::debug!(unusable, "some system root certificates cannot be used");
        }
        if let Some(path) = ca_file {
            add_file(&mut roots, path)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots {
                target: target.to_owned(),
            });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// The name that is verified.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// The same, offering other protocols (RFC 7301). Sessions are resumed across both.
    #[must_use]
    pub fn offering(&self, alpn: &[&[u8]]) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Self {
            config: Arc::new(config),
            name: self.name.clone(),
        }
    }

    /// Shakes hands as a client.
    ///
    /// # Errors
    /// Where the certificate is not accepted or the handshake breaks.
    pub async fn connect<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.name.clone(), stream).await;
        connecting.map_err(|source| TlsError::Handshake {
            name: self.name(),
            source,
        })
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let wrong = |reason: String| TlsError::Content {
        path: path.to_owned(),
        expected: "PEM certificates",
        reason,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no BEGIN CERTIFICATE line".into()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}
