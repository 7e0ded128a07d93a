//! The two promises for protocols of single messages (DNS): what goes to a server is a message that was permitted, and
//! what goes to the process is masked, a refusal, or the agent's own words.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::mask::Masked;
use crate::model::Refusal;

use super::authorize::{Permit, Request};
use super::downstream::RefusalWords;
use super::speech::AgentSpeech;
use super::upstream::InFlight;

/// A message that was permitted. It may be sent again: servers answer the same question alike.
#[derive(Debug)]
#[must_use = "a message that was permitted is there to be sent"]
pub struct Datagram {
    bytes: Bytes,
}

impl<R: Request> Permit<R> {
    /// The very message that was judged, ready to be sent, and what its answer must obey.
    pub fn into_datagram(self) -> (Datagram, InFlight) {
        let (request, in_flight) = self.into_parts();
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let bytes = bytes.freeze();
        (Datagram { bytes }, in_flight)
    }
}

impl Datagram {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Sends it over a connected socket.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send(&self, socket: &UdpSocket) -> std::io::Result<()> {
        socket.send(&self.bytes).await.map(|_sent| ())
    }

    /// Sends it over a stream, its length before it (RFC 7766, 8).
    ///
    /// # Errors
    /// The stream's, and for a message of more than 65535 bytes.
    pub async fn send_on(&self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        send_on(&self.bytes, stream).await
    }
}

/// What the process is answered.
#[derive(Debug)]
#[must_use = "an answer is there to be given"]
pub struct Reply {
    bytes: Bytes,
}

impl Reply {
    /// Masked content.
    pub fn answer(content: Masked<Vec<u8>>) -> Self {
        let bytes = content.into_content().into();
        Self { bytes }
    }

    /// A refusal in the protocol's words.
    pub fn refuse(words: &impl RefusalWords, refusal: &Refusal) -> Self {
        let mut bytes = BytesMut::new();
        words.encode(refusal, &mut bytes);
        let bytes = bytes.freeze();
        Self { bytes }
    }

    /// The agent's own words.
    pub fn say(speech: AgentSpeech) -> Self {
        let bytes = speech.into_bytes();
        Self { bytes }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Sends it to `peer`.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_to(&self, socket: &UdpSocket, peer: std::net::SocketAddr) -> std::io::Result<()> {
        socket.send_to(&self.bytes, peer).await.map(|_sent| ())
    }

    /// Sends it over a stream, its length before it.
    ///
    /// # Errors
    /// As [`Datagram::send_on`].
    pub async fn send_on(&self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        send_on(&self.bytes, stream).await
    }
}

async fn send_on(bytes: &[u8], stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    // In one piece: some read the length and the message at once.
    let mut framed = BytesMut::with_capacity(bytes.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    stream.flush().await
}
