//! The command line's side of the control socket. Blocking: a command asks, prints, ends.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::metrics::{self, Family};
use super::place::is_trusted;
use super::wire::{Ask, Call, Failure, MAX_LINE, MAX_REPLY, Reply, Request, VERSION};

/// How long an agent may take to answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// Why no agent answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no running agent was found in {}", shown(.0))]
    NoAgent(Vec<PathBuf>),
    /// An agent did not answer.
    #[error("the agent at {path} did not answer: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The call is too long to be sent.
    #[error("the call is longer than {MAX_LINE} bytes: is the token file a token, and the comment short?")]
    TooLong,
}

fn shown(dirs: &[PathBuf]) -> String {
    let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    names.join(" or ")
}

/// Which agents are asked.
#[derive(Debug, Clone)]
pub enum Agents {
    /// Every one of these directories that runs as root or as oneself: others are not given a token.
    Of(Vec<PathBuf>),
    /// The one at this socket, whoever runs it.
    At(PathBuf),
}

/// Asks the agents and puts their answers together.
///
/// # Errors
/// Where no agent is there or none answers.
pub fn ask(agents: &Agents, token: Option<&str>, ask: &Ask) -> Result<Reply, ClientError> {
    let call = Call {
        v: VERSION,
        token: token.map(str::to_owned),
        ask: ask.clone(),
    };
    let line = line(&call)?;
    let mut listed: Option<Vec<Request>> = None;
    let mut measured: Option<Vec<Family>> = None;
    let mut known = BTreeSet::new();
    let mut failed: Option<(Failure, String)> = None;
    let mut broken = None;
    let sockets = sockets(agents);
    for path in &sockets {
        match one(path, &line, matches!(agents, Agents::Of(_))) {
            // Agents that share a state directory know the same requests.
            Ok(Some(Reply::Requests(requests))) => {
                let new = requests.into_iter().filter(|r| known.insert(r.ticket.clone()));
                listed.get_or_insert_default().extend(new);
            }
            Ok(Some(Reply::Metrics(families))) => {
                metrics::merge(measured.get_or_insert_default(), families);
            }
            // This agent knows the ticket: another of the same store would only refuse it again.
            Ok(Some(Reply::Error {
                failure: failure @ Failure::Refused,
                message,
            })) if is_about_one(ask) => return Ok(Reply::Error { failure, message }),
            Ok(Some(Reply::Error { failure, message })) => {
                if failed.as_ref().is_none_or(|(known, _)| failure > *known) {
                    failed = Some((failure, message));
                }
            }
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => {}
            Err(source) => {
                let path = path.clone();
                broken = Some(ClientError::Io { path, source });
            }
        }
    }
    if let Some(families) = measured {
        return Ok(Reply::Metrics(families));
    }
    match (listed, failed, broken) {
        (Some(mut requests), ..) => {
            requests.sort_by_key(|request| std::cmp::Reverse(request.asked_ns));
            Ok(Reply::Requests(requests))
        }
        (None, Some((failure, message)), _) => Ok(Reply::Error { failure, message }),
        (None, None, Some(error)) => Err(error),
        (None, None, None) => Err(none(agents)),
    }
}

/// Asks every agent the same, without a token; each one's own answer.
///
/// # Errors
/// As [`ask`].
pub fn ask_each(agents: &Agents, ask: &Ask) -> Result<Vec<Reply>, ClientError> {
    let line = line(&Call {
        v: VERSION,
        token: None,
        ask: ask.clone(),
    })?;
    let mut replies = Vec::new();
    let mut broken = None;
    for path in sockets(agents) {
        match one(&path, &line, matches!(agents, Agents::Of(_))) {
            Ok(reply) => replies.extend(reply),
            Err(source) => broken = Some(ClientError::Io { path, source }),
        }
    }
    match (replies.is_empty(), broken) {
        (false, _) => Ok(replies),
        (true, Some(error)) => Err(error),
        (true, None) => Err(none(agents)),
    }
}

fn none(agents: &Agents) -> ClientError {
    ClientError::NoAgent(match agents {
        Agents::Of(dirs) => dirs.clone(),
        Agents::At(socket) => vec![socket.clone()],
    })
}

const fn is_about_one(ask: &Ask) -> bool {
    match ask {
        Ask::Status {} | Ask::Metrics {} | Ask::List { .. } => false,
        Ask::Show { .. } | Ask::Approve { .. } | Ask::Deny { .. } => true,
    }
}

fn line(call: &Call) -> Result<Vec<u8>, ClientError> {
    let mut line = serde_json::to_vec(call).map_err(|_not_text| ClientError::TooLong)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(ClientError::TooLong);
    }
    Ok(line)
}

/// Every agent's socket.
fn sockets(agents: &Agents) -> Vec<PathBuf> {
    let dirs = match agents {
        Agents::Of(dirs) => dirs,
        Agents::At(socket) => return vec![socket.clone()],
    };
    let mut found = Vec::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let sockets = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "sock"));
        found.extend(sockets);
    }
    found.sort();
    found.dedup();
    found
}

/// The answer of one agent; `None` where nobody listens any more, or somebody who may not be told.
fn one(path: &Path, line: &[u8], only_trusted: bool) -> io::Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let server = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
    if only_trusted && !is_trusted(server, rustix::process::geteuid().as_raw()) {
        return Ok(None);
    }
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    stream.write_all(line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_REPLY as u64)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&answer)?))
}
