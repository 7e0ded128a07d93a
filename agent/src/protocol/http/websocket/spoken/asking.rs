//! Process to target: each message is judged before it is sent, one after another within a lane.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::mask::MaskPlan;
use crate::model::{Digest, Facts, Fingerprint, MaskCounts, Operation, PromptDuty, Refusal, RefusalKind};
use crate::session::{Permit, Recording, Request, Session, Upstream};

use super::super::super::conversation::{Question, Turn};
use super::super::super::dialect::{Changed, Obliged};
use super::super::super::kept;
use super::super::kept::KeptTurn;
use super::super::sent::{self, Reader, Sent, TOO_LARGE};
use super::super::{BROKEN, CHUNK, Goodbye, LARGE, UNREAD};
use super::hearing::{Flying, Told};
use super::{OPEN, Talk};

/// A message that waits for its turn in its lane, with what it takes.
struct Waiting {
    turn: Turn,
    payload: Bytes,
    room: OwnedSemaphorePermit,
    open: OwnedSemaphorePermit,
}

/// A message that was judged.
struct Ruled {
    lane: String,
    turn: Turn,
    result: Result<Permit<Asked>, Refusal>,
    /// Bytes of it as it came.
    size: usize,
    open: OwnedSemaphorePermit,
}

type Ruling<'s> = Pin<Box<dyn Future<Output = Ruled> + Send + 's>>;

pub(super) struct Asking<'s> {
    session: &'s Session,
    from: ReadHalf<TokioIo<Upgraded>>,
    to: Upstream<WriteHalf<TokioIo<Upgraded>>>,
    reader: Reader,
    talk: Talk,
    tells: mpsc::Sender<Told>,
    handshake: Arc<Operation>,
    /// Lanes in which a message is judged, with those that wait behind it.
    lanes: BTreeMap<String, VecDeque<Waiting>>,
    rulings: FuturesUnordered<Ruling<'s>>,
    /// Operations that may still begin.
    open: Arc<Semaphore>,
    pub(super) bodies: Arc<Semaphore>,
    last: Turn,
    sent: u64,
}

impl<'s> Asking<'s> {
    pub(super) fn new(
        session: &'s Session,
        (from, to): (
            ReadHalf<TokioIo<Upgraded>>,
            Upstream<WriteHalf<TokioIo<Upgraded>>>,
        ),
        (talk, tells): (Talk, mpsc::Sender<Told>),
        (handshake, max_message): (Arc<Operation>, usize),
    ) -> Self {
        Self {
            session,
            from,
            to,
            reader: Reader::new(max_message),
            talk,
            tells,
            handshake,
            lanes: BTreeMap::new(),
            rulings: FuturesUnordered::new(),
            open: Arc::new(Semaphore::new(OPEN)),
            bodies: Arc::new(Semaphore::new(0)),
            last: 0,
            sent: 0,
        }
    }

    /// The writer, and how many bytes of messages were sent. What is still judged is let go of.
    pub(super) fn into_end(self) -> (Upstream<WriteHalf<TokioIo<Upgraded>>>, u64) {
        (self.to, self.sent)
    }

    /// Until the process ends, or cannot be understood any more: then with what it is told.
    pub(super) async fn run(&mut self) -> Option<Goodbye> {
        enum Next {
            Ruled(Box<Ruled>),
            Read(bool),
        }
        let mut buffer = BytesMut::new();
        let said = loop {
            buffer.reserve(CHUNK);
            let next = tokio::select! {
                Some(ruled) = self.rulings.next(), if !self.rulings.is_empty() => Next::Ruled(Box::new(ruled)),
                read = self.from.read_buf(&mut buffer) => Next::Read(matches!(read, Ok(1..))),
            };
            let goes_on = match next {
                Next::Read(false) => break None,
                Next::Read(true) => {
                    self.reader.push(&buffer.split());
                    self.take().await
                }
                Next::Ruled(ruled) => Ok(self.ruled(*ruled).await),
            };
            match goes_on {
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

    /// Takes what is complete; whether more may come.
    async fn take(&mut self) -> Result<bool, Goodbye> {
        loop {
            let sent = match self.reader.next() {
                Ok(None) => return Ok(true),
                Ok(Some(sent)) => sent,
                Err(what) => {
                    let code = if what == TOO_LARGE { LARGE } else { BROKEN };
                    return Err(closed(self.session, code, format!("In a WebSocket {what}.")).await);
                }
            };
            match sent {
                Sent::Control(control) => {
                    let closes = control.closes();
                    let pass = self.session.pass(control);
                    self.to.pass(pass.map_err(|refusal| Goodbye::refused(&refusal))?);
                    if self.to.flush().await.is_err() || closes {
                        return Ok(false);
                    }
                }
                Sent::Message(true, payload) => self.message(payload).await,
                Sent::Message(false, _bytes) => {
                    let what = "In this WebSocket only texts are read, and a message is binary.";
                    return Err(closed(self.session, UNREAD, what.to_owned()).await);
                }
            }
        }
    }

    /// A message begins to be judged, or waits behind others of its lane.
    async fn message(&mut self, payload: Bytes) {
        self.last = self.last.saturating_add(1);
        let turn = self.last;
        let lane = self.talk.lock().received(turn, &payload);
        let kibibytes = u32::try_from(payload.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(kibibytes);
        let (Ok(open), Ok(room)) = (Arc::clone(&self.open).try_acquire_owned(), room) else {
            let reason = "Too many requests are open at the same time.";
            let refusal = Refusal::new(RefusalKind::Limit, reason, "Send it again later.");
            return self.refuse_here(turn, refusal).await;
        };
        let waiting = Waiting {
            turn,
            payload,
            room,
            open,
        };
        if let Some(queue) = self.lanes.get_mut(&lane) {
            return queue.push_back(waiting);
        }
        self.lanes.insert(lane.clone(), VecDeque::from([waiting]));
        self.go_on(lane).await;
    }

    /// The next message of a lane is judged; one that is not understood makes room for the one behind it.
    async fn go_on(&mut self, lane: String) {
        while let Some(waiting) = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
            let Waiting {
                turn,
                payload,
                room,
                open,
            } = waiting;
            let plan = self.session.masks_nothing_revealed();
            let question = self.talk.lock().asked(turn, &payload, &plan);
            match question {
                Err(refusal) => self.refuse_here(turn, refusal).await,
                Ok(question) => {
                    let size = payload.len();
                    let asked = Asked::new(question, payload, &self.handshake);
                    let session = self.session;
                    self.rulings.push(Box::pin(async move {
                        let result = session.authorize(asked).await;
                        drop(room);
                        Ruled {
                            lane,
                            turn,
                            result,
                            size,
                            open,
                        }
                    }));
                    return;
                }
            }
        }
        self.lanes.remove(&lane);
    }

    /// Refuses and records what nobody judged.
    async fn refuse_here(&mut self, turn: Turn, refusal: Refusal) {
        let refusal = self.session.refuse(None, refusal).await;
        self.refuse(turn, &refusal).await;
    }

    /// Tells the process.
    async fn refuse(&mut self, turn: Turn, refusal: &Refusal) {
        let words = self.talk.lock().refused(turn, refusal);
        // Who does not listen any more is gone, and so is this.
        let _gone = self.tells.send(Told::Refused(words)).await;
    }

    /// Sends a message that is permitted; whether the target is still there.
    async fn ruled(&mut self, ruled: Ruled) -> bool {
        let Ruled {
            lane,
            turn,
            result,
            size,
            open,
        } = ruled;
        let mut there = true;
        match result {
            Err(refusal) => self.refuse(turn, &refusal).await,
            Ok(permit) if permit.limits().max_rows != self.session.common_limits().max_rows => {
                permit.withdraw("an obligation cannot be kept");
                let reason = "A policy limits rows (@max_rows), and a message has none.";
                let next = "Remove @max_rows from policies for models.";
                self.refuse_here(turn, Refusal::new(RefusalKind::Limit, reason, next))
                    .await;
            }
            Ok(permit) => {
                let size = u64::try_from(size).unwrap_or(u64::MAX);
                self.sent = self.sent.saturating_add(size);
                let mut in_flight = self.to.forward(permit);
                let conceals = {
                    let mut talk = self.talk.lock();
                    talk.sent(turn);
                    talk.conceals(turn)
                };
                let recording = in_flight.recording.take();
                let limit = in_flight.limits.max_time;
                let flying = Flying {
                    kept: recording.map(|recording| KeptTurn::new(recording, &in_flight.plan, conceals)),
                    in_flight,
                    until: limit.and_then(|limit| Instant::now().checked_add(limit)),
                    up: size,
                    _open: open,
                    counts: MaskCounts::default(),
                    down: 0,
                    echoed: 0,
                };
                // Known before anything can be answered.
                let _gone = self.tells.send(Told::Sent(turn, Box::new(flying))).await;
                there = self.to.flush().await.is_ok();
            }
        }
        self.go_on(lane).await;
        there
    }
}

/// Why nothing more of the process is read; recorded.
async fn closed(session: &Session, code: u16, what: String) -> Goodbye {
    let refusal = session.refuse_unknown(what).await;
    Goodbye {
        code,
        reason: refusal.to_string(),
    }
}

/// A message with what it means.
#[derive(Debug)]
struct Asked {
    payload: Bytes,
    operation: Arc<Operation>,
    obliged: Box<dyn Obliged>,
}

impl Asked {
    /// `handshake`: what the WebSocket began with; a message goes where that went.
    fn new(question: Question, payload: Bytes, handshake: &Operation) -> Self {
        let Question { operation, obliged } = question;
        let (host, port) = match &handshake.facts {
            Facts::Http(to) => (to.host.as_str(), to.port),
            Facts::Sql(_) | Facts::Connect(_) | Facts::Mcp(_) | Facts::Llm(_) | Facts::Dns(_) => ("", 0),
        };
        let port = port.to_be_bytes();
        let parts: [&[u8]; 5] = [
            b"websocket dialect",
            host.as_bytes(),
            &port,
            handshake.text.as_bytes(),
            operation.fingerprint.0.as_bytes(),
        ];
        let fingerprint = Fingerprint(Digest::of_fields(&parts));
        Self {
            payload,
            operation: Arc::new(Operation {
                fingerprint,
                ..operation
            }),
            obliged,
        }
    }
}

impl Request for Asked {
    fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    fn encode(self, out: &mut BytesMut) {
        sent::text(&self.payload, out);
    }

    fn permitted(&mut self, prompt: &PromptDuty) -> Result<(), Refusal> {
        if let Some(Changed { body, text }) = self.obliged.permitted(prompt)? {
            self.payload = body;
            if let Some(text) = text {
                let operation = Operation {
                    text,
                    ..(*self.operation).clone()
                };
                self.operation = Arc::new(operation);
            }
        }
        Ok(())
    }

    fn record(&self, plan: &MaskPlan, recording: &mut Recording) {
        kept::message(true, &self.payload, plan, recording);
    }
}
