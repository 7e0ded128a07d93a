//! The composition root: builds every room, starts, waits, drains; the only place that wires.

pub mod environment;
pub mod user;
