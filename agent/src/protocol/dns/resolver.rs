//! The agent's resolver: from a question of a process to its answer. Questions of one process to one server are a
//! session, which ends when nothing was asked for a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::config::DnsConfig;
use crate::connection::{self, Connection, Targets};
use crate::model::{
    ConnectionId, Facts, Limits, MaskCounts, OriginalDst, Outcome, OutcomeStatus, Process, Refusal,
    RefusalKind,
};
use crate::session::{InFlight, Reply, Rooms, Session};

use super::answer::{Answered, is_carried};
use super::budget::{Budget, TooFast};
use super::exchange::{self, ExchangeError, PATIENCE};
use super::question::{Asking, Head, Malformed, Question};
use super::words::{Words, failed};

use hickory_proto::op::ResponseCode;

/// Sessions of processes and servers that are open at a time; then the longest idle ends.
const MAX_SESSIONS: usize = 256;
/// How long a session stays open without a question.
const IDLE: Duration = Duration::from_secs(60);
/// How long a stream may be silent (RFC 7766, 6.2.3 leaves it to servers).
const STREAM_IDLE: Duration = Duration::from_secs(30);
/// Longest question over a stream; one that the agent understands is far shorter.
const MAX_QUESTION: u16 = 4096;

/// What makes two questions of the same session.
type Key = (u32, u64, u32, OriginalDst);

#[derive(Debug)]
struct Held {
    session: Arc<Session>,
    used: Instant,
}

/// Answers questions for names, as policies say.
#[derive(Debug)]
pub struct Resolver {
    rooms: Arc<Rooms>,
    targets: Arc<Targets>,
    budget: Budget,
    sessions: Mutex<HashMap<Key, Held>>,
}

impl Resolver {
    /// For one run.
    #[must_use]
    pub fn new(rooms: Arc<Rooms>, targets: Arc<Targets>, config: DnsConfig) -> Self {
        Self {
            rooms,
            targets,
            budget: Budget::new(config),
            sessions: Mutex::default(),
        }
    }

    /// Answers one datagram.
    pub async fn datagram(&self, question: connection::Question) {
        let connection::Question {
            bytes,
            original,
            process,
            socket,
            peer,
        } = question;
        if let Some(reply) = self.answered(&bytes, &process, original, false).await
            && let Err(error) = reply.send_to(&socket, peer).await
        {
            tracing::debug!(%error, "a process did not get its answer");
        }
    }

    /// Answers the questions of a stream, one after the other, until it ends or is silent for too long.
    pub async fn stream(&self, connection: Connection) {
        let Connection {
            id: _,
            mut stream,
            peer: _,
            original,
            upstream: _,
            process,
        } = connection;
        let mut questions = 0u64;
        while let Ok(Ok(bytes)) = tokio::time::timeout(STREAM_IDLE, next(&mut stream)).await {
            questions += 1;
            let Some(reply) = self.answered(&bytes, &process, original, true).await else {
                break;
            };
            if let Err(error) = reply.send_on(&mut stream).await {
                tracing::debug!(%error, "a process did not get its answer");
                break;
            }
        }
        if questions == 0
            && let Ok(session) = self.session(&process, original).await
        {
            let why = "A connection to a server of names held no question.";
            let refusal = session.refuse_unknown(why).await;
            tracing::info!(%original, %refusal, "connection refused");
        }
    }

    /// Ends sessions that were not used for a while; with `all`, every one.
    pub async fn tidy(&self, all: bool) {
        let now = Instant::now();
        let mut sessions = self.sessions.lock().await;
        let ended: Vec<Key> = sessions
            .iter()
            .filter(|(_, held)| all || now.duration_since(held.used) >= IDLE)
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            if let Some(held) = sessions.remove(&key) {
                end(&held.session).await;
            }
        }
    }

    /// The answer to a question; `None` where none is due.
    async fn answered(
        &self,
        bytes: &[u8],
        process: &Arc<Process>,
        server: OriginalDst,
        tcp: bool,
    ) -> Option<Reply> {
        let read = Question::read(bytes);
        let rate = self.budget.rate(crate::clock::now());
        let session = match self.session(process, server).await {
            Ok(session) => session,
            Err(refusal) => {
                tracing::info!(%server, %refusal, "a question was refused");
                let head = head(read)?;
                return Some(refused(&head, ResponseCode::Refused, &refusal));
            }
        };
        if let Err(too_fast) = rate {
            let refusal = too_many(&session, too_fast).await;
            return Some(refused(&head(read)?, ResponseCode::Refused, &refusal));
        }
        match read {
            Ok(question) => Some(self.judged(&session, question, server, tcp).await),
            Err(Malformed { head, code, why }) => {
                let refusal = session.refuse_unknown(why).await;
                Some(refused(&head?, code, &refusal))
            }
        }
    }

    async fn judged(&self, session: &Session, question: Question, server: OriginalDst, tcp: bool) -> Reply {
        let head = question.head.clone();
        let shown = session.shown(question.text().as_bytes());
        let target = self.targets.is_name(&question.name);
        let operation = question.operation(target, tcp, shown);
        let wrong =
            |why: String| Refusal::new(RefusalKind::Limit, why, "Ask whoever keeps the configuration.");
        let over = if is_carried(question.kind, self.budget.types()) {
            match &operation.facts {
                Facts::Dns(facts) => self.budget.check(facts, crate::clock::now()).err(),
                Facts::Sql(_) | Facts::Connect(_) | Facts::Http(_) | Facts::Mcp(_) | Facts::Llm(_) => None,
            }
        } else {
            let kind = question.kind;
            Some(format!(
                "Records of type {kind} are not among the types of [dns]."
            ))
        };
        if let Some(why) = over {
            let refusal = session.refuse(Some(Arc::new(operation)), wrong(why)).await;
            return refused(&head, ResponseCode::Refused, &refusal);
        }
        let Some(asking) = Asking::new(&question, operation.clone()) else {
            let refusal = session.refuse(Some(Arc::new(operation)), wrong("It cannot be written.".into()));
            return refused(&head, ResponseCode::ServFail, &refusal.await);
        };
        let (id, query) = (asking.id, asking.query.clone());
        let permit = match session.authorize(asking).await {
            Ok(permit) => permit,
            Err(refusal) => return refused(&head, ResponseCode::Refused, &refusal),
        };
        let (message, in_flight) = permit.into_datagram();
        let Limits { max_rows, max_time } = in_flight.limits;
        let patience = max_time.map_or(PATIENCE, |time| time.min(PATIENCE));
        let sent = message.size() as u64;
        let answered = exchange::ask(&message, server.0, (id, &query), tcp, patience).await;
        let answered = answered.and_then(|answered| {
            let most = max_rows.unwrap_or(u64::MAX);
            if answered.records() as u64 > most {
                return Err(ExchangeError::Unusable(server.0, "more records than max_rows"));
            }
            Ok(answered)
        });
        match answered {
            Ok(answered) => {
                if self.targets.is_resolver(server) {
                    let (addresses, keep) = answered.addresses(&query.name);
                    self.targets.learn(&question.name, &addresses, keep);
                }
                shown_to(answered, in_flight, head, tcp, sent)
            }
            Err(error) => {
                tracing::info!(%error, "a name was not resolved");
                in_flight.outcome.finish(Outcome {
                    bytes_up: sent,
                    ..Outcome::bare(OutcomeStatus::Failed, error.to_string())
                });
                Reply::say(failed(&head, &error.to_string()))
            }
        }
    }

    /// The session of a process and a server: the open one, or a new one.
    async fn session(&self, process: &Arc<Process>, server: OriginalDst) -> Result<Arc<Session>, Refusal> {
        let key = (process.tgid, process.start_ns, process.uid, server);
        // Held while a session is opened: else two questions at once would open two.
        let mut sessions = self.sessions.lock().await;
        if let Some(held) = sessions.get_mut(&key)
            && !held.session.changed_hands()
        {
            held.used = Instant::now();
            return Ok(Arc::clone(&held.session));
        }
        // It is somebody else's: nobody can be told to connect anew.
        if let Some(held) = sessions.remove(&key) {
            end(&held.session).await;
        }
        if sessions.len() >= MAX_SESSIONS {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, held)| held.used)
                .map(|(key, _)| *key);
            if let Some(held) = oldest.and_then(|key| sessions.remove(&key)) {
                end(&held.session).await;
            }
        }
        let target = self.targets.server(server);
        let rooms = Arc::clone(&self.rooms);
        let opened = Session::unopened(rooms, ConnectionId::new(), Arc::clone(process), server, target)?;
        let session = Arc::new(opened);
        let held = Held {
            session: Arc::clone(&session),
            used: Instant::now(),
        };
        sessions.insert(key, held);
        Ok(session)
    }
}

/// What the process is shown of an answer, and the outcome.
fn shown_to(answered: Answered, in_flight: InFlight, head: Head, tcp: bool, sent: u64) -> Reply {
    let InFlight {
        outcome,
        plan,
        limits: _,
        // Its records are in the outcome's count, and no more of it.
        recording: _,
    } = in_flight;
    let mut masked = MaskCounts::default();
    let (code, rows) = (answered.code, answered.records() as u64);
    let reply = Reply::answer(plan.apply(answered.to(head, tcp), &mut masked));
    outcome.finish(Outcome {
        rows,
        bytes_up: sent,
        bytes_down: reply.size() as u64,
        masked,
        ..Outcome::bare(OutcomeStatus::Completed, code_name(code))
    });
    reply
}

/// As records have it; of others the agent makes `SERVFAIL`.
fn code_name(code: ResponseCode) -> &'static str {
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    names
        .get(usize::from(u16::from(code)))
        .copied()
        .unwrap_or("SERVFAIL")
}

async fn next(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    if length > MAX_QUESTION {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn head(read: Result<Question, Malformed>) -> Option<Head> {
    match read {
        Ok(question) => Some(question.head),
        Err(malformed) => malformed.head,
    }
}

fn refused(head: &Head, code: ResponseCode, refusal: &Refusal) -> Reply {
    Reply::refuse(&Words { head, code }, refusal)
}

/// Recorded once a second, with how many there were.
async fn too_many(session: &Session, TooFast { record }: TooFast) -> Refusal {
    let refusal = |count: u64| {
        let why = format!(
            "More questions within a second than [dns] per_second ({count} since the last such record)."
        );
        Refusal::new(RefusalKind::Limit, why, "Ask less often.")
    };
    match record {
        Some(count) => session.refuse(None, refusal(count)).await,
        None => refusal(0),
    }
}

async fn end(session: &Session) {
    let outcome = Outcome::bare(OutcomeStatus::Completed, "idle");
    if let Err(error) = session.close(outcome).await {
        tracing::error!(%error, "the end of a session could not be recorded");
    }
}
