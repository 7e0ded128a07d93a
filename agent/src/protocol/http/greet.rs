//! The beginning of a connection: plain, or TLS whose ClientHello is read before anything is answered.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::connection::Stream;
use crate::connection::tls::{Authority, SubjectName};

/// How long a process may take to begin, and for each step of TLS.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Protocols that the agent speaks (RFC 7301), the older one first.
pub(super) const SPOKEN: [&[u8]; 2] = [b"http/1.1", b"h2"];

/// How a process begins.
pub(super) enum Greeting {
    Plain(TcpStream),
    Tls(Box<Hello>),
}

/// A ClientHello that waits for its answer.
pub(super) struct Hello {
    start: StartHandshake<TcpStream>,
    /// The name that the process asks for, lower case.
    pub(super) server_name: Option<String>,
    /// What the process offers of what the agent speaks, in the process's order; empty where it offers nothing.
    pub(super) offered: Vec<&'static [u8]>,
}

/// Why a connection did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error("the process did not begin within 30 s")]
    TimedOut,
    #[error("the process closed the connection")]
    Closed,
    #[error("TLS with the process failed ({0}): it may not trust the agent's certificate authority")]
    Tls(String),
    #[error(
        "the process does not accept the agent's certificate (alert {0}): it looks for the target's own, or takes its roots \
         from elsewhere. Give it the roots of `interdict ca export`, or write pinned = \"pass\" for the target to let it \
         through uninspected"
    )]
    Untrusted(String),
    #[error("the process offers none of http/1.1 and h2")]
    NoProtocol,
}

/// Reads how the process begins; answers nothing.
pub(super) async fn greet(stream: TcpStream) -> Result<Greeting, GreetError> {
    let greeting = tokio::time::timeout(TIME_LIMIT, read(stream)).await;
    greeting.map_err(|_elapsed| GreetError::TimedOut)?
}

async fn read(stream: TcpStream) -> Result<Greeting, GreetError> {
    let closed = |_gone: io::Error| GreetError::Closed;
    let mut first = [0];
    if stream.peek(&mut first).await.map_err(closed)? == 0 {
        return Err(GreetError::Closed);
    }
    if first != [TLS_HANDSHAKE] {
        return Ok(Greeting::Plain(stream));
    }
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream)
        .await
        .map_err(|error| GreetError::Tls(error.to_string()))?;
    let hello = start.client_hello();
    let server_name = hello.server_name().map(str::to_ascii_lowercase);
    let offered = match hello.alpn() {
        None => Vec::new(),
        Some(names) => {
            let known: Vec<&'static [u8]> = names
                .filter_map(|name| SPOKEN.into_iter().find(|spoken| *spoken == name))
                .collect();
            if known.is_empty() {
                return Err(GreetError::NoProtocol);
            }
            known
        }
    };
    Ok(Greeting::Tls(Box::new(Hello {
        start,
        server_name,
        offered,
    })))
}

impl Hello {
    /// Finishes the handshake with a leaf of the agent's own, speaking `protocol` where one was offered.
    pub(super) async fn finish(
        self,
        authority: &Authority,
        names: &[SubjectName],
        protocol: Option<&'static [u8]>,
    ) -> Result<Stream, GreetError> {
        let failed = |error: &dyn std::fmt::Display| GreetError::Tls(error.to_string());
        let Self {
            start,
            server_name,
            offered: _,
        } = self;
        let alpn: Vec<&[u8]> = protocol.into_iter().collect();
        let config = authority
            .acceptor_config(server_name.as_deref(), names, &alpn)
            .map_err(|error| failed(&error))?;
        let stream = tokio::time::timeout(TIME_LIMIT, start.into_stream(config)).await;
        let stream = stream.map_err(|_elapsed| GreetError::TimedOut)?;
        let stream = stream.map_err(|error| match super::pinned::refusal(&error) {
            Some(alert) => GreetError::Untrusted(format!("{alert:?}")),
            None => failed(&error),
        })?;
        Ok(Stream::process(stream))
    }
}
