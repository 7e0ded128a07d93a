//! Records: durable before anything is forwarded, chained, sealed, streamed.

mod event;
mod log;
mod outcome;

pub use event::{ApprovalStep, Event, JudgedAs, OperationEvent, Scene};
pub use log::{AuditError, AuditLog, OutcomeSlot, Receipt};
pub use outcome::OutcomeGuard;
