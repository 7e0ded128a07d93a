//! What systemd is told (sd_notify(3)): readiness, reloads, the watchdog, and descriptors to keep over a restart.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};

use crate::guard::inherited_descriptors;

/// How long the manager may take to make room for a message.
const PATIENCE: Duration = Duration::from_millis(200);
/// Descriptors in one message; the kernel takes 253 (unix(7)).
const TOGETHER: usize = 16;

/// The way to the service manager; without one, nothing is said.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    keeps: bool,
}

impl Notifier {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Self {
        let address = std::env::var("NOTIFY_SOCKET").ok();
        let socket = address.and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(address, %error, "NOTIFY_SOCKET cannot be used");
                None
            }
        });
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        Self {
            socket,
            watchdog: watchdog.map(Duration::from_micros),
            keeps: number("FDSTORE").is_some_and(|most| most > 0),
        }
    }

    /// Whether descriptors are kept for certain (`FDSTORE`, systemd 254 and later; older ones may and do not say so).
    pub(super) const fn keeps(&self) -> bool {
        self.socket.is_some() && self.keeps
    }

    /// How often the watchdog wants to hear: twice as often as it must.
    pub(super) fn beat(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// Says something.
    pub(super) fn tell(&self, words: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(words.as_bytes())
        {
            tracing::warn!(words, %error, "the service manager was not told");
        }
    }

    /// Says that the configuration is being read again, as `Type=notify-reload` wants it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now
            .tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Gives descriptors away to be kept under `name` until this service starts again.
    pub(super) fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        for some in descriptors.chunks(TOGETHER) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let words = format!("FDSTORE=1\nFDNAME={name}");
            let sent = if control.push(SendAncillaryMessage::ScmRights(some)) {
                sendmsg(
                    socket,
                    &[IoSlice::new(words.as_bytes())],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )
            } else {
                Err(rustix::io::Errno::NOBUFS)
            };
            if let Err(error) = sent {
                tracing::warn!(name, %error, "a listener is not kept: connections that come during a restart are reset");
            }
        }
    }

    /// What was kept under `name` may go.
    pub(super) fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }
}

fn connect(address: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the agent.
    socket.set_write_timeout(Some(PATIENCE))?;
    match address.strip_prefix('@') {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

/// Listeners that the service manager kept (sd_listen_fds(3)), by the name that they were given away under. Once only.
pub(super) fn kept_listeners() -> BTreeMap<String, Vec<TcpListener>> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let ours = variable("LISTEN_PID") == std::process::id().to_string();
    let count = variable("LISTEN_FDS").parse::<u8>().unwrap_or(0);
    let mut kept: BTreeMap<String, Vec<TcpListener>> = BTreeMap::new();
    if !ours {
        return kept;
    }
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    for descriptor in inherited_descriptors(count) {
        let name = names.next().unwrap_or_default().to_owned();
        match descriptor.and_then(listener) {
            Ok(listener) => kept.entry(name).or_default().push(listener),
            Err(error) => tracing::warn!(name, %error, "a kept descriptor is no listener"),
        }
    }
    kept
}

fn listener(descriptor: OwnedFd) -> io::Result<TcpListener> {
    if rustix::net::sockopt::socket_acceptconn(&descriptor)? {
        Ok(TcpListener::from(descriptor))
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}
