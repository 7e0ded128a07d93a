//! The control API on a Unix socket: one JSON object a line, versioned. The socket may be reached by every local user:
//! what authorises is the approver's own token; the local user is recorded.

pub mod client;
mod server;
pub mod wire;

pub use server::{ControlError, ControlRooms, Server, directory};
