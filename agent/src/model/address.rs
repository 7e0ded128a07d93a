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
    /// Where the agent connects to on behalf of the process.
    UpstreamAddr
);
address!(
    /// The process's own end of the redirected connection.
    PeerAddr
);

/// The kernel's name for a network namespace (`SO_NETNS_COOKIE`). Opaque; the host's is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

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
