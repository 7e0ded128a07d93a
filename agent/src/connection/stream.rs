//! A byte stream with or without TLS, on either leg.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ahead::Ahead;

/// Content of a full record (RFC 8446, 5.1), in bytes: behind one there may be another already.
const RECORD: usize = 16 * 1024;

/// A byte stream with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// Towards the process: the agent is the server.
    Process(Box<Records<server::TlsStream<TcpStream>>>),
    /// Towards the target: the agent is the client.
    Target(Box<Records<client::TlsStream<Ahead<TcpStream>>>>),
}

/// TLS, read as many records at once as are there: it gives one at a time.
#[derive(Debug)]
pub struct Records<S> {
    tls: S,
    /// What stopped a read behind its first record: the next one ends with it.
    failed: Option<io::Error>,
}

impl<S> Records<S> {
    fn new(tls: S) -> Box<Self> {
        Box::new(Self { tls, failed: None })
    }
}

impl Stream {
    /// Over TLS with a process.
    #[must_use]
    pub fn process(tls: server::TlsStream<TcpStream>) -> Self {
        Self::Process(Records::new(tls))
    }

    /// Over TLS with a target.
    #[must_use]
    pub fn target(tls: client::TlsStream<Ahead<TcpStream>>) -> Self {
        Self::Target(Records::new(tls))
    }

    /// The hash of the target's certificate that a log-in is bound to (RFC 5929, `tls-server-end-point`); `None` where the
    /// stream has none, or its certificate is signed in a way that has no such hash.
    #[must_use]
    pub fn target_end_point(&self) -> Option<Vec<u8>> {
        let Self::Target(stream) = self else { return None };
        let (_, session) = stream.tls.get_ref();
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
            Self::Process(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Self::Target(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tls, failed } = self.get_mut();
        if let Some(failed) = failed.take() {
            return Poll::Ready(Err(failed));
        }
        let mut before = buf.filled().len();
        ready!(Pin::new(&mut *tls).poll_read(cx, buf))?;
        while buf.filled().len() - before >= RECORD && buf.remaining() > 0 {
            before = buf.filled().len();
            match Pin::new(&mut *tls).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => *failed = Some(error),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Process(stream) => Pin::new(&mut stream.tls).poll_write(cx, buf),
            Self::Target(stream) => Pin::new(&mut stream.tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Process(stream) => Pin::new(&mut stream.tls).poll_write_vectored(cx, bufs),
            Self::Target(stream) => Pin::new(&mut stream.tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Process(stream) => stream.tls.is_write_vectored(),
            Self::Target(stream) => stream.tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Process(stream) => Pin::new(&mut stream.tls).poll_flush(cx),
            Self::Target(stream) => Pin::new(&mut stream.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Process(stream) => Pin::new(&mut stream.tls).poll_shutdown(cx),
            Self::Target(stream) => Pin::new(&mut stream.tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// One answer for each read; then nothing comes any more.
    struct Script(VecDeque<io::Result<usize>>);

    impl AsyncRead for Script {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.get_mut().0.pop_front() {
                Some(Ok(length)) => Poll::Ready({
                    buf.put_slice(&vec![b'x'; length.min(buf.remaining())]);
                    Ok(())
                }),
                Some(Err(error)) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            }
        }
    }

    async fn first(script: impl IntoIterator<Item = io::Result<usize>>) -> (usize, Box<Records<Script>>) {
        let mut records = Records::new(Script(script.into_iter().collect()));
        let n = records.read(&mut vec![0; 64 * 1024]).await.expect("a record");
        (n, records)
    }

    #[tokio::test]
    async fn full_records_are_read_as_long_as_they_come() {
        assert_eq!(
            first([Ok(RECORD), Ok(RECORD), Ok(7), Ok(RECORD)]).await.0,
            2 * RECORD + 7
        );
        assert_eq!(first([Ok(100), Ok(RECORD)]).await.0, 100);
        assert_eq!(first([Ok(RECORD)]).await.0, RECORD);
        assert_eq!(first([Ok(RECORD), Ok(0)]).await.0, RECORD);
    }

    #[tokio::test]
    async fn what_stops_it_is_seen_behind_what_came_before() {
        let (n, mut records) = first([Ok(RECORD), Err(io::ErrorKind::InvalidData.into())]).await;
        assert_eq!(n, RECORD);
        let error = records.read(&mut [0; 10]).await.expect_err("it failed");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
