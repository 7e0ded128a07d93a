//! PostgreSQL, frontend/backend protocol 3 (PostgreSQL manual, chapter "Frontend/Backend Protocol").
//!
//! `serve` opens a session (`startup`, `challenge`, `login`), `relay` carries it: frames of the process become units (`unit`, `names`)
//! that are judged by what they do in this session (`requests`, `meaning`), frames of the target become masked answers
//! (`answers`, `endings`, `response`, `diagnostics`).

mod answers;
mod cancel;
mod catalogue;
mod challenge;
mod columns;
mod copied;
mod diagnostics;
mod endings;
mod expect;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kept;
mod learn;
mod login;
mod meaning;
mod names;
mod refusal;
mod relay;
mod requests;
mod response;
mod scram;
mod serve;
pub mod sql;
mod startup;
mod time_limit;
mod unit;

pub use cancel::CancelKeys;
pub use catalogue::Catalogues;
pub use serve::{Legs, serve};
