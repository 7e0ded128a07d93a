//! The Model Context Protocol over HTTP: Streamable HTTP of both eras (with `initialize` and sessions up to revision
//! 2025-11-25, without from 2026-07-28).
//!
//! `message` reads JSON-RPC, `call` says what a message asks for, `headers` holds the mirrored fields against it,
//! `offers` leaves out of lists what nobody could be permitted, `look` says what that is, `refusal` answers in the protocol's words, `tasks` remembers calls that wait as tasks and
//! `polled` carries what is asked of them, `server` is the dialect that the HTTP relay asks. What decides is always the parsed body; `clientInfo` and tool annotations are claims, and no input of any decision.

mod call;
mod client;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod headers;
mod ladder;
mod look;
mod message;
mod offers;
mod pins;
mod polled;
mod refusal;
mod requests;
mod server;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

pub use pins::Pins;
pub use server::McpServer;
