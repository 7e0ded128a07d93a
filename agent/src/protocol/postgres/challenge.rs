//! The process proves the placeholder: the messages around `scram`.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;

use crate::connection::Stream;
use crate::session::{AgentSpeech, Downstream};

use super::frame::{Fields, put_text, write};
use super::scram::{Exchange, PLAIN, PLUS, ScramError};

/// As the server's own `authentication_timeout`.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// As the server's own `PG_MAX_SASL_MESSAGE_LENGTH`.
const MAX_MESSAGE: u32 = 1024;

/// Why the process was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChallengeError {
    #[error(transparent)]
    Scram(#[from] ScramError),
    #[error("the client sent no SASL message")]
    Unexpected,
    #[error("the client did not log in within 60 s")]
    TimedOut,
    #[error("the client broke off: {0}")]
    Io(#[from] std::io::Error),
}

/// Asks the process for the placeholder. `end_point`: the hash of the agent's certificate, inside TLS.
pub(super) async fn prove(
    stream: &mut Stream,
    placeholder: &str,
    end_point: Option<&[u8]>,
) -> Result<(), ChallengeError> {
    let proved = tokio::time::timeout(TIME_LIMIT, exchange(stream, placeholder, end_point));
    proved.await.map_err(|_elapsed| ChallengeError::TimedOut)?
}

async fn exchange(
    stream: &mut Stream,
    placeholder: &str,
    end_point: Option<&[u8]>,
) -> Result<(), ChallengeError> {
    ask(stream, 10, |out| {
        if end_point.is_some() {
            put_text(out, PLUS);
        }
        put_text(out, PLAIN);
        out.put_u8(0);
    })
    .await?;
    let message = answer(stream).await?;
    let mut fields = Fields::over(&message, 'p');
    let unexpected = |_short| ChallengeError::Unexpected;
    let mechanism = fields.text().map_err(unexpected)?.to_owned();
    let _length = fields.i32().map_err(unexpected)?;
    let (exchange, challenge) = Exchange::begin(placeholder, end_point, &mechanism, fields.rest())?;
    ask(stream, 11, |out| out.put_slice(challenge.as_bytes())).await?;
    let signature = exchange.finish(&answer(stream).await?)?;
    ask(stream, 12, |out| out.put_slice(signature.as_bytes())).await?;
    Ok(())
}

/// An authentication message: its number, and what follows.
async fn ask(stream: &mut Stream, number: i32, content: impl FnOnce(&mut BytesMut)) -> std::io::Result<()> {
    let mut message = BytesMut::new();
    write(&mut message, b'R', |out| {
        out.put_i32(number);
        content(out);
    });
    let mut downstream = Downstream::new(stream);
    downstream.say(AgentSpeech::log_in(message.freeze()));
    downstream.flush().await
}

/// The body of one message of kind `p`; nothing behind it is read.
async fn answer(stream: &mut Stream) -> Result<Vec<u8>, ChallengeError> {
    if stream.read_u8().await? != b'p' {
        return Err(ChallengeError::Unexpected);
    }
    let length = stream.read_u32().await?;
    if !(4..=MAX_MESSAGE).contains(&length) {
        return Err(ChallengeError::Unexpected);
    }
    let mut body = vec![0; usize::try_from(length - 4).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(body)
}
