//! Interdict: one enforcement point under MCP servers and AI agents.
//!
//! The modules are in reading order: the vocabulary first, then the way of a connection (see ARCHITECTURE.md at the
//! top of the repository), then what people touch.

pub mod clock;
pub mod files;
pub mod task;
pub mod telemetry;

pub mod json;
pub mod model;

pub mod config;

pub mod guard;

pub mod connection;

pub mod identity;

pub mod approval;
pub mod inventory;
pub mod policy;

pub mod credential;
pub mod mask;

pub mod audit;

pub mod session;

pub mod protocol;

pub mod control;

pub mod app;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
