//! TLS on both legs: the agent's own authority towards the process, verification towards the target.

mod authority;
mod upstream;

pub use authority::{Authority, Rotated, SubjectName, rotate};
pub use upstream::UpstreamVerifier;

use std::path::PathBuf;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the authority cannot be read or written.
    #[error("the certificate authority's file {path} cannot be used: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {expected}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("a certificate for {name} could not be made: {source}")]
    Leaf {
        /// For whom.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// No root certificate is there to verify a target with.
    #[error(
        "no root certificates were found to verify {target} with: install ca-certificates or set `ca_file` for it"
    )]
    NoRoots {
        /// The target.
        target: String,
    },
    /// The name to verify is no DNS name or address.
    #[error("{name:?} is no name that a certificate can prove: set `server_name` for the target")]
    Name {
        /// The name.
        name: String,
    },
    /// rustls does not accept the settings.
    #[error("TLS settings were not accepted: {0}")]
    Settings(#[from] rustls::Error),
    /// The target's certificate was not accepted, or the handshake broke.
    #[error("the TLS handshake with {name} failed: {source}")]
    Handshake {
        /// The name that was verified.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}
