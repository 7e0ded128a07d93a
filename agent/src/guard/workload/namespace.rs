//! Network namespaces of governed processes: the agent's listeners inside them, and sockets to dial out of them.

use std::fs::File;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use interdict_ebpf::Listener;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::model::{ListenerAddr, NetnsCookie};

use super::super::error::GuardError;
use super::super::listeners::Listeners;
use super::super::netlink;
use super::super::sys;

/// What tells namespaces apart: device and inode of `/proc/PID/ns/net`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(u64, u64);

impl NamespaceId {
    /// The namespace that a process is in; `None` where it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let meta = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
        Some(Self(meta.dev(), meta.ino()))
    }
}

/// A network namespace; it lives for as long as this does.
#[derive(Debug)]
pub struct Namespace {
    handle: File,
    id: NamespaceId,
    cookie: NetnsCookie,
}

impl Namespace {
    /// The agent's own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// That of a process.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::open(&Path::new("/proc").join(pid.to_string()).join("ns/net"))
    }

    fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    fn new(handle: File) -> io::Result<Self> {
        let meta = handle.metadata()?;
        let cookie = inside(&handle, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            sys::netns_cookie(&socket)
        })?;
        Ok(Self {
            handle,
            id: NamespaceId(meta.dev(), meta.ino()),
            cookie,
        })
    }

    /// What tells it apart for user space.
    #[must_use]
    pub const fn id(&self) -> NamespaceId {
        self.id
    }

    /// What tells it apart for the hooks.
    #[must_use]
    pub const fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Opens the agent's listeners in it. A loopback interface that is down is brought up: a redirected connection goes
    /// over it.
    ///
    /// # Errors
    /// Where not even 127.0.0.1 can be listened on.
    pub fn listen(&self) -> Result<NamespaceListeners, GuardError> {
        let failed = |source| GuardError::Listen {
            address: "127.0.0.1".into(),
            source,
        };
        let listeners = inside(&self.handle, || {
            if let Err(error) = netlink::raise_loopback() {
                tracing::warn!(%error, "the loopback interface of a governed namespace cannot be brought up");
            }
            Listeners::open().map_err(io::Error::other)
        });
        listeners.map(NamespaceListeners).map_err(failed)
    }

    /// A TCP socket that dials out of it, not blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn socket(&self, domain: Domain) -> io::Result<Socket> {
        inside(&self.handle, || {
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
    }

    /// Its descriptor.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Does something in it, on a thread of its own.
    ///
    /// # Errors
    /// Where it cannot be entered, or what was done failed.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        inside(&self.handle, work)
    }
}

/// On a thread that enters the namespace and ends there: no thread of the agent's is ever left in the wrong one.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into());
        let running = thread.spawn_scoped(scope, || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            work()
        })?;
        running
            .join()
            .unwrap_or_else(|_panicked| Err(io::Error::other("the work panicked")))
    })
}

/// Listeners, with their addresses.
type Sockets = Vec<(TcpListener, ListenerAddr)>;
/// Sockets for questions to servers of names, with theirs.
type ForNames = Vec<(UdpSocket, ListenerAddr)>;

/// The agent's listeners in one namespace.
#[derive(Debug)]
pub struct NamespaceListeners(Listeners);

impl NamespaceListeners {
    /// Those that somebody kept for this agent, all of one namespace; `None` where there is none.
    ///
    /// # Errors
    /// Where one of them is no listener.
    pub fn kept(sockets: Vec<TcpListener>) -> io::Result<Option<Self>> {
        Listeners::kept(sockets).map(|listeners| listeners.map(Self))
    }

    /// Their namespace.
    #[must_use]
    pub const fn cookie(&self) -> NetnsCookie {
        self.0.netns
    }

    pub(super) fn entry(&self) -> Listener {
        self.0.entry()
    }

    /// The namespace itself.
    ///
    /// # Errors
    /// Where the kernel does not say (CAP_NET_ADMIN).
    pub fn namespace(&self) -> io::Result<Namespace> {
        let first = self.0.sockets.first().ok_or(io::ErrorKind::NotFound)?;
        Namespace::new(File::from(sys::namespace_of(&first.0)?))
    }

    /// Opens sockets for questions to servers of names where they were not kept. Without them questions stay denied.
    pub fn open_names(&mut self, namespace: &Namespace) {
        if !self.0.dns.is_empty() {
            return;
        }
        let v6 = self.0.sockets.iter().any(|(_, address)| address.0.is_ipv6());
        match inside(&namespace.handle, || {
            Listeners::names(v6).map_err(io::Error::other)
        }) {
            Ok(dns) => self.0.dns = dns,
            Err(error) => tracing::error!(%error, "no names are resolved in a governed namespace"),
        }
    }

    /// The ports that are listened on for connections.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.sockets.iter().map(|(_, address)| address.0.port())
    }

    /// The sockets.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.sockets.iter().map(|(socket, _)| socket.as_fd())
    }

    /// The sockets with their addresses; then those for questions to servers of names.
    pub(in crate::guard) fn into_all(self) -> (Sockets, ForNames) {
        (self.0.sockets, self.0.dns)
    }
}
