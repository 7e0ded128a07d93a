//! The valid configuration: what the other rooms read. `load` is the only maker outside tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::telemetry::TelemetryConfig;
use crate::model::{DataClass, IssuerName, Limits, RecordingLevel, Target};

use super::tools::ToolRules;
use super::workloads::{KubernetesConfig, WorkloadConfig};

/// Whether a refusal stops the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refusals refuse.
    Enforce,
    /// Decisions are made and recorded, and what they refuse passes: for trying policies on live traffic. Masking,
    /// recording, credentials, and refusals of what is not understood stay.
    Observe,
}

/// Everything that people configure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether refusals refuse.
    pub mode: Mode,
    /// Issuers of identities; names and issuer URLs are unique.
    pub issuers: Vec<IssuerConfig>,
    /// Targets; names are unique, and so is each address and port.
    pub targets: Vec<TargetConfig>,
    /// Networks that the kernel decides about, before any policy.
    pub networks: Vec<NetworkRule>,
    /// What `interdict serve` governs; names are unique.
    pub workloads: Vec<WorkloadConfig>,
    /// Where pods are asked for; there whenever a workload selects pods.
    pub kubernetes: Option<KubernetesConfig>,
    /// Who may connect to governed processes from outside.
    pub inbound: Vec<InboundRule>,
    /// Questions to servers of names.
    pub dns: DnsConfig,
    /// Records.
    pub audit: AuditConfig,
    /// Approvals.
    pub approval: ApprovalConfig,
    /// Masking.
    pub masking: MaskingConfig,
    /// Bounds on every operation; a policy may set narrower ones.
    pub limits: Limits,
    /// Health and figures for monitoring.
    pub telemetry: TelemetryConfig,
    /// Unix sockets of others.
    pub unix: UnixConfig,
    /// A directory of policies in place of the shipped ones.
    pub policies: Option<PathBuf>,
    /// Where keys, records and pending approvals live: `/var/lib/interdict` unless configured.
    pub state_dir: PathBuf,
    /// Whom the proxy runs as; `None`: the user `interdict`, or a reserved number.
    pub agent_user: Option<String>,
}

/// Unix sockets of processes outside the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixConfig {
    /// Those that the command may use: paths as their owners bound them, or `@name` for abstract ones.
    pub allow: Vec<String>,
    /// Paths that it does not see, whatever the kernel can deny; `*` stands for one part.
    pub hide: Vec<PathBuf>,
}

/// What the kernel does with connections to a network, before the agent sees anything of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkVerdict {
    /// To the agent, as anything without a rule: an exception within a wider network.
    Redirect,
    /// As it is, TCP and UDP: not judged and not recorded.
    Direct,
    /// Not at all, and recorded.
    Deny,
}

/// A network that the kernel decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRule {
    /// Its address; no bit beyond the prefix is set.
    pub ip: std::net::IpAddr,
    /// The length of its prefix.
    pub bits: u8,
    /// The port; `None` for any.
    pub port: Option<u16>,
    /// What is done.
    pub verdict: NetworkVerdict,
}

/// Who may connect to governed processes from outside; whoever is on this host always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundRule {
    /// The network of the other side; no bit beyond the prefix is set.
    pub ip: std::net::IpAddr,
    /// The length of its prefix.
    pub bits: u8,
    /// The process's port; `None` for any.
    pub port: Option<u16>,
}

/// Questions to servers of names, beside what policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Types of records that may be asked for, of those that the agent can carry.
    pub types: Vec<String>,
    /// Longest name, in bytes as written.
    pub max_name: usize,
    /// Longest part between dots.
    pub max_label: usize,
    /// Bits of entropy a character, in hundredths, that a part of 20 characters or more may have.
    pub max_entropy: u32,
    /// Different names under one domain (of at least two parts) within a minute.
    pub names_per_domain: usize,
    /// Questions of a run within a second.
    pub per_second: u32,
}

/// An OIDC issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// The name in records and policies.
    pub name: IssuerName,
    /// The exact `iss` claim, a URL.
    pub issuer: String,
    /// Accepted `aud` claims; at least one.
    pub audiences: Vec<String>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Accepted signature algorithms, by their JWA names; asymmetric ones only; at least one.
    pub algorithms: Vec<String>,
    /// The claim that holds groups, as a path of claim names (`["realm_access", "roles"]`).
    pub groups_claim: Vec<String>,
    /// The claim that names the subject: `sub` unless configured.
    pub subject_claim: String,
    /// Allowed difference of clocks.
    pub skew: Duration,
    /// A CA for the issuer's own TLS, beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `ISSUER/.well-known/openid-configuration` names the key set.
    Discovery,
    /// A JWKS at a URL (`https`, or `http` on loopback).
    Url(String),
    /// A JWKS in a file, re-read when it changes.
    File(PathBuf),
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// What policies and records see.
    pub target: Target,
    /// Destinations that are this target.
    pub addresses: Vec<TargetAddress>,
    /// How its certificate is verified.
    pub tls: UpstreamTls,
    /// The real credential; `None` where the target needs none.
    pub credential: Option<CredentialConfig>,
    /// Columns of known classes.
    pub columns: Vec<ColumnClass>,
    /// How much of each operation is kept.
    pub recording: RecordingLevel,
    /// At the level `full`: how many bytes of a request, and of its answer, are kept.
    pub recording_limit: u64,
    /// Whether refusals refuse; `None` is the agent's mode.
    pub mode: Option<Mode>,
    /// What happens when the disk of the log is nearly full.
    pub when_full: WhenFull,
    /// What happens to tools that are new or changed, where it speaks MCP.
    pub tools: ToolRules,
    /// Further settings of the agent's TLS with it.
    pub upstream: UpstreamSettings,
    /// Bounds and choices of HTTP.
    pub http: HttpSettings,
}

/// Settings of TLS with a target, beside how its certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamSettings {
    /// What the agent proves itself with, where the target asks.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether TLS 1.2 is not enough.
    pub only_tls13: bool,
}

/// The agent's own certificate towards a target: PEM files, read when the agent starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and behind it those that lead to its authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Bounds and choices of one target that is spoken to in HTTP; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Largest body of a request: it is held and judged as a whole.
    pub max_body: usize,
    /// Largest body of an answer, as the process would see it; `None`: any.
    pub max_answer: Option<u64>,
    /// Largest head of a request or an answer.
    pub max_header: usize,
    /// Requests of one HTTP/2 connection at the same time.
    pub max_streams: u32,
    /// What happens to requests whose bodies are larger.
    pub uploads: Uploads,
    /// The most that is sent of a body that is not read.
    pub max_upload: u64,
    /// What happens to clients that trust only certificates of the target's own.
    pub pinned: Pinned,
    /// What happens to answers that no detector reads.
    pub unreadable: Unreadable,
    /// What messages of gRPC mean: a serialized `google.protobuf.FileDescriptorSet`, read when the agent starts and with each
    /// new configuration.
    pub descriptor_set: Option<PathBuf>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_body: 16 * 1024 * 1024,
            max_answer: None,
            max_header: 64 * 1024,
            max_streams: 100,
            uploads: Uploads::Collect,
            max_upload: 10 << 30,
            pinned: Pinned::Block,
            unreadable: Unreadable::Pass,
            descriptor_set: None,
        }
    }
}

/// What happens to requests whose bodies are larger than is held and judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uploads {
    /// They are refused.
    #[default]
    Collect,
    /// They are judged by their heads and sent on in pieces, where no policy asks what is in the body.
    Stream,
}

/// What happens to answers in formats that no detector reads: pictures, archives, programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unreadable {
    /// They go on, and the record says that they were not looked into: packages and pictures are downloaded all day.
    #[default]
    Pass,
    /// They are withheld.
    Refuse,
}

/// What happens to clients that do not accept the agent's certificates because they look for the target's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pinned {
    /// Their connections fail.
    #[default]
    Block,
    /// Once one has failed, those to the same name go to the target as they are: judged as an opaque connection, counted,
    /// and neither inspected nor masked.
    Pass,
}

/// What happens to new operations when the disk of the log is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// They are refused.
    #[default]
    Refuse,
    /// They go on, recorded without statement and parameters, as long as anything is free; unless a policy wants more recorded.
    Metadata,
}

/// A destination: the host of `--host` as the process writes it, and the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetAddress {
    /// A name (resolved at load and again every minute) or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// How the agent protects and verifies its own connection to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTls {
    /// TLS is required; chain and name are verified against the system's roots and `ca_file`.
    Verify {
        /// A CA beside the system's roots.
        ca_file: Option<PathBuf>,
        /// The name to verify; the host of the target's first address unless configured.
        server_name: Option<String>,
    },
    /// No TLS. Accepted by the configuration for loopback addresses only.
    Disabled,
}

/// The real credential for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialConfig {
    /// Where the target expects it.
    pub place: CredentialPlace,
    /// The real user; empty where the place has none.
    pub user: String,
    /// Where its password comes from.
    pub password: SecretSourceConfig,
    /// A password that the process may be given in its place, for clients that insist on SCRAM (for instance with
    /// `channel_binding=require`). `None`: any password is accepted and dropped.
    pub placeholder: Option<String>,
}

/// Where a target expects a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialPlace {
    /// The protocol's own log-in.
    LogIn,
    /// HTTP: `Authorization: Bearer SECRET`.
    Bearer,
    /// HTTP: `Authorization: Basic …` with user and secret.
    Basic,
    /// HTTP: a header field of this name (lower case) that holds the secret alone.
    Header(String),
    /// HTTP: a parameter of this name in the query.
    Query(String),
    /// HTTP: AWS Signature Version 4 with the user as access key and the password as its secret.
    SigV4 {
        /// The region, such as `eu-central-1`.
        region: String,
        /// The service as it is named in signatures, such as `s3`.
        service: String,
        /// The file of the token that belongs to a key for some time.
        session_token: Option<PathBuf>,
    },
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSourceConfig {
    /// The first line of a file, without its line end; re-read when the file changes.
    File(PathBuf),
    /// An environment variable of the agent; removed from the governed process's environment.
    Env(String),
}

/// A column whose class is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnClass {
    /// The schema; `public` unless written.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// Its class.
    pub class: DataClass,
}

/// Records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where segments, index and key live: `STATE_DIR/audit` unless configured.
    pub dir: PathBuf,
    /// A segment is sealed at this size in bytes…
    pub segment_bytes: u64,
    /// …or at this age.
    pub segment_age: Duration,
    /// Below this much free space (bytes) new operations are refused.
    pub min_free_bytes: u64,
    /// Where records are streamed.
    pub clickhouse: Option<ClickHouseConfig>,
}

/// A ClickHouse server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickHouseConfig {
    /// `http://` or `https://`.
    pub url: String,
    /// The database: `interdict` unless configured.
    pub database: String,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Option<SecretSourceConfig>,
    /// Largest batch, in records.
    pub batch_records: u32,
    /// Longest time that a record waits for its batch.
    pub batch_age: Duration,
    /// Reduced schema and no schema validation, for servers before 20.
    pub legacy: bool,
}

/// Approvals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalConfig {
    /// How long an operation waits for consent before the process gets a ticket, unless a policy says `@hold`.
    pub hold: Duration,
    /// How long a request can be decided.
    pub request_ttl: Duration,
    /// How long a grant can be used.
    pub grant_ttl: Duration,
    /// Where people approve, for links that clients are shown; `{ticket}` stands for the ticket.
    pub url: Option<String>,
}

/// Masking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MaskingConfig {
    /// A file in place of the shipped `classes.toml`.
    pub classes: Option<PathBuf>,
    /// Strategy by class in place of the file's.
    pub overrides: BTreeMap<DataClass, String>,
}
