//! The protocols that the agent speaks, one folder each.

pub mod opaque;
pub mod postgres;
