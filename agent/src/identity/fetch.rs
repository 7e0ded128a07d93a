//! Fetching key sets: `https`, or `http` on loopback (the configuration's rule); no redirects; bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Gets a document.
///
/// # Errors
/// A sentence without its full stop: what failed.
pub(super) async fn get(url: &str, ca_file: Option<&Path>) -> Result<Bytes, String> {
    let fetching = tokio::time::timeout(TIME_LIMIT, fetch(url, ca_file)).await;
    fetching.map_err(|_elapsed| format!("{url} did not answer within 5 s"))?
}

async fn fetch(url: &str, ca_file: Option<&Path>) -> Result<Bytes, String> {
    let uri: hyper::Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(client_tls(ca_file)?)
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let answer = client
        .get(uri)
        .await
        .map_err(|error| format!("{url} cannot be fetched: {}", chain(&error)))?;
    if answer.status() != hyper::StatusCode::OK {
        return Err(format!("{url} answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    Ok(body
        .map_err(|error| format!("{url} broke off or is larger than 1 MiB: {error}"))?
        .to_bytes())
}

/// How a server is verified: by the system's roots and those of `ca_file`.
///
/// # Errors
/// Where the file holds no certificates.
pub fn client_tls(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |what: String| format!("{} holds no usable certificates: {what}", path.display());
        let pem = crate::files::read(path).map_err(|e| wrong(e.to_string()))?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(e.to_string()))?;
        for certificate in certificates {
            roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
