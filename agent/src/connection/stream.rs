//! A byte stream with or without TLS, on either leg.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A byte stream with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// Towards the process: the agent is the server.
    Process(Box<server::TlsStream<TcpStream>>),
    /// Towards the target: the agent is the client.
    Target(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    /// The hash of the target's certificate that a log-in is bound to (RFC 5929, `tls-server-end-point`); `None` where the
    /// stream has none, or its certificate is signed in a way that has no such hash.
    #[must_use]
    pub fn target_end_point(&self) -> Option<Vec<u8>> {
        let Self::Target(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        end_point(session.peer_certificates()?.first()?)
    }
}

/// RFC 5929, 4.1: the hash of the signature, but SHA-256 in place of MD5 and SHA-1.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm.oid().to_id_string();
    let hash = match algorithm.as_str() {
        // md5WithRSA, sha1WithRSA, sha256WithRSA, ecdsa-with-SHA1, ecdsa-with-SHA256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        // sha384WithRSA, ecdsa-with-SHA384
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        // sha512WithRSA, ecdsa-with-SHA512
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Process(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Target(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Process(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Target(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Process(stream) => Pin::new(stream).poll_flush(cx),
            Self::Target(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Process(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Target(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
