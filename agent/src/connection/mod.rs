//! From an accepted socket to a connection with a process, a target and a protocol; TLS; dialling.

mod accept;
mod dial;
pub mod tls;

pub use accept::Connection;
pub use dial::{DialError, dial};
