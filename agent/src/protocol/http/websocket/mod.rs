//! A WebSocket (RFC 6455) after its handshake: messages of the target are masked, each message of the process is judged and
//! recorded like its handshake (`http.websocket`, with the method MESSAGE). Extensions were not offered, so payloads are
//! what they look like. A refusal closes it with 1008 and the reason. Where the target's dialect reads what is said in it,
//! `spoken` carries it.

mod frames;
mod kept;
mod sent;
mod spoken;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use crate::model::{MaskCounts, Operation, Outcome, OutcomeStatus, Refusal};
use crate::session::{AgentSpeech, Downstream, InFlight, Session, Upstream};

use super::answer::Spellings;
use super::conversation::Conversation;
#[cfg(test)]
pub(super) use frames::shown;
pub(super) use frames::{Frames, More};
use kept::Kept;
use sent::{Message, Reader, Sent, TOO_LARGE};

/// How long both sides may take to change the protocol, and the target to say goodbye.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long a target may take to answer the agent's goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;
/// Largest payload of a control frame.
const CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Codes of closing (RFC 6455, 7.4.1).
const BROKEN: u16 = 1002;
const UNREAD: u16 = 1003;
const REFUSED: u16 = 1008;
const LARGE: u16 = 1009;

/// Why nothing more can be read.
type Stop = &'static str;

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
    /// The operation that it was judged as.
    pub(super) operation: Arc<Operation>,
    /// Who reads what is said; `None`: messages are judged like the handshake.
    pub(super) conversation: Option<Box<dyn Conversation>>,
    /// Largest message of the process, in bytes.
    pub(super) max_message: usize,
    /// Most that the process is shown of the answer to one message, where they are told apart, in bytes.
    pub(super) max_answer: Option<u64>,
    /// Room for messages that wait, in KiB.
    pub(super) bodies: Arc<Semaphore>,
}

/// Carries messages both ways until one side ends.
pub(super) async fn relay(session: &Session, switch: Switch) {
    let Switch {
        process,
        target,
        in_flight,
        spellings,
        operation,
        conversation,
        max_message,
        max_answer,
        bodies,
    } = switch;
    let both = async { tokio::try_join!(process, target) };
    let (process, target) = match tokio::time::timeout(TIME_LIMIT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            let outcome = Outcome::bare(OutcomeStatus::Failed, format!("101, then {error}"));
            return in_flight.outcome.finish(outcome);
        }
        Err(_elapsed) => {
            let outcome = Outcome::bare(OutcomeStatus::Abandoned, "101, then nothing");
            return in_flight.outcome.finish(outcome);
        }
    };
    if let Some(conversation) = conversation {
        let setting = spoken::Setting {
            conversation,
            spellings,
            operation,
            max_message,
            max_answer,
            bodies,
        };
        return Box::pin(spoken::relay(session, (process, target), in_flight, setting)).await;
    }
    let InFlight {
        outcome: owed,
        plan,
        limits: _,
        recording,
    } = in_flight;
    let (from_process, to_process) = tokio::io::split(TokioIo::new(process));
    let (from_target, to_target) = tokio::io::split(TokioIo::new(target));
    let mut down = Down {
        kept: recording.map(|recording| Kept::new(recording, &plan)),
        from: from_target,
        to: Downstream::new(to_process),
        frames: Frames::new(plan, spellings),
        counts: MaskCounts::default(),
        shown: 0,
    };
    let mut up = Up {
        from: from_process,
        to: Upstream::new(to_target),
        reader: Reader::new(max_message),
        handshake: operation,
        sent: 0,
    };
    let (ended, said) = {
        let running = down.run();
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => (ended, None),
            goodbye = up.run(session) => match goodbye {
                // The target may still say goodbye.
                None => (tokio::time::timeout(TIME_LIMIT, running).await.unwrap_or(Ok(())), None),
                Some(goodbye) => (Ok(()), Some(goodbye)),
            }
        }
    };
    let mut outcome = match (&ended, &said) {
        (_, Some(goodbye)) => Outcome::bare(
            OutcomeStatus::Failed,
            format!("101: closed with {}", goodbye.code),
        ),
        (Ok(()), None) => Outcome::bare(OutcomeStatus::Completed, "101"),
        (Err(why), None) => Outcome::bare(OutcomeStatus::Failed, format!("101: {why}")),
    };
    if let Some(goodbye) = said.or_else(|| ended.err().map(Goodbye::broken)) {
        say_up(&mut up.to, &goodbye).await;
        say_down(&mut down.to, &mut down.from, &goodbye).await;
    }
    if let Some(kept) = &mut down.kept {
        kept.recording.end();
        if let Err(error) = kept.recording.settle().await {
            tracing::error!(%error, "the end of a recording is missing");
        }
    }
    outcome.bytes_up = up.sent;
    outcome.bytes_down = down.shown;
    outcome.masked = down.counts;
    owed.finish(outcome);
}

/// What is read from these pieces of a process, for the fuzzer.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn sent_by_process(pieces: &[&[u8]]) -> Result<Vec<String>, Stop> {
    let (mut reader, mut all) = (Reader::new(1 << 16), Vec::new());
    for piece in pieces {
        reader.push(piece);
        while let Some(sent) = reader.next()? {
            all.push(format!("{sent:?}"));
        }
    }
    Ok(all)
}

/// How the agent closes a WebSocket.
struct Goodbye {
    code: u16,
    reason: String,
}

impl Goodbye {
    fn refused(refusal: &Refusal) -> Self {
        Self {
            code: REFUSED,
            reason: refusal.to_string(),
        }
    }

    fn broken(why: Stop) -> Self {
        Self {
            code: BROKEN,
            reason: why.to_owned(),
        }
    }
}

/// Closes the target's side in the agent's own words; why is nothing that it has to know.
async fn say_up(to: &mut Upstream<WriteHalf<TokioIo<Upgraded>>>, goodbye: &Goodbye) {
    to.say(AgentSpeech::status(sent::closing(goodbye.code)));
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "target was gone");
    }
}

/// Closes the process's side in the agent's own words; frames that were begun are whole.
async fn say_down(
    to: &mut Downstream<WriteHalf<TokioIo<Upgraded>>>,
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    goodbye: &Goodbye,
) {
    to.say(AgentSpeech::status(frames::closing(
        goodbye.code,
        &goodbye.reason,
    )));
    if let Err(error) = to.shutdown().await {
        tracing::debug!(%error, "process was gone");
    }
    // What the target answers to its own goodbye is for nobody; closed on it, it might not see that.
    let rest = async {
        let mut buffer = BytesMut::new();
        while matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
            buffer.clear();
        }
    };
    let _in_time = tokio::time::timeout(GOODBYE, rest).await;
}

/// Process to target.
struct Up {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: Upstream<WriteHalf<TokioIo<Upgraded>>>,
    reader: Reader,
    handshake: Arc<Operation>,
    sent: u64,
}

impl Up {
    /// Until the process ends, or something of it is refused: then with what it is told.
    async fn run(&mut self, session: &Session) -> Option<Goodbye> {
        let mut buffer = BytesMut::new();
        let said = loop {
            buffer.reserve(CHUNK);
            match self.from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break None,
                Ok(_) => self.reader.push(&buffer.split()),
            }
            match self.forward(session).await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(goodbye) => break Some(goodbye),
            }
        };
        if said.is_none()
            && let Err(error) = self.to.shutdown().await
        {
            tracing::debug!(%error, "target was gone");
        }
        said
    }

    /// Judges and forwards what is complete; whether more may come.
    async fn forward(&mut self, session: &Session) -> Result<bool, Goodbye> {
        loop {
            let sent = match self.reader.next() {
                Ok(None) => return Ok(true),
                Ok(Some(sent)) => sent,
                Err(what) => {
                    let code = if what == TOO_LARGE { LARGE } else { BROKEN };
                    let refusal = session.refuse_unknown(format!("In a WebSocket {what}.")).await;
                    return Err(Goodbye {
                        code,
                        reason: refusal.to_string(),
                    });
                }
            };
            let outcome = match sent {
                Sent::Control(control) => {
                    let closes = control.closes();
                    let pass = session
                        .pass(control)
                        .map_err(|refusal| Goodbye::refused(&refusal))?;
                    self.to.pass(pass);
                    if closes {
                        let _gone = self.to.flush().await;
                        return Ok(false);
                    }
                    None
                }
                Sent::Message(text, payload) => {
                    let plan = session.masks_nothing_revealed();
                    let size = u64::try_from(payload.len()).unwrap_or(u64::MAX);
                    let message = Message::new(&self.handshake, text, payload, &plan);
                    let permit = session.authorize(message).await;
                    let permit = permit.map_err(|refusal| Goodbye::refused(&refusal))?;
                    self.sent = self.sent.saturating_add(size);
                    let InFlight {
                        outcome,
                        plan: _,
                        limits: _,
                        // What the target says belongs to the handshake.
                        recording: _,
                    } = self.to.forward(permit);
                    Some((outcome, size))
                }
            };
            let flushed = self.to.flush().await;
            if let Some((owed, size)) = outcome {
                let mut outcome = match &flushed {
                    Ok(()) => Outcome::bare(OutcomeStatus::Completed, "sent"),
                    Err(error) => Outcome::bare(OutcomeStatus::Failed, error.to_string()),
                };
                outcome.bytes_up = size;
                owed.finish(outcome);
            }
            if flushed.is_err() {
                return Ok(false);
            }
        }
    }
}

/// Target to process.
struct Down {
    /// Where it is recorded.
    kept: Option<Kept>,
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
                    if let Some(kept) = &mut self.kept {
                        kept.frames(&masked);
                        if let Err(error) = kept.recording.settle().await {
                            tracing::error!(%error, "a message is not shown");
                            break Err("its record could not be made");
                        }
                    }
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
        if ended.is_ok()
            && let Err(error) = self.to.shutdown().await
        {
            tracing::debug!(%error, "process was gone");
        }
        ended
    }
}
