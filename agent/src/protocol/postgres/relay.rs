//! Carrying a session: one task that reads both sides, writes both sides, and never waits for one while it owes the other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf, split};

use crate::connection::Stream;
use crate::model::{Outcome, OutcomeStatus, Refusal, RefusalKind};
use crate::session::{Downstream, Ended, Permit, Session, Upstream};

use super::cancel::Registered;
use super::catalogue::{BELIEVED, Protected};
use super::expect::{Expect, Step};
use super::frame::{Frame, MAX_FROM_PROCESS, frame_length};
use super::learn::Learning;
use super::login::LoginError;
use super::names::Names;
use super::requests::Waiting;
use super::time_limit::Stopping;
use super::unit::Unit;

/// Bytes that may wait in a buffer before its source is read no more (a frame that is longer may be completed).
const HIGH_WATER: usize = 1024 * 1024;
/// Answers that may be outstanding before the process's requests are looked at no more.
const MAX_OUTSTANDING: usize = 4096;
/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// A judgement that is being made.
pub(super) type Judging<'s> = Pin<Box<dyn Future<Output = Result<Permit<Unit>, Refusal>> + Send + 's>>;
/// A question about protected columns that is being asked beside the session.
type Asking<'s> = Pin<Box<dyn Future<Output = Result<Arc<Protected>, LoginError>> + Send + 's>>;

/// One session.
pub(super) struct Relay<'s> {
    pub(super) session: &'s Session,
    pub(super) database: String,
    pub(super) schema: Schema<'s>,
    pub(super) to_process: Downstream<WriteHalf<Stream>>,
    pub(super) to_target: Upstream<WriteHalf<Stream>>,
    from_process: ReadHalf<Stream>,
    from_target: ReadHalf<Stream>,
    pub(super) process_bytes: BytesMut,
    pub(super) target_bytes: BytesMut,
    pub(super) registered: Registered,
    pub(super) names: Names,
    /// A frame of the process that waits for those before it to be judged.
    pub(super) next_frame: Option<Frame>,
    /// Frames of the unit that is being gathered.
    pub(super) gathered: Vec<(Frame, Step)>,
    /// The unit that is being judged.
    pub(super) waiting: Option<Box<Waiting>>,
    pub(super) expected: VecDeque<Expect>,
    /// Operations that ended, and whose last content is not in the log yet.
    pub(super) ended: VecDeque<Ended>,
    /// After an error in a batch, the process's frames are dropped up to its next `Sync`, as the server does.
    pub(super) skipping: bool,
    /// Transaction status of the last `ReadyForQuery`.
    pub(super) status: u8,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// Why the session ends, once it does.
    pub(super) ending: Option<String>,
}

/// What the session knows of protected columns.
pub(super) struct Schema<'s> {
    pub(super) learning: Learning<'s>,
    pub(super) protected: Arc<Protected>,
    /// When that was learnt, and how often schemas had been changed by then.
    pub(super) since: (Instant, u64),
    /// Whether the session itself may have changed the schema since.
    pub(super) changed: bool,
    /// A description of relations that are not known, or the beginning of a copy: nothing is shown before they are.
    pub(super) puzzle: Option<Frame>,
}

impl Schema<'_> {
    /// Takes what was learnt just now.
    pub(super) fn learnt(&mut self, protected: Arc<Protected>) {
        self.protected = protected;
        self.since = (Instant::now(), self.learning.legs.catalogues.changes());
        self.changed = false;
    }

    /// Whether to ask again before the next request; in a transaction only after a change of its own, because the
    /// first statement of a transaction must be the process's (`SET TRANSACTION`).
    pub(super) fn is_stale(&self, status: u8) -> bool {
        let (at, changes) = self.since;
        let others = || at.elapsed() >= BELIEVED || changes != self.learning.legs.catalogues.changes();
        !self.protected.is_empty()
            && match status {
                b'I' => self.changed || others(),
                b'T' => self.changed,
                _ => false,
            }
    }
}

impl<'s> Relay<'s> {
    pub(super) fn new(
        session: &'s Session,
        database: String,
        schema: Schema<'s>,
        process: Stream,
        (target, target_bytes): (Stream, BytesMut),
        registered: Registered,
    ) -> Self {
        let (from_process, to_process) = split(process);
        let (from_target, to_target) = split(target);
        Self {
            session,
            database,
            schema,
            to_process: Downstream::new(to_process),
            to_target: Upstream::new(to_target),
            from_process,
            from_target,
            process_bytes: BytesMut::with_capacity(CHUNK),
            target_bytes,
            registered,
            names: Names::default(),
            next_frame: None,
            gathered: Vec::new(),
            waiting: None,
            expected: VecDeque::new(),
            ended: VecDeque::new(),
            skipping: false,
            status: b'I',
            bytes_up: 0,
            bytes_down: 0,
            ending: None,
        }
    }

    /// Carries the session to its end.
    pub(super) async fn run(&mut self) -> Outcome {
        let mut judging: Option<Judging<'s>> = None;
        let mut asking: Option<Asking<'s>> = None;
        let mut stopping: Option<Stopping> = None;
        let why = loop {
            if self.unsettled()
                && let Err(error) = self.settle().await
            {
                self.to_process.discard();
                break format!("what was to be shown could not be recorded: {error}");
            }
            if let Some(why) = self.ending.take() {
                break why;
            }
            if judging.is_none() && stopping.is_none() && self.expected.len() < MAX_OUTSTANDING {
                match self.next_request().await {
                    Ok(started) => judging = started,
                    Err(why) => break why,
                }
                if self.ending.is_some() {
                    continue;
                }
            }
            if asking.is_none() && self.schema.puzzle.is_some() {
                asking = Some(Box::pin(self.schema.learning.ask()));
            }
            let judges = judging.is_some();
            let stops = stopping.is_some();
            let time_is_up = self.time_is_up();
            let room_up = self.room_up();
            let room_down = self.to_process.buffered() < HIGH_WATER && asking.is_none();
            self.process_bytes.reserve(CHUNK / 16);
            self.target_bytes.reserve(CHUNK / 4);
            tokio::select! {
                judged = ready(judging.as_mut()), if judges && !stops => {
                    judging = None;
                    self.judged(judged);
                }
                () = self.registered.held.cancelled(), if judges => {
                    judging = None;
                    let refusal = self.session.refuse_cancelled().await;
                    self.judged(Err(refusal));
                }
                () = at(time_is_up), if !stops => stopping = self.stop(),
                heard = ready(stopping.as_mut()), if stops => {
                    stopping = None;
                    if let Err(error) = heard {
                        tracing::warn!(%error, "the target was not reached to stop a statement");
                    }
                }
                learnt = ready(asking.as_mut()), if asking.is_some() => {
                    asking = None;
                    self.solved(learnt);
                }
                read = self.from_target.read_buf(&mut self.target_bytes), if room_down => match read {
                    Ok(0) => break "the target closed the connection".to_owned(),
                    Ok(n) => {
                        self.bytes_down = self.bytes_down.saturating_add(n as u64);
                        self.answered();
                    }
                    Err(error) => break broke_off("target", &error),
                },
                read = self.from_process.read_buf(&mut self.process_bytes), if room_up => match read {
                    Ok(0) => break "the process closed the connection".to_owned(),
                    Ok(n) => self.bytes_up = self.bytes_up.saturating_add(n as u64),
                    Err(error) => break broke_off("process", &error),
                },
                wrote = self.to_target.flush(), if self.to_target.needs_flush() => {
                    if let Err(error) = wrote {
                        break broke_off("target", &error);
                    }
                }
                wrote = self.to_process.flush(), if self.to_process.needs_flush() => {
                    if let Err(error) = wrote {
                        break broke_off("process", &error);
                    }
                }
            }
        };
        self.registered.held.set(false);
        self.end(why).await
    }

    /// Whether more of the process's bytes may wait: up to the high-water mark, or up to the end of one frame.
    fn room_up(&self) -> bool {
        let whole = match frame_length(&self.process_bytes, MAX_FROM_PROCESS) {
            Ok(Some(length)) => length,
            Ok(None) | Err(_) => 0,
        };
        self.process_bytes.len() < whole.max(HIGH_WATER) && self.to_target.buffered() < HIGH_WATER
    }

    /// Handles what has arrived from the target; what is not understood ends the session.
    fn answered(&mut self) {
        if let Err(what) = self.answers() {
            let refusal = Refusal::new(
                RefusalKind::NotUnderstood,
                format!("The session cannot go on: {what}."),
                "Connect again; report it if it comes again.",
            );
            self.fatal(&refusal);
        }
    }

    /// The relations of a description are known now, or never.
    fn solved(&mut self, learnt: Result<Arc<Protected>, LoginError>) {
        let Some(frame) = self.schema.puzzle.take() else {
            return;
        };
        match learnt {
            Ok(protected) => {
                self.schema.learnt(protected);
                let read = if frame.kind() == b'H' {
                    self.copy_out(&frame)
                } else {
                    self.description(&frame)
                };
                match read {
                    Ok(()) => self.answered(),
                    Err(what) => self.ending = Some(what),
                }
            }
            Err(error) => {
                let refusal = Refusal::new(
                    RefusalKind::Unreachable,
                    format!("The target's catalogue cannot be asked which columns are protected: {error}."),
                    "Connect again; tell whoever runs the agent if it comes again.",
                );
                self.fatal(&refusal);
            }
        }
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

/// What is being made; never ready where nothing is.
async fn ready<T>(making: Option<&mut Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> T {
    match making {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// A point in time; never where there is none.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Why a session ended when a side went away without the protocol's own farewell.
fn broke_off(side: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) {
        format!("the {side} hung up")
    } else {
        format!("the {side} broke off: {error}")
    }
}
