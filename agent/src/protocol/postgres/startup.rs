//! The process's opening: TLS, cancel, start-up parameters. Nothing is read ahead, so no byte sent before TLS can be
//! taken for one sent inside it (CVE-2021-23222).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::connection::Stream;
use crate::connection::tls::{Authority, SubjectName};
use crate::model::Digest;

use super::frame::Fields;

/// As the server's own `authentication_timeout`.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// As the server's own `MAX_STARTUP_PACKET_LENGTH`.
const MAX_STARTUP: u32 = 10_000;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// First byte of a TLS handshake record: direct TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection turned out to be.
pub(super) enum Opening {
    /// A session; with the hash of the agent's certificate where it is inside TLS.
    Session(Stream, Startup, Option<Digest>),
    /// A request to cancel.
    Cancel {
        /// The agent's own process number for the session.
        pid: u32,
        /// The agent's own key for it.
        key: Vec<u8>,
    },
}

/// The start-up message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Startup {
    /// Minor protocol version that the process asked for.
    pub(super) minor: u16,
    /// Parameters by lower-case name; `user` is always there.
    pub(super) parameters: BTreeMap<String, String>,
    /// Protocol options (`_pq_.…`) that the process asked for.
    pub(super) options: Vec<String>,
}

impl Startup {
    pub(super) fn user(&self) -> &str {
        self.parameters.get("user").map_or("", String::as_str)
    }

    pub(super) fn database(&self) -> &str {
        self.parameters
            .get("database")
            .filter(|d| !d.is_empty())
            .map_or_else(|| self.user(), String::as_str)
    }
}

/// Why an opening failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    #[error("the process did not open a session within 60 s")]
    TimedOut,
    #[error("the process closed the connection")]
    Closed(#[from] std::io::Error),
    #[error("the opening is not PostgreSQL's: {0}")]
    NotPostgres(&'static str),
    #[error("TLS with the process failed: {0}")]
    Tls(String),
}

/// Reads the opening of a connection.
pub(super) async fn open(
    stream: TcpStream,
    authority: &Authority,
    names: &[SubjectName],
) -> Result<Opening, OpeningError> {
    let opening = tokio::time::timeout(TIME_LIMIT, negotiate(stream, authority, names));
    opening.await.map_err(|_elapsed| OpeningError::TimedOut)?
}

async fn negotiate(
    stream: TcpStream,
    authority: &Authority,
    names: &[SubjectName],
) -> Result<Opening, OpeningError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(OpeningError::NotPostgres("it ended at once"));
    }
    let (mut stream, mut end_point) = if first == [TLS_HANDSHAKE] {
        accept_tls(stream, authority, names, &[b"postgresql"]).await?
    } else {
        (Stream::Plain(stream), None)
    };
    // At most one of each request may come before the start-up message.
    for _ in 0..3 {
        let (code, body) = packet(&mut stream).await?;
        match (code, stream) {
            (SSL_REQUEST, Stream::Plain(mut plain)) => {
                plain.write_all(b"S").await?;
                (stream, end_point) = accept_tls(plain, authority, names, &[]).await?;
            }
            (SSL_REQUEST, _) => return Err(OpeningError::NotPostgres("TLS inside TLS")),
            (GSS_REQUEST, mut open) => {
                open.write_all(b"N").await?;
                open.flush().await?;
                stream = open;
            }
            (CANCEL_REQUEST, _) => {
                let mut fields = Fields::over(&body, 'c');
                let pid = fields
                    .u32()
                    .map_err(|_short| OpeningError::NotPostgres("a short cancel request"))?;
                return Ok(Opening::Cancel {
                    pid,
                    key: fields.rest().to_vec(),
                });
            }
            (version, open) if version >> 16 == 3 => {
                let startup = parse(u16::try_from(version & 0xffff).unwrap_or(u16::MAX), &body)?;
                return Ok(Opening::Session(open, startup, end_point));
            }
            _ => return Err(OpeningError::NotPostgres("an unknown protocol version")),
        }
    }
    Err(OpeningError::NotPostgres(
        "too many requests before the start-up message",
    ))
}

async fn accept_tls(
    stream: TcpStream,
    authority: &Authority,
    names: &[SubjectName],
    alpn: &[&[u8]],
) -> Result<(Stream, Option<Digest>), OpeningError> {
    let failed = |error: &dyn std::fmt::Display| OpeningError::Tls(error.to_string());
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = start.await.map_err(|error| failed(&error))?;
    let (config, end_point) = authority
        .bound_config(start.client_hello().server_name(), names, alpn)
        .map_err(|error| failed(&error))?;
    let stream = start.into_stream(config).await.map_err(|error| failed(&error))?;
    Ok((Stream::process(stream), Some(end_point)))
}

/// One packet without a type byte: its code, and what follows.
async fn packet(stream: &mut Stream) -> Result<(u32, Vec<u8>), OpeningError> {
    let length = stream.read_u32().await?;
    if !(8..=MAX_STARTUP).contains(&length) {
        return Err(OpeningError::NotPostgres("an impossible length"));
    }
    let code = stream.read_u32().await?;
    let mut body = vec![0; usize::try_from(length - 8).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((code, body))
}

fn parse(minor: u16, body: &[u8]) -> Result<Startup, OpeningError> {
    let wrong = |_damaged| OpeningError::NotPostgres("a damaged start-up message");
    let mut fields = Fields::over(body, 's');
    let mut startup = Startup {
        minor,
        parameters: BTreeMap::new(),
        options: Vec::new(),
    };
    loop {
        let name = fields.text().map_err(wrong)?;
        if name.is_empty() {
            break;
        }
        let value = fields.text().map_err(wrong)?;
        if name.starts_with("_pq_.") {
            startup.options.push(name.to_owned());
        } else {
            startup
                .parameters
                .insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }
    fields.end().map_err(wrong)?;
    if startup.user().is_empty() {
        return Err(OpeningError::NotPostgres("no user in the start-up message"));
    }
    Ok(startup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_messages() {
        let read = |body: &[u8]| parse(0, body);
        let startup = read(b"user\0me\0Application_Name\0x\0_pq_.foo\0bar\0\0").expect("valid");
        assert_eq!((startup.user(), startup.database()), ("me", "me"));
        assert_eq!(
            startup.parameters.get("application_name").map(String::as_str),
            Some("x")
        );
        assert_eq!(startup.options, ["_pq_.foo"]);
        for damaged in [
            &b""[..],
            b"\0",
            b"user\0me\0",
            b"user\0me\0\0x",
            b"user\0\xff\0\0",
            b"database\0x\0\0",
        ] {
            assert!(read(damaged).is_err(), "{damaged:?}");
        }
    }

    /// What comes of these bytes, sent in two pieces; a bad end is told by its words.
    async fn opened(pieces: [&[u8]; 2]) -> Result<Startup, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut process = TcpStream::connect(listener.local_addr().expect("address"))
            .await
            .expect("connected");
        process.set_nodelay(true).expect("no delay");
        let (accepted, _) = listener.accept().await.expect("accepted");
        let dir = tempfile::tempdir().expect("directory");
        let authority = Authority::load_or_create(dir.path(), "test").expect("authority");
        let sending = async {
            for piece in pieces {
                process.write_all(piece).await.expect("sent");
                // The other side gets to see the first piece alone.
                tokio::task::yield_now().await;
            }
            process.shutdown().await.expect("ended");
        };
        let (opening, ()) = tokio::join!(open(accepted, &authority, &[]), sending);
        match opening {
            Ok(Opening::Session(_, startup, _)) => Ok(startup),
            Ok(Opening::Cancel { pid, key }) => Err(format!("cancel {pid} {key:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn packet_of(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 8).expect("short");
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    #[tokio::test]
    async fn an_opening_survives_every_split() {
        let start_up = packet_of(3 << 16, b"user\0me\0database\0shop\0\0");
        let asked = [packet_of(GSS_REQUEST, b""), start_up].concat();
        for cut in 0..=asked.len() {
            let (first, second) = asked.split_at(cut);
            let startup = opened([first, second]).await;
            assert_eq!(startup.as_ref().map(Startup::database), Ok("shop"), "{cut}");
        }
        for cut in 0..asked.len() {
            assert!(opened([&asked[..cut], b""]).await.is_err(), "{cut}");
        }
    }

    #[tokio::test]
    async fn what_is_no_opening_is_refused() {
        let cancel = packet_of(CANCEL_REQUEST, &[0, 0, 0, 9, 1, 2, 3, 4]);
        assert_eq!(opened([&cancel, b""]).await, Err("cancel 9 [1, 2, 3, 4]".into()));
        for wrong in [
            packet_of(2 << 16, b"user\0me\0\0"),
            packet_of(CANCEL_REQUEST, &[0]),
            packet_of(GSS_REQUEST, b"").repeat(4),
            vec![0, 0, 0, 7, 0, 3, 0, 0],
            vec![0xff; 64],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let seen = opened([&wrong, b""]).await.expect_err("refused");
            assert!(seen.contains("not PostgreSQL's"), "{seen}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_start_up_messages_do_no_harm(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
            if let Ok(startup) = parse(0, &body) {
                proptest::prop_assert!(!startup.user().is_empty());
            }
        }
    }
}
