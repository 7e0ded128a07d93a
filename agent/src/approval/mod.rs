//! Consent: asked for, given or refused by people, remembered.
//!
//! `broker` asks and waits, `store` remembers (also across a restart), `rules` says who may decide what.

mod broker;
mod consent;
mod rules;
mod store;
#[cfg(test)]
mod tests;

pub use broker::{Answer, Ask, Broker, BrokerError, Vote, Voter};
pub use consent::{Approver, Consent};
pub use rules::{Rejection, concerns};
pub use store::{Request, RequestState};
