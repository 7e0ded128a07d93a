//! What people configure: TOML as written (`raw`) becomes a valid `Config`, or every mistake with its line and what
//! to write instead.

mod glob;
mod http;
mod issuers;
mod load;
#[cfg(test)]
mod mistakes_tests;
mod network;
mod origin;
mod place;
mod raw;
mod schema;
#[cfg(test)]
mod schema_tests;
mod shape;
mod telemetry;
#[cfg(test)]
mod tests;
mod tools;
mod types;
mod unix;
mod value;
mod words;
mod workloads;

pub use glob::Glob;
pub use load::{ConfigErrors, Mistake, defaults, load, parse};
pub use origin::{Setting, settings};
pub use schema::schema;
pub use telemetry::{Listen, TelemetryConfig, TracesConfig};
pub use tools::{ChangedTools, NewTools, ToolRules};
pub use types::{
    ApprovalConfig, AuditConfig, ClickHouseConfig, ClientCertificate, ColumnClass, Config, CredentialConfig,
    CredentialPlace, DnsConfig, HttpSettings, InboundRule, IssuerConfig, KeySource, MaskingConfig, Mode,
    NetworkRule, NetworkVerdict, Pinned, SecretSourceConfig, TargetAddress, TargetConfig, UnixConfig,
    Unreadable, Uploads, UpstreamSettings, UpstreamTls, WhenFull,
};
pub use unix::DAEMONS;
pub use value::fetchable;
pub use workloads::{
    DialFrom, KubernetesConfig, Label, OnAttach, Selector, WorkloadConfig, WorkloadIdentity,
};
