//! The configuration file as people write it: every value with its place, nothing checked but its shape.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::telemetry::RawTelemetry;
use super::tools::RawTools;
use super::workloads::{RawKubernetes, RawWorkload};

pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub mode: Option<Text>,
    pub policies: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    #[serde(default)]
    pub issuer: Vec<RawIssuer>,
    #[serde(default)]
    pub target: Vec<RawTarget>,
    #[serde(default)]
    pub network: Vec<RawNetwork>,
    #[serde(default)]
    pub workload: Vec<RawWorkload>,
    pub kubernetes: Option<RawKubernetes>,
    pub inbound: Option<RawInbound>,
    pub dns: Option<RawDns>,
    pub audit: Option<RawAudit>,
    pub approval: Option<RawApproval>,
    pub masking: Option<RawMasking>,
    pub limits: Option<RawLimits>,
    pub telemetry: Option<RawTelemetry>,
    pub unix: Option<RawUnix>,
    pub agent: Option<RawAgent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    pub user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnix {
    #[serde(default)]
    pub allow: Vec<Text>,
    #[serde(default)]
    pub hide: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub prefix: Text,
    pub ports: Option<Spanned<Vec<u16>>>,
    pub verdict: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInbound {
    #[serde(default)]
    pub allow: Vec<RawAllow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAllow {
    pub from: Spanned<Vec<Text>>,
    pub ports: Option<Spanned<Vec<u16>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    pub types: Option<Spanned<Vec<Text>>>,
    pub max_name: Option<Spanned<usize>>,
    pub max_label: Option<Spanned<usize>>,
    pub max_entropy: Option<Spanned<u32>>,
    pub names_per_domain: Option<Spanned<usize>>,
    pub per_second: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub max_rows: Option<u64>,
    pub max_time: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    pub name: Text,
    pub issuer: Text,
    pub audience: Spanned<Vec<String>>,
    pub jwks_file: Option<PathBuf>,
    pub jwks_url: Option<Text>,
    pub algorithms: Option<Vec<Text>>,
    pub groups_claim: Option<Spanned<OneOrMany>>,
    pub subject_claim: Option<Text>,
    pub skew: Option<Text>,
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub name: Text,
    pub protocol: Text,
    pub addresses: Spanned<Vec<Text>>,
    pub environment: Option<Text>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub tls: Option<Text>,
    pub ca_file: Option<PathBuf>,
    pub server_name: Option<Text>,
    pub tls_min_version: Option<Text>,
    pub client_cert_file: Option<Spanned<PathBuf>>,
    pub client_key_file: Option<Spanned<PathBuf>>,
    pub http: Option<Spanned<RawHttp>>,
    pub recording: Option<Text>,
    pub recording_limit: Option<Text>,
    pub when_full: Option<Text>,
    pub mcp: Option<Spanned<RawTools>>,
    pub mode: Option<Text>,
    pub credential: Option<Spanned<RawCredential>>,
    #[serde(default)]
    pub columns: BTreeMap<Text, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub max_body: Option<Text>,
    pub max_answer: Option<Text>,
    pub max_header: Option<Text>,
    pub max_streams: Option<Spanned<u32>>,
    pub uploads: Option<Text>,
    pub max_upload: Option<Text>,
    pub pinned: Option<Text>,
    pub unreadable: Option<Text>,
    pub descriptor_set: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredential {
    #[serde(rename = "as")]
    pub place: Option<Text>,
    pub name: Option<Text>,
    #[serde(alias = "access_key_id")]
    pub user: Option<Text>,
    pub region: Option<Text>,
    pub service: Option<Text>,
    pub session_token_file: Option<PathBuf>,
    #[serde(alias = "secret_file")]
    pub password_file: Option<PathBuf>,
    #[serde(alias = "secret_env")]
    pub password_env: Option<Text>,
    pub placeholder: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    pub dir: Option<PathBuf>,
    pub segment_bytes: Option<Spanned<u64>>,
    pub segment_age: Option<Text>,
    pub min_free_bytes: Option<u64>,
    pub clickhouse: Option<Spanned<RawClickHouse>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClickHouse {
    pub url: Text,
    pub database: Option<Text>,
    pub user: Option<Text>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<Text>,
    pub batch_records: Option<Spanned<u32>>,
    pub batch_age: Option<Text>,
    #[serde(default)]
    pub legacy: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApproval {
    pub url: Option<Text>,
    pub hold: Option<Text>,
    pub request_ttl: Option<Text>,
    pub grant_ttl: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMasking {
    pub classes: Option<PathBuf>,
    #[serde(default)]
    pub overrides: BTreeMap<Text, Text>,
}
