//! A proxy that the service manager started beside its guard: the two find each other at a socket, each looks at who the other
//! is, and the links are handed over.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, Uid, chmod, chown};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, accept_with, bind, connect, listen,
    socket_with,
};
use serde::{Deserialize, Serialize};

use super::super::link::Link;

/// Between two tries to find the guard.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(50);

/// The one message there: the links come beside it, that for questions first.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Welcome {
    Proxy {},
}

/// Whom a guard lets in.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Its user.
    pub uid: u32,
    /// Its unit: what its cgroup is called.
    pub unit: &'a str,
}

/// The file of a socket; it goes with this.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.0) {
            tracing::debug!(%error, "the socket for the proxy was gone");
        }
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The links to a proxy, and where it is.
pub(super) struct Admitted {
    pub(super) calls: Link,
    pub(super) events: Link,
    /// Its cgroup, below the mount.
    pub(super) cgroup: String,
}

/// Waits at `path` for the proxy that is expected, and makes its links: for questions, and for the rest.
pub(super) fn admit(path: &Path, expected: Expected<'_>) -> io::Result<Admitted> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let door = seqpacket()?;
    bind(&door, &SocketAddrUnix::new(path)?)?;
    let _file = SocketFile(path);
    // Before anybody can come in: root and that user may.
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    // Last: changing the mode of another user's file is a right of its own.
    chown(path, Some(Uid::from_raw(expected.uid)), Some(Gid::from_raw(0)))?;
    listen(&door, 4)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let peer = next(&door, until)?;
        let found = socket_peercred(&peer)?;
        let cgroup = match is_it(found, expected) {
            Ok(cgroup) => cgroup,
            Err(why) => {
                tracing::warn!(pid = found.pid.as_raw_nonzero(), uid = found.uid.as_raw(), %why, "somebody who is not the proxy was not let in");
                continue;
            }
        };
        let (calls, their_calls) = Link::pair()?;
        let (events, their_events) = Link::pair()?;
        let both = [their_calls.as_fd(), their_events.as_fd()];
        match Link::from(peer).send(&Welcome::Proxy {}, &both, true) {
            Ok(()) => {
                return Ok(Admitted {
                    calls,
                    events,
                    cgroup,
                });
            }
            Err(error) => tracing::warn!(%error, "the proxy has gone again"),
        }
    }
}

fn next(door: &OwnedFd, until: Instant) -> io::Result<OwnedFd> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(door, PollFlags::IN)], Some(&wait)) {
            Ok(0) => {
                let late = "no proxy has come: is its unit started, and can it reach the socket?";
                return Err(io::Error::new(io::ErrorKind::TimedOut, late));
            }
            Ok(_) => return Ok(accept_with(door, SocketFlags::CLOEXEC)?),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the process that connected is of the user and in the unit's cgroup, and which that is.
fn is_it(found: UCred, expected: Expected<'_>) -> Result<String, String> {
    if found.uid.as_raw() != expected.uid {
        return Err(format!("the proxy runs as {}", expected.uid));
    }
    let pid = found.pid.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
    let cgroup = text.lines().find_map(|line| line.strip_prefix("0::/"));
    match cgroup {
        Some(path) if path.rsplit('/').next() == Some(expected.unit) => Ok(path.to_owned()),
        Some(_) | None => Err(format!("the proxy is in {}", expected.unit)),
    }
}

/// Finds the guard at `path`, which it may not be at yet, and takes the links.
pub(super) fn find(path: &Path) -> io::Result<(Link, Link)> {
    let until = Instant::now() + PATIENCE;
    let address = SocketAddrUnix::new(path)?;
    let socket = loop {
        let socket = seqpacket()?;
        match connect(&socket, &address) {
            Ok(()) => break socket,
            Err(
                rustix::io::Errno::NOENT
                | rustix::io::Errno::CONNREFUSED
                | rustix::io::Errno::ACCESS
                | rustix::io::Errno::INTR,
            ) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    };
    if !socket_peercred(&socket)?.uid.is_root() {
        return Err(io::Error::other("who waits there is not root, and so no guard"));
    }
    let (Welcome::Proxy {}, links) = Link::from(socket)
        .receive::<Welcome>(2)
        .map_err(io::Error::other)?;
    let mut links = links.into_iter().map(Link::from);
    match (links.next(), links.next()) {
        (Some(calls), Some(events)) => Ok((calls, events)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_expected_is_not_let_in() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (one, _other) = Link::pair().expect("sockets");
        let own = socket_peercred(&one).expect("credentials");
        let uid = own.uid.as_raw();
        let elsewhere = Expected {
            uid,
            unit: "no-such-unit.service",
        };
        assert!(is_it(own, elsewhere).is_err());
        let another = Expected {
            uid: uid + 1,
            ..elsewhere
        };
        assert!(is_it(own, another).is_err());
        let text = fs::read_to_string("/proc/self/cgroup").expect("a cgroup");
        let Some(cgroup) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return;
        };
        let unit = cgroup.rsplit('/').next().unwrap_or_default();
        assert_eq!(is_it(own, Expected { uid, unit }), Ok(cgroup.to_owned()));
        if uid != 0 {
            return;
        }
        let path = dir.path().join("link");
        let at = path.clone();
        let finding = std::thread::spawn(move || find(&at));
        let Admitted { calls, .. } = admit(&path, Expected { uid, unit }).expect("let in");
        let (theirs, _) = finding.join().expect("ended").expect("found");
        assert!(!path.exists(), "the socket's file is left");
        theirs.send(&Welcome::Proxy {}, &[], true).expect("sent");
        assert!(calls.receive::<Welcome>(0).is_ok());
    }
}
