//! What people configure: TOML as written (`raw`) becomes a valid `Config`, or every mistake with its line and what
//! to write instead.

mod types;

pub use types::{
    ApprovalConfig, AuditConfig, ClickHouseConfig, ColumnClass, Config, CredentialConfig, IssuerConfig,
    KeySource, MaskingConfig, Mode, SecretSourceConfig, TargetAddress, TargetConfig, UpstreamTls,
};
