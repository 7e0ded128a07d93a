//! The command line's side of the control socket. Blocking: a command asks, prints, ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{Ask, Call, Failure, MAX_LINE, Reply, Request, VERSION};

/// How long an agent may take to answer.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// Why no agent answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no running agent was found in {0}")]
    NoAgent(PathBuf),
    /// An agent did not answer.
    #[error("the agent at {path} did not answer: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Asks the agents of `dir` (or the one at `socket`) and puts their answers together.
///
/// # Errors
/// Where no agent is there or none answers.
pub fn ask(dir: &Path, socket: Option<&Path>, token: Option<&str>, ask: &Ask) -> Result<Reply, ClientError> {
    let call = Call {
        v: VERSION,
        token: token.map(str::to_owned),
        ask: ask.clone(),
    };
    let mut listed: Option<Vec<Request>> = None;
    let mut failed: Option<(Failure, String)> = None;
    let mut broken = None;
    for path in sockets(dir, socket) {
        match one(&path, &call) {
            // Agents that share a state directory know the same requests.
            Ok(Reply::Requests(requests)) => {
                let all = listed.get_or_insert_default();
                all.extend(
                    requests
                        .into_iter()
                        .filter(|r| !all.iter().any(|known| known.ticket == r.ticket))
                        .collect::<Vec<_>>(),
                );
            }
            Ok(Reply::Error { failure, message }) => {
                if failed.as_ref().is_none_or(|(known, _)| failure > *known) {
                    failed = Some((failure, message));
                }
            }
            Ok(reply) => return Ok(reply),
            Err(source) => broken = Some(ClientError::Io { path, source }),
        }
    }
    match (listed, failed, broken) {
        (Some(requests), ..) => Ok(Reply::Requests(requests)),
        (None, Some((failure, message)), _) => Ok(Reply::Error { failure, message }),
        (None, None, Some(error)) => Err(error),
        (None, None, None) => Err(ClientError::NoAgent(dir.to_owned())),
    }
}

/// Every agent's socket.
fn sockets(dir: &Path, socket: Option<&Path>) -> Vec<PathBuf> {
    if let Some(socket) = socket {
        return vec![socket.to_owned()];
    }
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    let mut found: Vec<PathBuf> = entries
        .filter(|p| p.extension().is_some_and(|e| e == "sock"))
        .collect();
    found.sort();
    found
}

fn one(path: &Path, call: &Call) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    // Lists are longer than calls.
    BufReader::new(stream.take(64 * MAX_LINE as u64)).read_until(b'\n', &mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}
