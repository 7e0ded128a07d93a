//! One type for each role that an address plays.

use std::fmt;
use std::net::SocketAddr;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address!(
    /// Where the process meant to connect to, before the kernel redirected it.
    OriginalDst
);
address!(
    /// An address that the agent listens on.
    ListenerAddr
);
address!(
    /// The process's own end of the redirected connection.
    PeerAddr
);

/// The kernel's name for a network namespace (`SO_NETNS_COOKIE`). Opaque; the host's is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

/// Where the agent connects to on behalf of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamAddr {
    /// The address.
    pub address: SocketAddr,
    /// The network namespace to connect from; `None` for the agent's own.
    pub from: Option<NetnsCookie>,
}

impl From<OriginalDst> for UpstreamAddr {
    /// What the process meant, from the agent's own namespace.
    fn from(OriginalDst(address): OriginalDst) -> Self {
        Self { address, from: None }
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What names one redirected connection: its namespace and both ends. A source port alone is not unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The network namespace in which the connection was made.
    pub netns: NetnsCookie,
    /// The process's end.
    pub peer: PeerAddr,
    /// The agent's end.
    pub listener: ListenerAddr,
}
