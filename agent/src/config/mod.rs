//! What people configure: TOML as written (`raw`) becomes a valid `Config`, or every mistake with its line and what
//! to write instead.

mod issuers;
mod load;
mod place;
mod raw;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use load::{ConfigErrors, Mistake, defaults, load, parse};
pub use types::{
    ApprovalConfig, AuditConfig, ClickHouseConfig, ColumnClass, Config, CredentialConfig, CredentialPlace,
    IssuerConfig, KeySource, MaskingConfig, Mode, NetworkRule, NetworkVerdict, SecretSourceConfig,
    TargetAddress, TargetConfig, UpstreamTls, WhenFull,
};
pub use value::fetchable;
