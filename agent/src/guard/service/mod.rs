//! The link between the guard and the proxy of `interdict serve`: what the guard hands over and tells (`server`), and what the
//! proxy makes of it (`client`). A proxy is the guard's child, or a unit of its own that is let in (`admit`). Questions and answers are those of a run (`guard/link`), by the number of the workload.

mod admit;
mod client;
mod server;
mod wire;
#[cfg(test)]
mod wire_tests;

pub use admit::Expected;
pub use client::{ServiceLink, ServiceOrder, WorkloadTables};
pub use server::{Begin, Beginning, Door, GovernedPod, ServiceHeard, ServiceProxy};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::promise;
