//! Consent: asked for, given or refused by people, remembered.
//!
//! `ask` is what goes in and comes out, `broker` asks and waits, `store` remembers (also across a restart), `rules` says who may decide what.

mod ask;
mod broker;
mod consent;
mod rules;
mod store;
mod terms;
#[cfg(test)]
mod tests;

pub use ask::{Answer, Ask, Vote, Voter};
pub use broker::{Broker, BrokerError};
pub use consent::{Approver, Consent};
pub use rules::{Rejection, concerns};
pub use store::{Request, RequestState};
pub use terms::{Grant, InvalidTerms, MAX_USES, MAX_WINDOW, Terms};
