//! Logging in to the target with the real credential.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::tls::UpstreamVerifier;
use crate::connection::{DialError, Stream, dial};
use crate::credential::{Credential, CredentialError};
use crate::model::UpstreamAddr;
use crate::session::{AgentSpeech, Upstream};

use super::frame::{self, Frame, FrameError, MAX_FROM_TARGET};

/// Why the target could not be logged in to.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] crate::connection::tls::TlsError),
    #[error("the target does not offer TLS: set tls = \"disabled\" for it only if it is on loopback")]
    NoTls,
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error("the target asks for a password, and none is configured for it: add [target.credential]")]
    NoCredential,
    #[error("the target asks for {0}, which Interdict does not speak")]
    Method(String),
    #[error("the target's log-in exchange is wrong: {0}")]
    Exchange(String),
    #[error("{0}, which Interdict cannot read statements under")]
    Setting(String),
    #[error("the target broke off: {0}")]
    Io(#[from] std::io::Error),
    /// The target's own error response, for the process (masked).
    #[error("the target refused the log-in")]
    Refused(Frame),
}

impl From<FrameError> for LoginError {
    fn from(error: FrameError) -> Self {
        Self::Exchange(error.to_string())
    }
}

/// A session with the target, ready for its first query.
pub(super) struct LoggedIn {
    pub(super) stream: Stream,
    /// Bytes that came after `ReadyForQuery`.
    pub(super) rest: BytesMut,
    /// The parameter reports, as frames.
    pub(super) reports: Vec<Frame>,
    /// The target's own key for cancelling: process number and key.
    pub(super) cancel: (u32, Bytes),
}

/// Dials and logs in.
pub(super) async fn log_in(
    address: UpstreamAddr,
    tls: Option<&UpstreamVerifier>,
    credential: Option<&Credential>,
    parameters: &BTreeMap<String, String>,
) -> Result<LoggedIn, LoginError> {
    let mut stream = dial_tls(address, tls).await?;
    let mut buffer = BytesMut::new();
    let pairs = parameters.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    frontend::startup_message(pairs, &mut buffer)?;
    say(&mut stream, AgentSpeech::start_up(buffer.split().freeze())).await?;
    authenticate(
        &mut stream,
        &mut buffer,
        parameters.get("user").map_or("", String::as_str),
        credential,
    )
    .await?;
    let mut reports = Vec::new();
    let mut cancel = (0, Bytes::new());
    loop {
        let frame = next(&mut stream, &mut buffer).await?;
        match frame.kind() {
            b'S' => {
                check_report(&frame).map_err(LoginError::Setting)?;
                reports.push(frame);
            }
            b'K' => {
                let mut fields = frame.fields();
                cancel = (fields.u32()?, Bytes::copy_from_slice(fields.rest()));
            }
            b'N' => {}
            b'Z' => {
                return Ok(LoggedIn {
                    stream,
                    rest: buffer,
                    reports,
                    cancel,
                });
            }
            b'E' => return Err(LoginError::Refused(frame)),
            other => {
                return Err(LoginError::Exchange(format!(
                    "unexpected message {:?}",
                    char::from(other)
                )));
            }
        }
    }
}

/// Whether a reported setting lets the agent read texts as the server does.
///
/// # Errors
/// A sentence about a setting that does not.
pub(super) fn check_report(frame: &Frame) -> Result<(), String> {
    let mut fields = frame.fields();
    let (name, value) = (
        fields.text().unwrap_or_default(),
        fields.text().unwrap_or_default(),
    );
    let wrong = match name {
        "standard_conforming_strings" => value != "on",
        "client_encoding" => !value.eq_ignore_ascii_case("UTF8"),
        _ => false,
    };
    if wrong {
        return Err(format!("The session has {name} set to {value}"));
    }
    Ok(())
}

/// Dials, and asks for TLS where the target must have it.
pub(super) async fn dial_tls(
    address: UpstreamAddr,
    tls: Option<&UpstreamVerifier>,
) -> Result<Stream, LoginError> {
    let mut tcp = dial(address).await?;
    let Some(verifier) = tls else {
        return Ok(Stream::Plain(tcp));
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    // Exactly one byte, so that nothing sent before TLS is taken for the server's.
    match tcp.read_u8().await? {
        b'S' => Ok(Stream::target(verifier.connect(tcp).await?)),
        b'N' => Err(LoginError::NoTls),
        _ => Err(LoginError::Exchange(
            "it does not answer the request for TLS".into(),
        )),
    }
}

async fn authenticate(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    user: &str,
    credential: Option<&Credential>,
) -> Result<(), LoginError> {
    loop {
        let frame = next(stream, buffer).await?;
        if frame.kind() == b'E' {
            return Err(LoginError::Refused(frame));
        }
        if frame.kind() != b'R' {
            return Err(LoginError::Exchange(format!(
                "unexpected message {:?}",
                char::from(frame.kind())
            )));
        }
        let mut fields = frame.fields();
        let method = fields.i32()?;
        if method == 0 {
            return Ok(());
        }
        let password = credential.ok_or(LoginError::NoCredential)?.password()?;
        let mut out = BytesMut::new();
        match method {
            // The clear password goes over a verified TLS connection or loopback only (the configuration's rule).
            3 => frontend::password_message(password.expose(), &mut out)?,
            5 => {
                let salt = fields.take(4)?.try_into().unwrap_or([0; 4]);
                let hash = md5_hash(user.as_bytes(), password.expose(), salt);
                frontend::password_message(hash.as_bytes(), &mut out)?;
            }
            10 => {
                scram(stream, buffer, fields.rest(), password.expose()).await?;
                continue;
            }
            other => return Err(LoginError::Method(format!("authentication method {other}"))),
        }
        say(stream, AgentSpeech::log_in(out.freeze())).await?;
    }
}

/// RFC 5802 and RFC 7677; bound to the TLS connection where the target offers that.
async fn scram(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    mechanisms: &[u8],
    password: &[u8],
) -> Result<(), LoginError> {
    let offers = |wanted: &str| {
        mechanisms
            .split(|b| *b == 0)
            .any(|name| name == wanted.as_bytes())
    };
    let (mechanism, binding) = match stream.target_end_point() {
        Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
        }
        _ if !offers(SCRAM_SHA_256) => {
            let offered = String::from_utf8_lossy(mechanisms).replace('\0', " ");
            return Err(LoginError::Method(offered));
        }
        // Says that binding would have been possible: a server that offered it knows then that somebody took the offer away.
        Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    let mut scram = ScramSha256::new(password, binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut out)?;
    say(stream, AgentSpeech::log_in(out.split().freeze())).await?;
    let body = sasl(stream, buffer, 11).await?;
    scram.update(&body)?;
    frontend::sasl_response(scram.message(), &mut out)?;
    say(stream, AgentSpeech::log_in(out.split().freeze())).await?;
    let body = sasl(stream, buffer, 12).await?;
    scram.finish(&body)?;
    Ok(())
}

async fn sasl(stream: &mut Stream, buffer: &mut BytesMut, step: i32) -> Result<Vec<u8>, LoginError> {
    let frame = next(stream, buffer).await?;
    if frame.kind() == b'E' {
        return Err(LoginError::Refused(frame));
    }
    let mut fields = frame.fields();
    if frame.kind() != b'R' || fields.i32()? != step {
        return Err(LoginError::Exchange("it left the SCRAM exchange".into()));
    }
    Ok(fields.rest().to_vec())
}

/// Says something to the target outside a session.
pub(super) async fn say(stream: &mut Stream, speech: AgentSpeech) -> Result<(), LoginError> {
    let mut upstream = Upstream::new(stream);
    upstream.say(speech);
    Ok(upstream.flush().await?)
}

/// The next frame from the target.
pub(super) async fn next(stream: &mut Stream, buffer: &mut BytesMut) -> Result<Frame, LoginError> {
    loop {
        if let Some(frame) = frame::take(buffer, MAX_FROM_TARGET)? {
            return Ok(frame);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}
