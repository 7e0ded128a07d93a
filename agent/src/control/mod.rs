//! The control API on a Unix socket: one JSON object a line, versioned. The socket may be reached by every local user:
//! what authorises is the approver's own token; the local user is recorded.

mod callers;
pub mod client;
pub mod metrics;
mod place;
mod server;
#[cfg(test)]
mod tests;
pub mod wire;

pub use place::{directories, directory, forget};
pub use server::{ControlError, ControlRooms, MetricSource, Server};
