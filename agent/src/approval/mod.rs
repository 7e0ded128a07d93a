//! Consent: asked for, given or refused by people, remembered.

mod broker;
mod consent;

pub use broker::{Answer, Ask, Broker, BrokerError};
pub use consent::{Approver, Consent};
