//! The connection to the target: dialled when it is needed, verified, and of a kind that sends permitted requests only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::connection::tls::{TlsError, UpstreamVerifier};
use crate::connection::{DialError, Stream, dial};
use crate::model::UpstreamAddr;
use crate::session::Permitted;
use crate::task::{Task, Tasks, spawn};

/// How long TLS and the beginning of HTTP may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Most that is read ahead of an answer, in bytes.
const BUFFER: usize = 256 * 1024;

/// Why the target did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("it did not finish its greeting within 10 s")]
    TimedOut,
    #[error("it did not answer within the time that a policy allows")]
    OutOfTime,
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
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

/// Starts what HTTP/2 does beside a connection; all of it ends with the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside(Arc<Mutex<Tasks<()>>>);

impl<F> hyper::rt::Executor<F> for Beside
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.forget_ended();
        tasks.spawn("http stream", future);
    }
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Permitted>),
    Two(http2::SendRequest<Permitted>),
}

#[derive(Debug)]
struct Dialled {
    sender: Sender,
    _driver: Task<()>,
}

/// The way to the target for one connection of the process.
#[derive(Debug)]
pub(super) struct TargetSide {
    address: UpstreamAddr,
    /// `None`: no TLS.
    verifier: Option<UpstreamVerifier>,
    /// Largest head of an answer, in bytes.
    max_head: usize,
    current: tokio::sync::Mutex<Option<Dialled>>,
}

impl TargetSide {
    /// `verifier` offers what the process offered.
    pub(super) fn new(address: UpstreamAddr, verifier: Option<UpstreamVerifier>, max_head: usize) -> Self {
        Self {
            address,
            verifier,
            max_head,
            current: tokio::sync::Mutex::default(),
        }
    }

    /// Whether the target asked for a client certificate that is not configured.
    pub(super) fn lacks_client_certificate(&self) -> bool {
        let verifier = self.verifier.as_ref();
        verifier.is_some_and(UpstreamVerifier::lacks_client_certificate)
    }

    /// Dials now; the protocol that the target chose.
    pub(super) async fn greet(&self) -> Result<Option<Vec<u8>>, TargetError> {
        let mut current = self.current.lock().await;
        let (dialled, chosen) = self.dial().await?;
        *current = Some(dialled);
        Ok(chosen)
    }

    /// Makes sure that there is a connection.
    pub(super) async fn ready(&self) -> Result<(), TargetError> {
        let mut current = self.current.lock().await;
        self.renew(&mut current).await
    }

    async fn renew(&self, current: &mut Option<Dialled>) -> Result<(), TargetError> {
        let open = match current.as_mut().map(|dialled| &mut dialled.sender) {
            Some(Sender::One(sender)) => sender.ready().await.is_ok(),
            Some(Sender::Two(sender)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            *current = None;
            *current = Some(self.dial().await?.0);
        }
        Ok(())
    }

    /// Sends a permitted request. One that was not sent because the target had closed the connection meanwhile is sent
    /// once more over another.
    pub(super) async fn send(&self, request: Request<Permitted>) -> Result<Response<Incoming>, TargetError> {
        let mut request = request;
        for last in [false, true] {
            let mut current = self.current.lock().await;
            self.renew(&mut current).await?;
            let sent = match current.as_mut().map(|dialled| &mut dialled.sender) {
                Some(Sender::One(sender)) => sender.try_send_request(request).await,
                Some(Sender::Two(sender)) => {
                    // Other requests need not wait for this answer.
                    let mut sender = sender.clone();
                    drop(current);
                    sender.try_send_request(for_h2(request)).await
                }
                None => return Err(TargetError::TimedOut),
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !last => request = for_h1(unsent),
                    _ => return Err(error.into_error().into()),
                },
            }
        }
        Err(TargetError::TimedOut)
    }

    async fn dial(&self) -> Result<(Dialled, Option<Vec<u8>>), TargetError> {
        let tcp = dial(self.address).await?;
        let greeting = tokio::time::timeout(TIME_LIMIT, self.open(tcp)).await;
        greeting.map_err(|_elapsed| TargetError::TimedOut)?
    }

    async fn open(&self, tcp: tokio::net::TcpStream) -> Result<(Dialled, Option<Vec<u8>>), TargetError> {
        let (stream, chosen) = match &self.verifier {
            None => (Stream::Plain(tcp), None),
            Some(verifier) => {
                let stream = verifier.connect(tcp).await?;
                let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                (Stream::target(stream), chosen)
            }
        };
        let dialled = if chosen.as_deref() == Some(b"h2") {
            second(stream, self.max_head).await?
        } else {
            first(stream, self.max_head).await?
        };
        Ok((dialled, chosen))
    }
}

async fn first(stream: Stream, max_head: usize) -> Result<Dialled, TargetError> {
    let (sender, connection) = http1::Builder::new()
        .max_header_size(max_head)
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    let driver = spawn("http target", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = chain(&error), "the connection to a target ended");
        }
    });
    Ok(Dialled {
        sender: Sender::One(sender),
        _driver: driver,
    })
}

async fn second(stream: Stream, max_head: usize) -> Result<Dialled, TargetError> {
    let beside = Beside::default();
    let (sender, connection) = http2::Builder::new(beside.clone())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(stream))
        .await?;
    let driver = spawn("http target", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = chain(&error), "the connection to a target ended");
        }
        drop(beside);
    });
    Ok(Dialled {
        sender: Sender::Two(sender),
        _driver: driver,
    })
}

/// HTTP/2 names the host in the request's own line (RFC 9113, 8.3.1).
fn for_h2(mut request: Request<Permitted>) -> Request<Permitted> {
    let host = request.headers_mut().remove(header::HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    // Trailers are carried, which servers of gRPC ask for.
    let trailers = header::HeaderValue::from_static("trailers");
    request.headers_mut().insert(header::TE, trailers);
    *request.version_mut() = Version::HTTP_2;
    request
}

/// HTTP/1.1 names it in a field.
fn for_h1(mut request: Request<Permitted>) -> Request<Permitted> {
    request.headers_mut().remove(header::TE);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = None;
    if let Some(authority) = parts.authority.take()
        && let Ok(host) = header::HeaderValue::try_from(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_11;
    request
}
