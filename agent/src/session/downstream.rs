//! The one writer towards the process.

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::mask::Masked;
use crate::model::Refusal;

use super::speech::AgentSpeech;

/// A protocol's own words for a refusal: one total table each, in `protocol/NAME/refusal.rs`.
pub trait RefusalWords {
    /// Appends the refusal as one or more frames.
    fn encode(&self, refusal: &Refusal, out: &mut BytesMut);
}

/// The one writer towards the process: takes masked content, refusals and the agent's own speech, and no bytes.
#[derive(Debug)]
pub struct Downstream<W> {
    writer: W,
    buffer: BytesMut,
    // Written to the stream, not yet flushed by it (TLS keeps records back).
    unflushed: bool,
}

impl<W: AsyncWrite + Unpin> Downstream<W> {
    /// Wraps the writing half.
    pub fn new(writer: W) -> Self {
        Self {
            writer,
            buffer: BytesMut::with_capacity(16 * 1024),
            unflushed: false,
        }
    }

    /// Buffers masked content.
    pub fn answer<B: AsRef<[u8]>>(&mut self, content: Masked<B>) {
        self.buffer.extend_from_slice(content.into_content().as_ref());
    }

    /// Buffers a refusal in the protocol's words.
    pub fn refuse(&mut self, words: &impl RefusalWords, refusal: &Refusal) {
        words.encode(refusal, &mut self.buffer);
    }

    /// Buffers the agent's own words.
    pub fn say(&mut self, speech: AgentSpeech) {
        self.buffer.extend_from_slice(&speech.into_bytes());
    }

    /// Forgets what is buffered: it may not be shown after all. What is written behind it belongs to no whole frame.
    pub fn discard(&mut self) {
        self.buffer.clear();
    }

    /// How many bytes wait to be written.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what is buffered. Cancel-safe: what was not written stays buffered.
    ///
    /// # Errors
    /// The socket's.
    pub async fn flush(&mut self) -> std::io::Result<()> {
        while !self.buffer.is_empty() {
            self.unflushed = true;
            if self.writer.write_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
        }
        self.writer.flush().await?;
        self.unflushed = false;
        Ok(())
    }

    /// Whether `flush` has anything to do.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.unflushed || !self.buffer.is_empty()
    }

    /// Closes the writing half after what is buffered.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shutdown(&mut self) -> std::io::Result<()> {
        self.flush().await?;
        self.writer.shutdown().await
    }
}
