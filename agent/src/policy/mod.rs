//! The policy decision point: Cedar. Sees operations, never bytes; reads no clock and no file once loaded.

mod annotations;
mod budget;
mod case_budget;
mod case_names;
mod cases;
mod decision;
mod engine;
mod foresee;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod load;
#[cfg(any(test, feature = "fuzzing"))]
mod nobody;
mod question;
mod rehearse;
#[cfg(test)]
mod tests;
mod trial;
mod typed;
mod unread;

pub use cases::{Case, CaseMistake, parse as parse_cases, shipped_cases};
pub use decision::{Allowed, ApprovalNeed, Decision, Denial, DenialCause};
pub use engine::{Engine, Policies};
pub use load::{PolicyErrors, PolicyMistake, PolicySource, from_directory, shipped};
pub use rehearse::{Answer, Rehearsal};
pub use trial::{Difference, Trial, untested};
pub use typed::tools_schema;
