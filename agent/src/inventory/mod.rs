//! What MCP servers say of their tools, and which of it was accepted: a description is read by a model as if it were the
//! user's word, so one that changes after somebody looked at it is held back until somebody has looked again.
//!
//! `STATE_DIR/mcp-tools.db` (SQLite), shared by the agents of a host and by `interdict mcp tools`.

mod rules;
mod store;
#[cfg(test)]
mod tests;

pub use rules::{Standing, standing};
pub use store::{Inventory, InventoryError, Kept};

/// The file below the state directory.
pub const FILE: &str = "mcp-tools.db";
