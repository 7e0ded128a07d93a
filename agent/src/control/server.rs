//! The agent's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::approval::{Broker, BrokerError, Terms, Vote, Voter};
use crate::identity::Issuers;
use crate::model::{Principal, PrincipalKind, Ticket};
use crate::task::Tasks;

use super::wire::{Ask, Call, Failure, MAX_LINE, Reply, Request, Status, VERSION};

/// How long a caller may take for its line.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Callers at the same time.
const MAX_CALLERS: usize = 64;

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
}

/// Where control sockets live: `/run/interdict` for root, below the XDG runtime directory for others.
#[must_use]
pub fn directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    match runtime {
        Some(runtime) if !rustix::process::geteuid().is_root() => PathBuf::from(runtime).join("interdict"),
        _ => PathBuf::from("/run/interdict"),
    }
}

/// A listening control socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone");
        }
    }
}

impl Server {
    /// Listens on `run-PID.sock` in `dir`, after removing sockets of agents that died.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn listen(dir: &Path) -> Result<Self, ControlError> {
        let path = dir.join(format!("run-{}.sock", std::process::id()));
        let failed = |source| ControlError {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        remove_stale(dir);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Approvers are ordinary users of this host: their token is what counts.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, rooms: Arc<ControlRooms>) {
        let mut callers = Tasks::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if callers.len() < MAX_CALLERS => match accepted {
                    Ok((stream, _)) => {
                        let rooms = Arc::clone(&rooms);
                        callers.spawn("control", async move {
                            if let Err(error) = answer(stream, &rooms).await {
                                tracing::debug!(%error, "a control call broke off");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                _ = callers.next(), if !callers.is_empty() => {}
            }
        }
    }
}

fn remove_stale(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix("run-")?.strip_suffix(".sock")?.parse::<u32>().ok());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            let removed = std::fs::remove_file(entry.path());
            tracing::debug!(?name, ?removed, "stale control socket");
        }
    }
}

async fn answer(stream: UnixStream, rooms: &ControlRooms) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut bounded = BufReader::new(read).take(MAX_LINE as u64);
    tokio::time::timeout(TIME_LIMIT, bounded.read_until(b'\n', &mut line))
        .await
        .map_err(io::Error::other)??;
    let reply = match serde_json::from_slice::<Call>(&line) {
        Ok(call) if call.v == VERSION => reply(call, uid, rooms).await,
        Ok(call) => error(format!(
            "The agent speaks version {VERSION} of the control API, not {}.",
            call.v
        )),
        Err(wrong) => error(format!("This is no call: {wrong}.")),
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
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
    let own_uid = rustix::process::geteuid().as_raw();
    let trusted = uid == 0 || uid == own_uid;
    match call.ask {
        Ask::Status {} => Reply::Status(rooms.status.clone()),
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
            (Some(viewer), Ok(ticket)) => one(rooms.broker.view(&ticket, &viewer, now).await),
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

/// Somebody who is neither root nor the agent's user sees what concerns their groups.
fn shown_to(requests: Vec<crate::approval::Request>, caller: Option<&Voter>) -> Vec<Request> {
    let concerns = |request: &crate::approval::Request| {
        caller.is_none_or(|voter| {
            request.principal == voter.principal.key()
                || request
                    .approvers
                    .iter()
                    .flatten()
                    .any(|group| voter.principal.groups.contains(group))
        })
    };
    requests.into_iter().filter(concerns).map(Request::from).collect()
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
