//! From an accepted socket to a connection with a process and a target; TLS; dialling.

mod accept;
mod ahead;
mod datagram;
mod dial;
mod stream;
mod targets;
pub mod tls;

pub use accept::{Accepted, Acceptor, Connection, reset};
pub use ahead::Ahead;
pub use datagram::{DatagramListener, Question};
pub use dial::{DialError, dial, dial_through};
pub use stream::{Records, Stream};
pub use targets::{HostDns, Targets};
