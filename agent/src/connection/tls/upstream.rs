//! Verifying targets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{ClientCertificate, UpstreamSettings};

use super::super::ahead::Ahead;
use super::TlsError;

/// How one target's certificate is verified: chain and name, always.
#[derive(Debug, Clone)]
pub struct UpstreamVerifier {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    proof: Arc<Proof>,
}

/// What the agent proves itself with, and whether it was asked for something that it does not have.
#[derive(Debug, Default)]
struct Proof {
    key: Option<Arc<CertifiedKey>>,
    asked_in_vain: AtomicBool,
}

impl ResolvesClientCert for Proof {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let found = self.key.as_ref().filter(fits).map(Arc::clone);
        if found.is_none() {
            self.asked_in_vain.store(true, Ordering::Relaxed);
        }
        found
    }

    fn has_certs(&self) -> bool {
        // Also without one: rustls says only so that it was asked.
        true
    }
}

impl Proof {
    fn load(files: &ClientCertificate) -> Result<Self, TlsError> {
        let wrong = |path: &Path, expected, reason: String| TlsError::Content {
            path: path.to_owned(),
            expected,
            reason,
        };
        let chain = certificates(&files.cert_file)?;
        let expected = "a private key in PEM";
        let pem = crate::files::read(&files.key_file).map(zeroize::Zeroizing::new);
        let pem = pem.map_err(|error| wrong(&files.key_file, expected, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| wrong(&files.key_file, expected, error.to_string()))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let expected = "the private key of the client certificate";
            wrong(&files.key_file, expected, error.to_string())
        })?;
        Ok(Self {
            key: Some(Arc::new(key)),
            asked_in_vain: AtomicBool::default(),
        })
    }
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
        Self::configured(target, server_name, (ca_file, alpn), &UpstreamSettings::default())
    }

    /// The same with further settings of the target.
    ///
    /// # Errors
    /// As `new`; where the client certificate cannot be read, or its key is another's.
    pub fn configured(
        target: &str,
        server_name: &str,
        (ca_file, alpn): (Option<&Path>, &[&[u8]]),
        settings: &UpstreamSettings,
    ) -> Result<Self, TlsError> {
        let proof = Arc::new(match &settings.client_certificate {
            Some(files) => Proof::load(files)?,
            None => Proof::default(),
        });
        let versions: &[&rustls::SupportedProtocolVersion] = if settings.only_tls13 {
            &[&rustls::version::TLS13]
        } else {
            rustls::ALL_VERSIONS
        };
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
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::<Proof>::clone(&proof));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            name,
            proof,
        })
    }

    /// Whether the target asked for a client certificate that the agent does not have.
    #[must_use]
    pub fn lacks_client_certificate(&self) -> bool {
        self.proof.asked_in_vain.load(Ordering::Relaxed)
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
            proof: Arc::clone(&self.proof),
        }
    }

    /// Shakes hands as a client.
    ///
    /// # Errors
    /// Where the certificate is not accepted or the handshake breaks.
    pub async fn connect<S>(&self, stream: S) -> Result<TlsStream<Ahead<S>>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.name.clone(), Ahead::new(stream)).await;
        connecting.map_err(|source| TlsError::Handshake {
            name: self.name(),
            source,
        })
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            path: path.to_owned(),
            expected: "PEM certificates",
            reason: error.to_string(),
        })?;
    }
    Ok(())
}

/// The certificates of a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Content {
        path: path.to_owned(),
        expected: "PEM certificates",
        reason,
    };
    let pem = crate::files::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no BEGIN CERTIFICATE line".into()));
    }
    Ok(certificates)
}
