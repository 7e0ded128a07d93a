//! The agent's side of the control socket.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::approval::{Broker, BrokerError, Terms, Vote, Voter, concerns};
use crate::identity::Issuers;
use crate::model::{Principal, PrincipalKind, Ticket};
use crate::task::Tasks;

use super::callers::{Callers, Place};
use super::metrics::Family;
use super::place::{self, is_trusted};
use super::wire::{Ask, Call, Failure, MAX_LINE, Reply, Request, Status, VERSION};

/// How long a caller may take to send its line, and to take the answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Calls at the same time.
const MAX_CALLS: usize = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("the control socket {path} cannot be opened: {source}")]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

/// What the control API can reach.
#[derive(Debug)]
pub struct ControlRooms {
    /// Approvals.
    pub broker: Broker,
    /// Verifies callers' tokens.
    pub issuers: Issuers,
    /// Who answers here.
    pub status: Status,
    /// Figures for monitoring.
    pub metrics: MetricSource,
}

/// Reads the figures; may read files.
#[derive(Clone)]
pub struct MetricSource(Arc<dyn Fn() -> Vec<Family> + Send + Sync>);

impl MetricSource {
    /// Reads with `read`.
    pub fn new(read: impl Fn() -> Vec<Family> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The figures as they are now.
    #[must_use]
    pub fn read(&self) -> Vec<Family> {
        (self.0)()
    }
}

impl std::fmt::Debug for MetricSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricSource").finish_non_exhaustive()
    }
}

/// A listening control socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    /// Where another process listens and removes the file: none.
    path: Option<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, "the control socket was gone");
        }
    }
}

impl From<std::os::unix::net::UnixListener> for Server {
    /// At a socket that another process opened.
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self { listener, path: None }
    }
}

impl Server {
    /// Listens on `run-PID.sock` in `dir`, after removing sockets of agents that died.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn listen(dir: &Path) -> Result<Self, ControlError> {
        Self::listen_for(dir, std::process::id())
    }

    /// The same for the agent `pid`, which another process answers for.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn listen_for(dir: &Path, pid: u32) -> Result<Self, ControlError> {
        let path = dir.join(format!("run-{pid}.sock"));
        let failed = |source| ControlError {
            path: path.clone(),
            source,
        };
        place::prepare(dir).map_err(failed)?;
        place::remove_stale(dir, pid);
        let listener = std::os::unix::net::UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // Approvers are ordinary users of this host: their token is what counts.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self {
            listener,
            path: Some(path),
        })
    }

    /// The socket, for the process that answers.
    ///
    /// # Errors
    /// Where there is no descriptor for it.
    pub fn socket(&self) -> io::Result<std::os::unix::net::UnixListener> {
        self.listener.try_clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, rooms: Arc<ControlRooms>) {
        let listening = self.listener.try_clone().and_then(UnixListener::from_std);
        let listener = match listening {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the control socket cannot be used");
                return;
            }
        };
        let callers = Callers::default();
        let mut calls = Tasks::default();
        loop {
            tokio::select! {
                accepted = listener.accept(), if calls.len() < MAX_CALLS => match accepted {
                    Ok((stream, _)) => {
                        if let Some((uid, place)) = admit(&stream, &callers) {
                            let rooms = Arc::clone(&rooms);
                            calls.spawn("control", async move {
                                let _place = place;
                                if let Err(error) = answer(stream, uid, &rooms).await {
                                    tracing::debug!(%error, uid, "a control call broke off");
                                }
                            });
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                _ = calls.next(), if !calls.is_empty() => {}
            }
        }
    }
}

fn admit(stream: &UnixStream, callers: &Callers) -> Option<(u32, Place)> {
    let uid = stream.peer_cred().ok()?.uid();
    let admitted = callers.enter(uid, is_trusted(uid, own_uid()));
    if admitted.is_none() {
        tracing::warn!(uid, "too many open control calls of one user");
    }
    admitted.map(|place| (uid, place))
}

async fn answer(stream: UnixStream, uid: u32, rooms: &ControlRooms) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    // One byte more than allowed tells a long line from a whole one.
    let mut bounded = BufReader::new(read).take(MAX_LINE as u64 + 1);
    tokio::time::timeout(TIME_LIMIT, bounded.read_until(b'\n', &mut line))
        .await
        .map_err(io::Error::other)??;
    let reply = understood(&line, uid, rooms).await;
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    let written = async {
        write.write_all(&bytes).await?;
        write.shutdown().await
    };
    tokio::time::timeout(TIME_LIMIT, written)
        .await
        .map_err(io::Error::other)?
}

/// The answer to a line. What the line holds is not repeated: it may be a token.
pub(super) async fn understood(line: &[u8], uid: u32, rooms: &ControlRooms) -> Reply {
    let no_call = |message: String| Reply::Error {
        failure: Failure::NotACall,
        message,
    };
    if line.len() > MAX_LINE {
        return no_call(format!("A call is at most {MAX_LINE} bytes long."));
    }
    match serde_json::from_slice::<Version>(line) {
        Ok(Version { v: VERSION }) => {}
        Ok(Version { v }) => {
            return no_call(format!(
                "The agent speaks version {VERSION} of the control API, not {v}."
            ));
        }
        Err(_) => return no_call("This is no call: one JSON object on one line is.".into()),
    }
    match serde_json::from_slice::<Call>(line) {
        Ok(call) => reply(call, uid, rooms).await,
        Err(wrong) => no_call(format!(
            "This is no call of version {VERSION} (column {}).",
            wrong.column()
        )),
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

async fn reply(call: Call, uid: u32, rooms: &ControlRooms) -> Reply {
    let now = crate::clock::now();
    let caller = match &call.token {
        Some(token) => match rooms.issuers.verify(token, now).await {
            Ok(principal) => Some(Voter {
                principal,
                uid: Some(uid),
            }),
            Err(wrong) => {
                let message = format!("Your token is not accepted: {wrong}.");
                return Reply::Error {
                    failure: Failure::Token,
                    message,
                };
            }
        },
        None => None,
    };
    let trusted = is_trusted(uid, own_uid());
    match call.ask {
        Ask::Status {} => Reply::Status(rooms.status.clone()),
        Ask::Metrics {} if !trusted => error("Figures are for root and the agent's own user.".into()),
        Ask::Metrics {} => {
            let source = rooms.metrics.clone();
            match tokio::task::spawn_blocking(move || source.read()).await {
                Ok(families) => Reply::Metrics(families),
                Err(_panicked) => error("The figures could not be read.".into()),
            }
        }
        Ask::List { all } => match (&caller, trusted) {
            (None, false) => error("Listing needs a token (--token-file), or root.".into()),
            (caller, _) => match rooms.broker.list(all, now).await {
                Ok(requests) => Reply::Requests(shown_to(requests, caller.as_ref().filter(|_| !trusted))),
                Err(wrong) => failed(&wrong),
            },
        },
        Ask::Show { ticket } => match (
            caller.or_else(|| trusted.then(|| local(uid))),
            ticket.parse::<Ticket>(),
        ) {
            (None, _) => error("Showing needs a token (--token-file), or root.".into()),
            (_, Err(wrong)) => error(format!("{wrong}.")),
            (Some(viewer), Ok(ticket)) => one(rooms.broker.view(&ticket, &viewer, trusted, now).await),
        },
        Ask::Approve {
            ticket,
            uses,
            seconds,
            comment,
        } => match Terms::new(uses, seconds.map(Duration::from_secs)) {
            Ok(terms) => decide(rooms, caller, &ticket, Vote::Approve { terms, comment }).await,
            Err(wrong) => error(format!("{wrong}.")),
        },
        Ask::Deny { ticket, comment } => decide(rooms, caller, &ticket, Vote::Deny { comment }).await,
    }
}

async fn decide(rooms: &ControlRooms, caller: Option<Voter>, ticket: &str, vote: Vote) -> Reply {
    match (caller, ticket.parse::<Ticket>()) {
        (None, _) => error("Deciding needs your own token: --token-file FILE, or INTERDICT_TOKEN.".into()),
        (_, Err(wrong)) => error(format!("{wrong}.")),
        (Some(voter), Ok(ticket)) => one(rooms
            .broker
            .vote(&ticket, &voter, vote, crate::clock::now())
            .await),
    }
}

/// Somebody who is neither root nor the agent's user sees what concerns them.
fn shown_to(requests: Vec<crate::approval::Request>, caller: Option<&Voter>) -> Vec<Request> {
    requests
        .into_iter()
        .filter(|request| caller.is_none_or(|voter| concerns(request, &voter.principal)))
        .map(|request| Request::from(request).listed())
        .collect()
}

/// A local user without a token: may look, as root, and is recorded as that.
fn local(uid: u32) -> Voter {
    let principal = Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        subject: format!("uid-{uid}"),
        display: format!("local user {uid}"),
        groups: [].into(),
        expires_at: None,
    };
    Voter {
        principal,
        uid: Some(uid),
    }
}

fn one(result: Result<crate::approval::Request, BrokerError>) -> Reply {
    match result {
        Ok(request) => Reply::Request(Box::new(request.into())),
        Err(wrong) => failed(&wrong),
    }
}

fn failed(wrong: &BrokerError) -> Reply {
    let failure = match wrong {
        BrokerError::Unknown(_) => Failure::UnknownTicket,
        BrokerError::Store(_)
        | BrokerError::Audit(_)
        | BrokerError::Rejected(_)
        | BrokerError::TooMany(_)
        | BrokerError::Contended
        | BrokerError::Random => Failure::Refused,
    };
    Reply::Error {
        failure,
        message: format!("Not done: {wrong}."),
    }
}

fn error(message: String) -> Reply {
    Reply::Error {
        failure: Failure::Refused,
        message,
    }
}
