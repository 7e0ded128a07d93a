//! The one writer towards a target.

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::audit::OutcomeGuard;
use crate::mask::MaskPlan;
use crate::model::Limits;

use super::authorize::{Neutral, Pass, Permit, Request};
use super::content::Recording;
use super::speech::AgentSpeech;

/// What remains of a permit once its request is on its way: what its answer must obey, and the outcome that is owed.
#[derive(Debug)]
#[must_use = "its answer must be masked and its outcome recorded"]
pub struct InFlight {
    /// The outcome that is owed.
    pub outcome: OutcomeGuard,
    /// How its answer is masked.
    pub plan: MaskPlan,
    /// Bounds on its answer.
    pub limits: Limits,
    /// Where its answer is recorded; `None`: it is not.
    pub recording: Option<Box<Recording>>,
}

/// The one writer towards a target: takes permits, passes and the agent's own speech, and no bytes.
#[derive(Debug)]
pub struct Upstream<W> {
    writer: W,
    buffer: BytesMut,
    // Written to the stream, not yet flushed by it (TLS keeps records back).
    unflushed: bool,
}

impl<W: AsyncWrite + Unpin> Upstream<W> {
    /// Wraps the writing half.
    pub fn new(writer: W) -> Self {
        Self {
            writer,
            buffer: BytesMut::with_capacity(16 * 1024),
            unflushed: false,
        }
    }

    /// Buffers the very request that was judged.
    pub fn forward<R: Request>(&mut self, permit: Permit<R>) -> InFlight {
        let (request, in_flight) = permit.into_parts();
        request.encode(&mut self.buffer);
        in_flight
    }

    /// Buffers what needs no judgement.
    pub fn pass<N: Neutral>(&mut self, pass: Pass<N>) {
        pass.into_frame().encode(&mut self.buffer);
    }

    /// Buffers the agent's own words.
    pub fn say(&mut self, speech: AgentSpeech) {
        self.buffer.extend_from_slice(&speech.into_bytes());
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
