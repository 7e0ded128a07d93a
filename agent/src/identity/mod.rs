//! From a process to the person or service behind it: tokens of several issuers, and when they end; of pods, each one's own.

mod binding;
mod fetch;
mod keys;
mod pod;
#[cfg(test)]
mod tests;
mod token;

pub use binding::{Binding, IdentityChange, TokenSource};
pub use fetch::client_tls;
pub use keys::reachable;
pub use pod::{PodBindings, PodName};
pub use token::{IdentityError, Issuers};
