//! What guard and proxy say to each other: one message a packet (unix(7), `SOCK_SEQPACKET`), JSON, bounded and strict, with
//! descriptors beside it. Each side takes the other for hostile: what does not parse ends the link.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Executable, NetnsCookie, OriginalDst, Process};

use super::counters::Counters;
use super::denials::Denial;
use super::flow::Flow;

/// The number of the one workload that a run is.
pub(super) const RUN: u32 = 0;
/// Largest message, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Most addresses in one message.
pub(super) const MAX_ADDRESSES: usize = 1000;
/// Most listeners that are handed over, those for questions for names among them.
pub(super) const MAX_LISTENERS: usize = 32;
/// Most descriptors beside one message.
const MAX_DESCRIPTORS: usize = MAX_LISTENERS;

/// What a denial's hook is called; another name is `any`.
const HOOKS: [&str; 19] = [
    "connect",
    "sendmsg",
    "sock_create",
    "bind",
    "egress",
    "ingress",
    "sock_ops",
    "seccomp",
    "lsm socket_create",
    "lsm unix_stream_connect",
    "lsm unix_may_send",
    "lsm file_receive",
    "lsm ptrace_access_check",
    "lsm task_kill",
    "lsm bpf",
    "lsm file_open",
    "lsm task_alloc",
    "lsm inode_unlink",
    "any",
];

/// Why nothing more is said.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side has ended.
    #[error("it has ended")]
    Ended,
    /// The other side said something that is no message.
    #[error("it said something that is not understood")]
    NotAMessage,
    /// The socket.
    #[error("its socket: {0}")]
    Socket(#[from] io::Error),
}

impl From<rustix::io::Errno> for LinkError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl From<OwnedFd> for Link {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0
    }
}

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// Where no sockets can be had.
    pub fn pair() -> io::Result<(Self, Self)> {
        let kind = SocketType::SEQPACKET;
        let (one, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Another handle of the same end.
    pub(super) fn again(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a message with `descriptors`; waits for room where `wait`, otherwise fails with `WouldBlock`.
    pub(super) fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
        wait: bool,
    ) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
        }
        let flags = if wait {
            SendFlags::NOSIGNAL
        } else {
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT
        };
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            let fits = descriptors.is_empty() || beside.push(SendAncillaryMessage::ScmRights(descriptors));
            if !fits {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
            }
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, flags) {
                Ok(_whole) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(LinkError::Ended),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next message, with at most `most` descriptors; waits for one.
    pub(super) fn receive<M: DeserializeOwned>(&self, most: usize) -> Result<(M, Vec<OwnedFd>), LinkError> {
        // On the heap: threads with small stacks call this. One byte more than allowed is not a message.
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let got = match recvmsg(&self.0, &mut slices, &mut beside, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => got,
                // A reset is told once, before what the other side said last.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut descriptors = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if got.bytes == 0 {
                return Err(LinkError::Ended);
            }
            let cut = got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
            if cut || descriptors.len() > most {
                return Err(LinkError::NotAMessage);
            }
            let bytes = buffer.get(..got.bytes).ok_or(LinkError::NotAMessage)?;
            return Ok((parse(bytes)?, descriptors));
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A message, or nothing: unknown fields, names and trailing bytes are refused.
pub(super) fn parse<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, LinkError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(LinkError::NotAMessage);
    }
    serde_json::from_slice(bytes).map_err(|_unlike| LinkError::NotAMessage)
}

/// What the guard tells the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Told {
    /// Everything is attached. The listeners come beside it, in the order of their addresses.
    Started {
        attached: Vec<String>,
        netns: u64,
        listeners: Vec<SocketAddr>,
        /// Those for questions for names (UDP); behind the listeners.
        names: Vec<SocketAddr>,
    },
    /// Something was denied.
    Denied { denial: Box<WireDenial> },
    /// How many denials were not told, in all.
    Lost { lost: u64 },
    /// Somebody wants the policies read again.
    Reload {},
    /// The last process of the run has ended; nothing more will be denied.
    Ended { status: i32 },
}

/// What the proxy tells the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Said {
    /// It is alive: the heartbeat may go on.
    Alive {},
    /// The first records are on the disk, and the listeners are served: the command can start.
    Ready {},
    /// It cannot serve; why.
    Failed { message: String },
    /// The last record is on the disk.
    Done {},
}

/// What the proxy asks the guard; each is answered before the next. The guard numbers workloads; a run is number 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// What the connection of the socket beside it was meant for; `peer` as `accept` said.
    Flow { workload: u32, peer: SocketAddr },
    /// What a datagram was meant for that came to the socket beside it; `peer` as `recvfrom` said, `id` as its first two
    /// bytes say.
    Datagram {
        workload: u32,
        peer: SocketAddr,
        id: u16,
    },
    /// A file that the configuration names.
    Open { path: String },
    /// The kernel's counters.
    Counters { workload: u32 },
    /// The addresses of targets; `more` follow.
    Targets {
        workload: u32,
        addresses: Vec<SocketAddr>,
        more: bool,
    },
    /// A socket in a workload's network namespace that connects to where a process there wanted to.
    Dial { netns: u64, address: SocketAddr },
}

/// The guard's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    Flow {
        original: SocketAddr,
        process: Box<WireProcess>,
    },
    NoFlow {},
    /// The file comes beside it.
    Opened {},
    /// The socket comes beside it, connecting.
    Dialled {},
    NotOpened {
        errno: i32,
    },
    Counters {
        denials_lost: u64,
        flows_full: u64,
        redirected: u64,
        datagrams_full: u64,
    },
    Done {},
    Refused {
        reason: String,
    },
}

/// `Process` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireProcess {
    tgid: u32,
    start_ns: u64,
    uid: u32,
    gid: u32,
    device: u64,
    inode: u64,
    path: String,
    cgroup: u64,
    netns: u64,
    comm: String,
}

/// `Denial` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireDenial {
    hook: String,
    process: WireProcess,
    original: Option<SocketAddr>,
    reason: String,
}

impl From<Process> for WireProcess {
    fn from(process: Process) -> Self {
        let Process {
            tgid,
            start_ns,
            uid,
            gid,
            exe: Executable { device, inode, path },
            cgroup,
            netns: NetnsCookie(netns),
            comm,
        } = process;
        Self {
            tgid,
            start_ns,
            uid,
            gid,
            device,
            inode,
            path,
            cgroup,
            netns,
            comm,
        }
    }
}

impl From<WireProcess> for Process {
    fn from(process: WireProcess) -> Self {
        let WireProcess {
            tgid,
            start_ns,
            uid,
            gid,
            device,
            inode,
            path,
            cgroup,
            netns,
            comm,
        } = process;
        Self {
            tgid,
            start_ns,
            uid,
            gid,
            exe: Executable { device, inode, path },
            cgroup,
            netns: NetnsCookie(netns),
            comm,
        }
    }
}

impl From<Denial> for WireDenial {
    fn from(denial: Denial) -> Self {
        let Denial {
            hook,
            process,
            original,
            reason,
        } = denial;
        Self {
            hook: hook.to_owned(),
            process: process.into(),
            original: original.map(|OriginalDst(address)| address),
            reason,
        }
    }
}

impl From<WireDenial> for Denial {
    fn from(denial: WireDenial) -> Self {
        let WireDenial {
            hook,
            process,
            original,
            reason,
        } = denial;
        Self {
            hook: HOOKS.into_iter().find(|known| *known == hook).unwrap_or("any"),
            process: process.into(),
            original: original.map(OriginalDst),
            reason,
        }
    }
}

impl From<Flow> for Answer {
    fn from(flow: Flow) -> Self {
        let Flow { original, process } = flow;
        Self::Flow {
            original: original.0,
            process: Box::new(process.into()),
        }
    }
}

impl From<Counters> for Answer {
    fn from(counters: Counters) -> Self {
        let Counters {
            denials_lost,
            flows_full,
            redirected,
            datagrams_full,
        } = counters;
        Self::Counters {
            denials_lost,
            flows_full,
            redirected,
            datagrams_full,
        }
    }
}

/// A promise for the fuzzer: bytes are a message of either side or none, and a message is written as it was read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn promise(data: &[u8]) {
    fn again<M: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = parse::<M>(data) {
            let written = serde_json::to_vec(&message).unwrap_or_default();
            assert_eq!(parse::<M>(&written).ok(), Some(message));
        }
    }
    again::<Told>(data);
    again::<Said>(data);
    again::<Ask>(data);
    again::<Answer>(data);
    super::service::promise(data);
}
