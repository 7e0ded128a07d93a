//! The protocols that the agent speaks, one folder each.

pub mod dns;
pub mod http;
pub mod llm;
pub mod mcp;
pub mod opaque;
pub mod postgres;
mod told;
