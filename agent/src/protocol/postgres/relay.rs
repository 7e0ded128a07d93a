//! Carrying a session: one task that reads both sides, writes both sides, and never waits for one while it owes the other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf, split};

use crate::connection::Stream;
use crate::model::{Outcome, OutcomeStatus, Refusal};
use crate::session::{Downstream, Permit, Session, Upstream};

use super::cancel::Registered;
use super::catalogue::Protected;
use super::expect::Expect;
use super::frame::Frame;
use super::names::Names;
use super::requests::Waiting;
use super::unit::Unit;

/// Bytes that may wait in a buffer before its source is read no more.
const HIGH_WATER: usize = 1024 * 1024;
/// Answers that may be outstanding before the process is read no more.
const MAX_OUTSTANDING: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// A judgement that is being made.
pub(super) type Judging<'s> = Pin<Box<dyn Future<Output = Result<Permit<Unit>, Refusal>> + Send + 's>>;

/// One session.
pub(super) struct Relay<'s> {
    pub(super) session: &'s Session,
    pub(super) database: String,
    pub(super) protected: Arc<Protected>,
    pub(super) to_process: Downstream<WriteHalf<Stream>>,
    pub(super) to_target: Upstream<WriteHalf<Stream>>,
    from_process: ReadHalf<Stream>,
    from_target: ReadHalf<Stream>,
    pub(super) process_bytes: BytesMut,
    pub(super) target_bytes: BytesMut,
    pub(super) registered: Registered,
    pub(super) names: Names,
    /// Frames of the unit that is being gathered.
    pub(super) gathered: Vec<Frame>,
    pub(super) expected: VecDeque<Expect>,
    /// After an error in a batch, the process's frames are dropped up to its next `Sync`, as the server does.
    pub(super) skipping: bool,
    /// Transaction status of the last `ReadyForQuery`.
    pub(super) status: u8,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// Why the session ends, once it does.
    pub(super) ending: Option<String>,
}

impl<'s> Relay<'s> {
    pub(super) fn new(
        session: &'s Session,
        database: String,
        protected: Arc<Protected>,
        process: Stream,
        target: Stream,
        target_bytes: BytesMut,
        registered: Registered,
    ) -> Self {
        let (from_process, to_process) = split(process);
        let (from_target, to_target) = split(target);
        Self {
            session,
            database,
            protected,
            to_process: Downstream::new(to_process),
            to_target: Upstream::new(to_target),
            from_process,
            from_target,
            process_bytes: BytesMut::with_capacity(CHUNK),
            target_bytes,
            registered,
            names: Names::default(),
            gathered: Vec::new(),
            expected: VecDeque::new(),
            skipping: false,
            status: b'I',
            bytes_up: 0,
            bytes_down: 0,
            ending: None,
        }
    }

    /// Carries the session to its end.
    pub(super) async fn run(&mut self) -> Outcome {
        let mut judging: Option<(Judging<'s>, Box<Waiting>)> = None;
        let why = loop {
            if let Some(why) = self.ending.take() {
                break why;
            }
            if judging.is_none() && self.expected.len() < MAX_OUTSTANDING {
                match self.next_request().await {
                    Ok(Some(started)) => {
                        judging = Some(started);
                        continue;
                    }
                    Ok(None) => {}
                    Err(why) => break why,
                }
                if self.ending.is_some() {
                    continue;
                }
            }
            let judges = judging.is_some();
            let room_up = self.process_bytes.len() < HIGH_WATER && self.to_target.buffered() < HIGH_WATER;
            let room_down = self.to_process.buffered() < HIGH_WATER;
            self.process_bytes.reserve(CHUNK / 4);
            self.target_bytes.reserve(CHUNK);
            tokio::select! {
                judged = judgement(judging.as_mut()), if judges => {
                    if let Some((_, waiting)) = judging.take() {
                        self.judged(judged, *waiting);
                    }
                }
                () = self.registered.held.cancelled(), if judges => {
                    if let Some((_, waiting)) = judging.take() {
                        let refusal = self.session.refuse_cancelled().await;
                        self.judged(Err(refusal), *waiting);
                    }
                }
                read = self.from_target.read_buf(&mut self.target_bytes), if room_down => match read {
                    Ok(0) => break "the target closed the connection".to_owned(),
                    Ok(n) => {
                        self.bytes_down = self.bytes_down.saturating_add(n as u64);
                        if let Err(why) = self.answers() {
                            break why;
                        }
                    }
                    Err(error) => break format!("the target broke off: {error}"),
                },
                read = self.from_process.read_buf(&mut self.process_bytes), if room_up => match read {
                    Ok(0) => break "the process closed the connection".to_owned(),
                    Ok(n) => self.bytes_up = self.bytes_up.saturating_add(n as u64),
                    Err(error) => break format!("the process broke off: {error}"),
                },
                wrote = self.to_target.flush(), if self.to_target.needs_flush() => {
                    if let Err(error) = wrote {
                        break format!("the target broke off: {error}");
                    }
                }
                wrote = self.to_process.flush(), if self.to_process.needs_flush() => {
                    if let Err(error) = wrote {
                        break format!("the process broke off: {error}");
                    }
                }
            }
        };
        self.registered.held.set(false);
        self.end(why).await
    }

    /// Writes what is owed to both sides and closes them.
    async fn end(&mut self, why: String) -> Outcome {
        let (target, process) =
            futures_util::future::join(self.to_target.shutdown(), self.to_process.shutdown()).await;
        tracing::debug!(?target, ?process, %why, "session ended");
        Outcome {
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            ..Outcome::bare(OutcomeStatus::Completed, why)
        }
    }

    /// Ends the session with words for the process.
    pub(super) fn fatal(&mut self, refusal: &Refusal) {
        self.to_process.refuse(&super::refusal::Severity::Fatal, refusal);
        self.ending = Some(refusal.reason.clone());
    }

    /// Whether a transaction is open, or may be by the time that the next frame arrives.
    pub(super) fn in_transaction(&self) -> bool {
        self.status != b'I' || !self.expected.is_empty()
    }
}

/// The judgement in progress; never ready where there is none.
async fn judgement(judging: Option<&mut (Judging<'_>, Box<Waiting>)>) -> Result<Permit<Unit>, Refusal> {
    match judging {
        Some((future, _)) => future.await,
        None => std::future::pending().await,
    }
}
