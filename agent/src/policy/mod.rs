//! The policy decision point: Cedar. Sees operations, never bytes; reads no clock and no file once loaded.

mod decision;
mod engine;

pub use decision::{Allowed, ApprovalNeed, Decision, Denial, DenialCause};
pub use engine::{Engine, Policies};
