//! The policy decision point: Cedar. Sees operations, never bytes; reads no clock and no file once loaded.

mod annotations;
mod decision;
mod engine;
mod load;
mod question;
#[cfg(test)]
mod tests;

pub use decision::{Allowed, ApprovalNeed, Decision, Denial, DenialCause};
pub use engine::{Engine, Policies};
pub use load::{PolicyErrors, PolicyMistake, PolicySource, from_directory, shipped};
