//! Records: durable before anything is forwarded, chained, sealed.
//!
//! `log` takes events, `record` gives them their stored form, which `fields` writes, `queue` is where they wait, `space` looks at the disk, `writer` makes them durable (one `fdatasync` for all that
//! wait), `chain` and `seal` make changes visible, `verify` looks for them, `read` reads records back,
//! `ship` streams them to ClickHouse, `verify_sink` compares what is there. `columns` lists what a record has, `tables` makes ClickHouse's from it;
//! `index` and `search` find sessions again. `spans` makes what distributed traces get from the same events.

mod chain;
mod columns;
mod digests;
mod event;
mod fields;
mod index;
#[cfg(test)]
mod index_tests;
mod log;
mod outcome;
mod queue;
mod read;
mod record;
mod seal;
mod search;
mod segment;
mod ship;
mod sink;
mod space;
mod spans;
#[cfg(test)]
mod spans_tests;
mod tables;
mod tally;
#[cfg(test)]
mod tests;
mod verify;
mod verify_sink;
mod writer;

pub use event::{Actor, ApprovalStep, Event, JudgedAs, OperationEvent, Scene, Stored};
pub use index::{Index, IndexError};
pub use log::{AuditError, AuditLog, OutcomeSlot, Receipt};
pub use outcome::OutcomeGuard;
pub use read::{ReadError, read_all};
pub use record::Record;
pub use search::{SessionLine, Wanted};
pub use ship::{drain, ship};
pub use sink::{Lag, lag};
pub use space::NearlyFull;
pub use spans::{Attribute, Span, SpanValue};
pub use tables::clickhouse_tables;
pub use tally::{Counted, Labels, Measures};
pub use verify::{Finding, Verification, verify};
pub use verify_sink::{Auditor, SinkVerification, verify_sink};
