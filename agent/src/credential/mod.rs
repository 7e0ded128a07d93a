//! Real credentials: fetched when first needed, zeroised, never shown.

mod secret;
mod source;

pub use secret::Secret;
pub use source::{Credential, CredentialError};
