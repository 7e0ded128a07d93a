//! One request and its answer: screened, judged, recorded, forwarded, masked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_ENCODING;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::{Limits, Operation, OperationId, Outcome, OutcomeStatus, Refusal, RefusalKind};
use crate::session::{Answer, Judged, Outgoing, Part, Patience, Permit, Session, Upload};

use super::answer::{Owed, Spellings, Withheld, answer, handshake, withhold};
use super::call::Call;
use super::conversation::Conversation;
use super::dialect::{self, Dialect};
use super::framing::{Noted, STAND_IN_METHOD};
use super::inject::{self, Injected};
use super::later::{After, Shelf};
use super::refusal::{self, Tongue};
use super::screen::{Head, Place, Wrong, host, screen};
use super::serve::Legs;
use super::sigv4::has_signed_chunks;
use super::target::{TargetError, TargetSide};
use super::uncoded::uncoded;
use super::uploads::{Collected, is_too_long, may_stream, stopped as stopped_upload, too_long};
use super::waiting::{Waiting, carried, stopped};
use super::websocket::{Switch, accepted};

/// How much of a refused body is read, in bytes.
pub(super) const DRAINED: usize = 64 * 1024 * 1024;
/// How long a process may take for the next piece of a body.
const BODY_TIME: Duration = Duration::from_secs(75);

/// How long the rest of a refused body is read.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(10);

/// One connection of a process, as its requests see it.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) session: Session,
    pub(super) legs: Arc<Legs>,
    pub(super) place: Place,
    pub(super) target: TargetSide,
    /// What was seen in the bytes of an HTTP/1 connection.
    pub(super) noted: Arc<Noted>,
    /// A WebSocket that both sides agreed to: the last exchange of the connection.
    pub(super) switch: Mutex<Option<Switch>>,
}

/// A refusal, and a status where the usual one does not fit.
pub(super) struct No(pub(super) Refusal, pub(super) Option<StatusCode>);

/// A request that was read, and not judged yet.
pub(super) struct Asked {
    call: Call,
    meanings: Vec<Operation>,
    spellings: Option<Spellings>,
    /// Bytes of its body.
    sent: u64,
    /// The body, where it was not read.
    upload: Option<Upload>,
    two: bool,
    is_head: bool,
    websocket: bool,
    /// Who reads what is said in the WebSocket.
    conversation: Option<Box<dyn Conversation>>,
    process: OnUpgrade,
    /// Where the answer is kept; `None`: it is given.
    pub(super) shelf: Option<Arc<dyn Shelf>>,
    _room: Vec<OwnedSemaphorePermit>,
}

impl Asked {
    /// What is left of its body where it was not read, if that has to be read before an answer.
    pub(super) fn unread(&self) -> Option<Upload> {
        self.upload.clone().filter(|_| self.two)
    }
}

/// What came of reading a request.
enum Read {
    Asked(Box<Asked>),
    /// It is for the agent itself.
    Answered(Answer),
}

/// A request that may be sent, and what goes along.
struct Permitted {
    permit: Permit<Call>,
    along: Vec<Permit<Part>>,
}

impl Permitted {
    fn withdraw(self, why: &str) {
        for part in self.along {
            part.withdraw(why);
        }
        self.permit.withdraw(why);
    }
}

impl Exchange {
    /// Answers one request. Dropping the future forwards nothing that was not forwarded yet.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let mut tongue = self.legs.tongue(request.headers());
        match Box::pin(self.read(request, &mut tongue)).await {
            Ok(Read::Asked(asked)) => Box::pin(carried(self, *asked, tongue)).await,
            Ok(Read::Answered(answer)) => answer,
            Err(No(refusal, status)) => refusal::answer(&refusal, status, &tongue),
        }
    }

    async fn read(&self, mut request: Request<Incoming>, tongue: &mut Tongue) -> Result<Read, No> {
        let process = hyper::upgrade::on(&mut request);
        let (parts, mut body) = request.into_parts();
        let two = parts.version == Version::HTTP_2;
        if parts.method.as_str() == STAND_IN_METHOD
            && let Some(why) = self.noted.why()
        {
            let what = format!("The request could be read in two ways: {why}.");
            return Err(self.unknown(what, None).await);
        }
        let mut head = match screen(parts, &self.place) {
            Ok(head) => head,
            Err(Wrong { status, what }) => {
                drain(&mut body, two).await;
                return Err(self.unknown(what, Some(status)).await);
            }
        };
        let is_head = head.method == Method::HEAD;
        let websocket = head.websocket;
        let conversation = match tongue {
            Tongue::Dialect(dialect) if websocket => Some(self.conversation(dialect.as_mut(), &head).await?),
            Tongue::Dialect(_) | Tongue::Plain | Tongue::Grpc => None,
        };
        let streams = may_stream(&self.legs, tongue, websocket);
        let (collected, mut room) = match self.collect(&mut body, streams).await {
            Ok(collected) => collected,
            Err(no) => {
                drain(&mut body, two).await;
                return Err(no);
            }
        };
        let (mut body, upload) = match collected {
            Collected::Whole(body) => (body, None),
            Collected::Begun(begun) => {
                let most = self.legs.settings().max_upload;
                (Bytes::new(), Some(Upload::new(begun, body, most)))
            }
        };
        if matches!(tongue, Tongue::Dialect(_)) {
            body = self.uncoded(&mut head, body, &mut room).await?;
        }
        let sent = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let mut shelf = None;
        let meanings = match tongue {
            Tongue::Plain | Tongue::Grpc => Vec::new(),
            // A handshake asks for nothing yet.
            Tongue::Dialect(_) if conversation.is_some() => Vec::new(),
            Tongue::Dialect(dialect) => {
                let meanings = self.meanings(dialect.as_mut(), &head, &body).await?;
                if let Some(words) = dialect.own() {
                    return Ok(Read::Answered(refusal::own(words)));
                }
                if let Some(later) = dialect.later() {
                    match self.later(later, meanings.last()).await {
                        After::Answered(answer) => return Ok(Read::Answered(answer)),
                        After::Runs(place) => shelf = Some(place),
                    }
                }
                if let Some(other) = dialect.body() {
                    body = other.into();
                }
                if let Some(other) = dialect.fields() {
                    head.headers = other;
                }
                meanings
            }
        };
        let obliged = match tongue {
            Tongue::Plain | Tongue::Grpc => None,
            Tongue::Dialect(dialect) => dialect.obliged(),
        };
        let outgoing = upload.clone().map_or(Outgoing::Whole(body), Outgoing::Upload);
        let (call, spellings) = self.call(head, outgoing).await?;
        let call = call.obliging(obliged);
        Ok(Read::Asked(Box::new(Asked {
            call,
            meanings,
            spellings,
            sent,
            upload,
            two,
            is_head,
            websocket,
            conversation,
            process,
            shelf,
            _room: room,
        })))
    }

    /// Judges and sends a request that was read, or begun.
    pub(super) async fn judged_and_sent(&self, asked: Asked, waiting: &mut Waiting) -> Result<Answer, No> {
        let Asked {
            call,
            meanings,
            spellings,
            sent,
            upload,
            two: _,
            is_head,
            websocket,
            conversation,
            process,
            shelf: _,
            _room,
        } = asked;
        let operation = Arc::clone(call.operation());
        let gives = call.gives();
        let stop = waiting.stop();
        let mut patience = |pending: &Refusal, usual| waiting.held(pending, usual);
        let judged = tokio::select! {
            judged = self.judge(call, meanings, &mut patience) => Some(judged),
            () = stopped(stop) => None,
        };
        let permitted = match judged {
            Some(judged) => judged?,
            None => return Err(No(self.session.refuse_cancelled().await, None)),
        };
        let tongue = &mut waiting.tongue;
        let id = permitted.permit.id();
        if let Err(error) = self.target.ready().await {
            permitted.withdraw("the target could not be reached");
            return Err(self.unreachable(&error, id));
        }
        let Permitted { permit, along } = permitted;
        let (message, mut in_flight) = permit.into_message();
        let along: Vec<_> = along.into_iter().map(Permit::along).collect();
        if !along.is_empty() {
            // Nobody can tell which part of the answer belongs to which operation.
            in_flight.plan = self.session.masks_nothing_revealed();
        }
        let until = along
            .iter()
            .chain([&in_flight])
            .filter_map(|each| each.limits.max_time)
            .min()
            .and_then(|limit| Instant::now().checked_add(limit));
        let mut owed = Owed {
            in_flight,
            along,
            is_head,
            sent,
            upload: upload.clone(),
            dialect: None,
            spellings,
            until,
            max_answer: self.legs.settings().max_answer,
            unreadable: self.legs.settings().unreadable,
            gives,
        };
        let answered = match until {
            None => self.target.send(message).await,
            Some(until) => tokio::time::timeout_at(until.into(), self.target.send(message))
                .await
                .unwrap_or(Err(TargetError::OutOfTime)),
        };
        match answered {
            Ok(response) if websocket && response.status() == StatusCode::SWITCHING_PROTOCOLS => self
                .switch(response, owed, process, (operation, conversation))
                .map_err(|withheld| withheld_from(id, withheld)),
            Ok(response) => {
                // Refusals from here on are the relay's own.
                if let Tongue::Dialect(dialect) = std::mem::replace(tongue, Tongue::Plain) {
                    owed.dialect = Some(dialect);
                }
                answer(response, owed)
                    .await
                    .map_err(|withheld| withheld_from(id, withheld))
            }
            Err(error) => {
                let outcome = Outcome::bare(OutcomeStatus::Failed, "the target did not answer");
                owed.finish(outcome);
                if let Some(why) = upload.and_then(|upload| upload.stopped()) {
                    return Err(stopped_upload(why, id, &self.legs));
                }
                Err(self.unreachable(&error, id))
            }
        }
    }

    /// Agrees to a WebSocket where the target did; the connection is it from then on.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        owed: Owed,
        process: OnUpgrade,
        (operation, conversation): (Arc<Operation>, Option<Box<dyn Conversation>>),
    ) -> Result<Answer, Withheld> {
        if let Err(what) = accepted(response.status(), response.headers()) {
            return Err(withhold(owed, what));
        }
        let target = hyper::upgrade::on(&mut response);
        let (parts, _nothing) = response.into_parts();
        let Owed {
            in_flight, spellings, ..
        } = owed;
        let shown = handshake(parts.status, parts.headers, &in_flight.plan, spellings.as_ref());
        let agreed = Switch {
            process,
            target,
            in_flight,
            spellings,
            operation,
            conversation,
            max_message: self.legs.settings().max_body,
            max_answer: self.legs.settings().max_answer,
            bodies: self.legs.bodies(),
        };
        *self.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
        self.noted.switch();
        Ok(shown)
    }

    /// Who reads what is said in a WebSocket.
    async fn conversation(&self, speaks: &mut dyn Dialect, head: &Head) -> Result<Box<dyn Conversation>, No> {
        let host = host(&head.authority);
        speaks.asks(&self.session.scene().principal.key());
        if let Some(conversation) = speaks.converses(&asked(head, &host)) {
            return Ok(conversation);
        }
        let what =
            "A WebSocket is not carried here: what is said in it would not be judged. Use requests instead.";
        Err(self.unknown(what, Some(StatusCode::FORBIDDEN)).await)
    }

    /// What a dialect reads in a request.
    async fn meanings(
        &self,
        speaks: &mut dyn Dialect,
        head: &Head,
        body: &Bytes,
    ) -> Result<Vec<Operation>, No> {
        let host = host(&head.authority);
        let asked = asked(head, &host);
        speaks.foresee(self.session.prospects());
        speaks.asks(&self.session.scene().principal.key());
        match speaks.request(&asked, body, &self.session.masks_nothing_revealed()) {
            Ok(operations) => Ok(operations),
            Err(refusal) => Err(No(self.session.refuse(None, refusal).await, None)),
        }
    }

    /// Every operation must be permitted, or none is.
    async fn judge(
        &self,
        call: Call,
        mut meanings: Vec<Operation>,
        patience: Patience<'_>,
    ) -> Result<Permitted, No> {
        let call = match meanings.pop() {
            Some(last) => call.meaning(last),
            None => call,
        };
        let mut along: Vec<Permit<Part>> = Vec::new();
        let mut refused = None;
        for meaning in meanings {
            let part = Part(Arc::new(call.bound(meaning)), call.trace());
            match self.session.authorize_patiently(part, patience).await {
                Ok(permit) => along.push(permit),
                Err(refusal) => {
                    refused = Some(refusal);
                    break;
                }
            }
        }
        let judged = match refused {
            Some(refusal) => Err(refusal),
            None => self.session.authorize_patiently(call, patience).await,
        };
        let permitted = match judged {
            Ok(permit) => Permitted { permit, along },
            Err(refusal) => {
                for part in along {
                    part.withdraw("another part of the same request is not permitted");
                }
                return Err(No(refusal, None));
            }
        };
        let parts = permitted.along.iter().map(Permit::limits);
        // What bounds everything bounds rows of databases.
        let common = self.session.common_limits().max_rows;
        let counts_rows = |limits: &Limits| limits.max_rows != common;
        if parts.chain([permitted.permit.limits()]).any(counts_rows) {
            permitted.withdraw("an obligation cannot be kept");
            let reason = "A policy limits rows (@max_rows), and HTTP has none.";
            let refusal = Refusal::new(
                RefusalKind::Limit,
                reason,
                "Remove @max_rows from policies for HTTP.",
            );
            return Err(No(
                self.session.refuse(None, refusal).await,
                Some(StatusCode::FORBIDDEN),
            ));
        }
        Ok(permitted)
    }

    /// The request with the real credential, and what it means.
    async fn call(&self, head: Head, body: Outgoing) -> Result<(Call, Option<Spellings>), No> {
        let credential = match self.legs.credential().map(inject::read) {
            None => None,
            Some(Ok(credential)) => Some(credential),
            Some(Err(reason)) => {
                let refusal = Refusal::new(RefusalKind::Unreachable, reason, "Tell whoever runs the agent.");
                return Err(No(self.session.refuse(None, refusal).await, None));
            }
        };
        let (credential, spellings) = credential.map_or((None, None), |(one, all)| (Some(one), all));
        if credential.as_ref().is_some_and(Injected::signs) && has_signed_chunks(&head.headers) {
            let what = "Its body has chunks that are signed with a key of the process's own: let the client send whole \
                        bodies, or chunks without signatures.";
            return Err(self.unknown(what, None).await);
        }
        let described = self
            .legs
            .descriptors()
            .map_or(Ok(None), |all| all.call(&head, &body));
        let described = match described {
            Ok(described) => described,
            Err(what) => return Err(self.unknown(what, None).await),
        };
        let plan = self.session.masks_nothing_revealed();
        let call = Call::new(head, body, credential, described, (&self.place, &plan));
        Ok((call, spellings))
    }

    /// The whole body, within bounds; `streams`: or the beginning of one that is larger.
    async fn collect(
        &self,
        body: &mut Incoming,
        streams: bool,
    ) -> Result<(Collected, Vec<OwnedSemaphorePermit>), No> {
        let most = self.legs.settings().max_body;
        let too_large = || {
            let shown = if most.is_multiple_of(1 << 20) {
                format!("{} MiB", most >> 20)
            } else {
                format!("{most} bytes")
            };
            Refusal::new(
                RefusalKind::Limit,
                format!("The body is larger than {shown}."),
                "Send it in smaller parts, or ask whoever runs the agent for a larger `max_body` of the target.",
            )
        };
        if streams && is_too_long(body, &self.legs) {
            return Err(No(self.session.refuse(None, too_long(&self.legs)).await, None));
        }
        if body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
            if streams {
                return Ok((Collected::Begun(Bytes::new()), Vec::new()));
            }
            return Err(No(self.session.refuse(None, too_large()).await, None));
        }
        let (mut whole, mut room) = (BytesMut::new(), Vec::new());
        loop {
            let frame = match tokio::time::timeout(BODY_TIME, body.frame()).await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) => return Err(self.broken().await),
            };
            // Trailers of a request say nothing that the agent carries.
            let Ok(piece) = frame.into_data() else { continue };
            if whole.len().saturating_add(piece.len()) > most {
                if streams {
                    whole.extend_from_slice(&piece);
                    return Ok((Collected::Begun(whole.freeze()), room));
                }
                return Err(No(self.session.refuse(None, too_large()).await, None));
            }
            match reserve(&self.legs.bodies(), piece.len()) {
                Some(more) => room.push(more),
                None => return Err(self.too_many().await),
            }
            whole.extend_from_slice(&piece);
        }
        Ok((Collected::Whole(whole.freeze()), room))
    }

    /// A body without its content coding.
    async fn uncoded(
        &self,
        head: &mut Head,
        body: Bytes,
        room: &mut Vec<OwnedSemaphorePermit>,
    ) -> Result<Bytes, No> {
        if !head.headers.contains_key(CONTENT_ENCODING) {
            return Ok(body);
        }
        let plain = match uncoded(&mut head.headers, body, self.legs.settings().max_body) {
            Ok(plain) => plain,
            Err(why) => {
                return Err(self
                    .unknown(format!("The request is not read: {why}."), None)
                    .await);
            }
        };
        match reserve(&self.legs.bodies(), plain.len()) {
            Some(more) => room.push(more),
            None => return Err(self.too_many().await),
        }
        Ok(plain)
    }

    async fn too_many(&self) -> No {
        let reason = "Too many bodies are held at the same time.";
        let refusal = Refusal::new(RefusalKind::Limit, reason, "Send it again later.");
        No(
            self.session.refuse(None, refusal).await,
            Some(StatusCode::SERVICE_UNAVAILABLE),
        )
    }

    /// A body that did not come as it was announced.
    async fn broken(&self) -> No {
        let what = match self.noted.why() {
            Some(why) => format!("The request could be read in two ways: {why}."),
            None => "The body broke off.".to_owned(),
        };
        self.unknown(what, None).await
    }

    async fn unknown(&self, what: impl Into<String>, status: Option<StatusCode>) -> No {
        let refusal = Refusal::new(
            RefusalKind::NotUnderstood,
            what,
            "Interdict forwards only what it understands: send the request in another way, or report it.",
        );
        No(self.session.refuse(None, refusal).await, status)
    }

    fn unreachable(&self, error: &TargetError, id: OperationId) -> No {
        let target = &self.session.target().target.name;
        tracing::warn!(%error, %target, "the target did not answer");
        let kind = match error {
            TargetError::OutOfTime => RefusalKind::TimeLimit,
            TargetError::Dial(_) | TargetError::Tls(_) | TargetError::TimedOut | TargetError::Http(_) => {
                RefusalKind::Unreachable
            }
        };
        let next_step = if self.target.lacks_client_certificate() {
            "The target asks for a client certificate: tell whoever runs the agent (client_cert_file, client_key_file)."
        } else {
            "Tell whoever runs the agent."
        };
        let reason = format!("The target cannot be used: {error}.");
        let mut refusal = Refusal::new(kind, reason, next_step);
        refusal.operation = Some(id);
        No(refusal, None)
    }
}

fn asked<'a>(head: &'a Head, host: &'a str) -> dialect::Asked<'a> {
    dialect::Asked {
        method: &head.method,
        host,
        path: &head.path,
        query: head.target.query(),
        headers: &head.headers,
    }
}

fn withheld_from(id: OperationId, withheld: Withheld) -> No {
    let Withheld { reason, next_step } = withheld;
    let mut refusal = Refusal::new(RefusalKind::Unreachable, reason, next_step);
    refusal.operation = Some(id);
    No(refusal, None)
}

/// Reads what is left of a body that is refused: in HTTP/2 clients take an answer before its end for an error. HTTP/1
/// closes the connection instead, and must not ask for what was announced with `Expect`.
async fn drain(body: &mut Incoming, two: bool) {
    let rest = async {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    if two {
        // Who sends slowly is answered all the same.
        let _in_time = tokio::time::timeout(DRAIN_TIME, rest).await;
    }
}

/// Room for so many bytes, in KiB.
fn reserve(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kibibytes = u32::try_from(bytes.div_ceil(1024)).ok()?;
    Arc::clone(room).try_acquire_many_owned(kibibytes).ok()
}
