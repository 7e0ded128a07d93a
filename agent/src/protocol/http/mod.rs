//! HTTP/1.1 and HTTP/2 (RFC 9110, 9112, 9113), plain and inside TLS.
//!
//! `serve` opens a connection (`greet`: TLS with the process; `target`: the connection to the target), `exchange`
//! carries one request: `framing` and `screen` refuse what could be read in two ways, `call` says what it means (with a
//! `dialect`, where the target speaks one), and what comes back is masked by `answer`, or by `websocket`
//! (with a `conversation`, where the dialect has one). `waiting` tells a
//! process that its request waits, `later` keeps an answer until it is asked for.

mod answer;
mod call;
pub(in crate::protocol) mod coded;
pub mod conversation;
mod descriptors;
pub mod dialect;
mod escapes;
mod exchange;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod greet;
mod inject;
mod kept;
pub mod later;
mod path;
mod pinned;
#[cfg(test)]
mod properties;
mod refusal;
mod screen;
mod serve;
mod shown;
mod sigv4;
mod target;
mod trace;
mod uncoded;
mod uploads;
mod waiting;
mod websocket;

pub use descriptors::{Descriptors, DescriptorsError};
pub use serve::{Legs, serve};
