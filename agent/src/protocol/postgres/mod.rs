//! PostgreSQL, frontend/backend protocol 3 (PostgreSQL manual, chapter "Frontend/Backend Protocol").
//!
//! `serve` opens a session (`startup`, `login`), `relay` carries it: frames of the process become units (`unit`, `names`)
//! that are judged, frames of the target become masked answers (`answers`, `response`).

mod answers;
mod cancel;
mod catalogue;
mod columns;
mod expect;
mod frame;
mod login;
mod names;
mod refusal;
mod relay;
mod requests;
mod response;
mod serve;
pub mod sql;
mod startup;
mod unit;

pub use cancel::CancelKeys;
pub use catalogue::Catalogues;
pub use serve::{Legs, serve};
