//! A WebSocket (RFC 6455) after its handshake: messages of the target are masked, messages of the process go on as they
//! are. The handshake was judged as `http.websocket`; extensions were not offered, so payloads are what they look like.

mod frames;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};

use crate::model::{MaskCounts, Outcome, OutcomeStatus};
use crate::session::{Downstream, InFlight, Neutral, NeutralReason, Session, Upstream};

use super::answer::Spellings;
#[cfg(test)]
pub(super) use frames::shown;
pub(super) use frames::{Frames, More};

/// How long both sides may take to change the protocol, and the target to say goodbye.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// What the target answered to a handshake.
pub(super) fn accepted(status: StatusCode, headers: &HeaderMap) -> Result<(), &'static str> {
    let upgrade = headers.get(header::UPGRADE).map(|value| value.as_bytes());
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err("a status that is none of a handshake");
    }
    if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err("a change to another protocol than WebSocket");
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err("an extension of WebSocket that nobody offered");
    }
    Ok(())
}

/// A handshake that both sides agreed to.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) process: OnUpgrade,
    pub(super) target: OnUpgrade,
    pub(super) in_flight: InFlight,
    /// The real credential that went with it.
    pub(super) spellings: Option<Spellings>,
}

/// Bytes of the process within a WebSocket that was judged.
struct Sent(Bytes);

impl Neutral for Sent {
    fn reason(&self) -> NeutralReason {
        NeutralReason::WebSocketMessage
    }

    fn encode(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.0);
    }
}

/// Carries messages both ways until one side ends.
pub(super) async fn relay(session: &Session, switch: Switch) {
    let Switch {
        process,
        target,
        in_flight,
        spellings,
    } = switch;
    let InFlight {
        outcome: owed,
        plan,
        limits: _,
    } = in_flight;
    let both = async { tokio::try_join!(process, target) };
    let (process, target) = match tokio::time::timeout(TIME_LIMIT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            return owed.finish(Outcome::bare(OutcomeStatus::Failed, format!("101, then {error}")));
        }
        Err(_elapsed) => return owed.finish(Outcome::bare(OutcomeStatus::Abandoned, "101, then nothing")),
    };
    let (from_process, to_process) = tokio::io::split(TokioIo::new(process));
    let (from_target, to_target) = tokio::io::split(TokioIo::new(target));
    let mut down = Down {
        from: from_target,
        to: Downstream::new(to_process),
        frames: Frames::new(plan, spellings),
        counts: MaskCounts::default(),
        shown: 0,
    };
    let mut up = Up {
        from: from_process,
        to: Upstream::new(to_target),
        sent: 0,
    };
    let ended = {
        let down = down.run();
        tokio::pin!(down);
        tokio::select! {
            ended = &mut down => ended,
            () = up.run(session) => {
                // The target may still say goodbye.
                tokio::time::timeout(TIME_LIMIT, down).await.unwrap_or(Ok(()))
            }
        }
    };
    let mut outcome = match ended {
        Ok(()) => Outcome::bare(OutcomeStatus::Completed, "101"),
        Err(why) => Outcome::bare(OutcomeStatus::Failed, format!("101: {why}")),
    };
    outcome.bytes_up = up.sent;
    outcome.bytes_down = down.shown;
    outcome.masked = down.counts;
    owed.finish(outcome);
}

/// Process to target.
struct Up {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: Upstream<WriteHalf<TokioIo<Upgraded>>>,
    sent: u64,
}

impl Up {
    /// Until the process ends, or nobody stands behind the session any more.
    async fn run(&mut self, session: &Session) {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match self.from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => self.sent = self.sent.saturating_add(u64::try_from(n).unwrap_or(u64::MAX)),
            }
            match session.pass(Sent(buffer.split().freeze())) {
                Ok(pass) => self.to.pass(pass),
                Err(refusal) => {
                    tracing::info!(%refusal, "a WebSocket ended");
                    break;
                }
            }
            if self.to.flush().await.is_err() {
                break;
            }
        }
        if let Err(error) = self.to.shutdown().await {
            tracing::debug!(%error, "target was gone");
        }
    }
}

/// Target to process.
struct Down {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: Downstream<WriteHalf<TokioIo<Upgraded>>>,
    frames: Frames,
    counts: MaskCounts,
    shown: u64,
}

impl Down {
    async fn run(&mut self) -> Result<(), &'static str> {
        let mut buffer = BytesMut::new();
        let ended = loop {
            buffer.reserve(CHUNK);
            match self.from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break Ok(()),
                Ok(_) => {}
            }
            let plan = self.frames.plan().clone();
            let more = More(&mut self.frames, &buffer.split());
            match plan.apply(more, &mut self.counts).transpose() {
                Ok(masked) => {
                    self.shown = self
                        .shown
                        .saturating_add(u64::try_from(masked.size()).unwrap_or(u64::MAX));
                    self.to.answer(masked);
                }
                Err(why) => break Err(why),
            }
            if self.to.flush().await.is_err() {
                break Ok(());
            }
        };
        if let Err(error) = self.to.shutdown().await {
            tracing::debug!(%error, "process was gone");
        }
        ended
    }
}
