//! From the file to a valid configuration, or to all of its mistakes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;

use crate::model::{self, DataClass, Environment, Limits, Protocol, RecordingLevel, Target, TargetName};

use super::place::{Scope, credential_place};
use super::raw::{
    RawApproval, RawAudit, RawClickHouse, RawConfig, RawCredential, RawLimits, RawMasking, RawNetwork,
    RawTarget, Text,
};
use super::shape::{NOWHERE, mend};
use super::types::{
    ApprovalConfig, AuditConfig, ClickHouseConfig, ClientCertificate, ColumnClass, Config, CredentialConfig,
    MaskingConfig, Mode, NetworkRule, NetworkVerdict, SecretSourceConfig, TargetAddress, TargetConfig,
    UpstreamSettings, UpstreamTls,
};
use super::value;
use super::words::{RECORDING_LIMIT, mode_of, protocol_of, recording_limit_of, recording_of, when_full_of};

/// Where keys, records and pending approvals live unless configured.
const STATE_DIR: &str = "/var/lib/interdict";
/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub what: String,
}

/// Every mistake of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub file: PathBuf,
    /// Its mistakes, in the order of their lines; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.mistakes.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            match mistake.line {
                Some(line) => write!(f, "{end}{}:{line}: {}", self.file.display(), mistake.what)?,
                None => write!(f, "{end}{}: {}", self.file.display(), mistake.what)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads and checks a configuration file. Relative paths in it are relative to its directory.
///
/// # Errors
/// All mistakes at once, each with its line and what to write instead.
pub fn load(file: &Path) -> Result<Config, ConfigErrors> {
    let text = std::fs::read_to_string(file).map_err(|error| ConfigErrors {
        file: file.to_owned(),
        mistakes: vec![Mistake {
            line: None,
            what: format!("cannot be read: {error}"),
        }],
    })?;
    parse(&text, file)
}

/// The configuration without a file: no issuers, no targets, enforcing.
#[must_use]
pub fn defaults() -> Config {
    Reader {
        text: "",
        dir: PathBuf::new(),
        mistakes: Vec::new(),
    }
    .config(RawConfig {
        mode: None,
        policies: None,
        state_dir: None,
        issuer: Vec::new(),
        target: Vec::new(),
        network: Vec::new(),
        workload: Vec::new(),
        kubernetes: None,
        inbound: None,
        dns: None,
        audit: None,
        approval: None,
        masking: None,
        limits: None,
        telemetry: None,
        unix: None,
        agent: None,
    })
}

/// Checks the text of a configuration file.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
    let dir = file.parent().map(Path::to_owned).unwrap_or_default();
    let mut reader = Reader {
        text,
        dir,
        mistakes: Vec::new(),
    };
    let config = reader.read();
    let mut mistakes = reader.mistakes;
    mistakes.sort_by_key(|mistake| mistake.line);
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(ConfigErrors {
            file: file.to_owned(),
            mistakes,
        }),
    }
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Where systemd puts the credentials of a unit, and where those of the agent's own are for whoever looks from outside.
const CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "/run/credentials/interdict.service");

/// A path of a file in `dir`: relative ones are relative to it, `${CREDENTIALS_DIRECTORY}/…` is that of the service.
pub(super) fn resolved(dir: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix("${CREDENTIALS_DIRECTORY}") {
        Ok(rest) => std::env::var_os(CREDENTIALS.0)
            .map_or_else(|| PathBuf::from(CREDENTIALS.1), PathBuf::from)
            .join(rest),
        // Joining an absolute one gives that one.
        Err(_elsewhere) => dir.join(path),
    }
}

/// Collects mistakes while it converts; what is wrong gets a stand-in that never leaves this room.
pub(super) struct Reader<'a> {
    text: &'a str,
    dir: PathBuf,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    pub(super) fn wrong(&mut self, span: Range<usize>, what: impl Into<String>) {
        // What stands in for a missing value is wrong by design: that it is missing was said.
        if span == NOWHERE {
            return;
        }
        let line = Some(line_of(self.text, span.start));
        self.mistakes.push(Mistake {
            line,
            what: what.into(),
        });
    }

    /// The file as written, and what can be read of it where its shape is wrong.
    fn read(&mut self) -> Option<Config> {
        let (mut document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.wrong(span, format!("this is not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return None;
        }
        let raw = match toml::from_str::<RawConfig>(self.text) {
            Ok(raw) => raw,
            Err(first) => {
                for (span, what) in mend(&mut document) {
                    self.wrong(span, what);
                }
                let mended = RawConfig::deserialize(toml::Deserializer::from(document));
                if mended.is_err() || self.mistakes.is_empty() {
                    self.wrong(first.span().unwrap_or(0..0), first.message());
                }
                mended.ok()?
            }
        };
        Some(self.config(raw))
    }

    pub(super) fn take<T>(&mut self, text: &Text, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match read(text.get_ref()) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong(text.span(), what);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        let read = |t: &str| model::duration(t).map_err(|error| error.to_string());
        text.and_then(|t| self.take(t, read)).unwrap_or(default)
    }

    pub(super) fn path(&self, path: PathBuf) -> PathBuf {
        resolved(&self.dir, &path)
    }

    fn config(&mut self, raw: RawConfig) -> Config {
        let RawConfig {
            mode,
            policies,
            state_dir,
            issuer,
            target,
            network,
            workload,
            kubernetes,
            inbound,
            dns,
            audit,
            approval,
            masking,
            limits,
            telemetry,
            unix,
            agent,
        } = raw;
        let state_dir = state_dir.map_or_else(|| PathBuf::from(STATE_DIR), |dir| self.path(dir));
        let issuers = self.issuers(issuer);
        let targets = self.targets(target);
        let networks = network.into_iter().flat_map(|n| self.network(n)).collect();
        let workloads = self.workloads(workload, kubernetes.is_some());
        let kubernetes = kubernetes.and_then(|k| self.kubernetes(k));
        Config {
            mode: mode
                .as_ref()
                .and_then(|t| self.take(t, mode_of))
                .unwrap_or(Mode::Enforce),
            issuers,
            targets,
            networks,
            workloads,
            kubernetes,
            inbound: self.inbound(inbound.unwrap_or_default()),
            dns: self.dns(&dns.unwrap_or_default()),
            audit: self.audit(audit.unwrap_or_default(), &state_dir),
            approval: self.approval(&approval.unwrap_or_default()),
            masking: self.masking(masking.unwrap_or_default()),
            limits: self.limits(&limits.unwrap_or_default()),
            telemetry: self.telemetry(telemetry.unwrap_or_default()),
            unix: self.unix(&unix.unwrap_or_default()),
            policies: policies.map(|dir| self.path(dir)),
            state_dir,
            agent_user: agent.and_then(|agent| agent.user),
        }
    }

    /// One rule for each port.
    fn network(&mut self, raw: RawNetwork) -> Vec<NetworkRule> {
        let RawNetwork {
            prefix,
            ports,
            verdict,
        } = raw;
        let span = prefix.span();
        let network = self.take(&prefix, value::prefix);
        let verdict = self.take(&verdict, value::network_verdict);
        let ports: Vec<Option<u16>> = match &ports {
            None => vec![None],
            Some(listed) => listed.get_ref().iter().copied().map(Some).collect(),
        };
        if ports.is_empty() || ports.contains(&Some(0)) {
            self.wrong(
                span.clone(),
                "`ports` lists ports from 1; leave it out for any port",
            );
        }
        let (Some((ip, bits)), Some(verdict)) = (network, verdict) else {
            return Vec::new();
        };
        if bits == 0 && verdict == NetworkVerdict::Direct {
            self.wrong(
                span,
                "the whole internet cannot be direct: nothing would be governed. Name the networks",
            );
        }
        let rule = |port| NetworkRule {
            ip,
            bits,
            port,
            verdict,
        };
        ports.into_iter().map(rule).collect()
    }

    fn targets(&mut self, raw: Vec<RawTarget>) -> Vec<TargetConfig> {
        let mut names = BTreeSet::new();
        let mut taken: BTreeMap<(String, u16), String> = BTreeMap::new();
        let mut targets = Vec::new();
        for one in raw {
            let span = one.name.span();
            let name = one.name.get_ref().clone();
            if !names.insert(name.clone()) {
                self.wrong(
                    span.clone(),
                    format!("a second target is named {name:?}: give each its own name"),
                );
            }
            let Some(target) = self.target(one) else { continue };
            for address in &target.addresses {
                if let Some(other) = taken.insert((address.host.clone(), address.port), name.clone()) {
                    let what = format!(
                        "{}:{} belongs to {other:?} too: one address is one target",
                        address.host, address.port
                    );
                    self.wrong(span.clone(), what);
                }
            }
            targets.push(target);
        }
        targets
    }

    fn target(&mut self, raw: RawTarget) -> Option<TargetConfig> {
        let RawTarget {
            name,
            protocol,
            addresses,
            environment,
            labels,
            tls,
            ca_file,
            server_name,
            tls_min_version,
            client_cert_file,
            client_key_file,
            http,
            recording,
            recording_limit,
            when_full,
            mcp,
            mode,
            credential,
            columns,
        } = raw;
        let shown = self.take(&name, value::name);
        // Unknown ones do not hide what else is wrong: whatever depends on the protocol is let be then.
        let known = self.take(&protocol, protocol_of);
        let protocol = known.unwrap_or(Protocol::Opaque);
        let port = match known {
            Some(Protocol::Postgres) => Some(5432),
            Some(Protocol::Http | Protocol::Mcp | Protocol::Llm)
                if tls.as_ref().is_some_and(|t| t.get_ref() == "disabled") =>
            {
                Some(80)
            }
            Some(Protocol::Http | Protocol::Mcp | Protocol::Llm) | None => Some(443),
            Some(Protocol::Dns) => Some(53),
            Some(Protocol::Opaque) => None,
        };
        if addresses.get_ref().is_empty() {
            self.wrong(
                addresses.span(),
                "a target needs at least one address, such as [\"db.internal:5432\"]",
            );
        }
        let addresses: Vec<TargetAddress> = addresses
            .get_ref()
            .iter()
            .filter_map(|text| self.take(text, |t| value::address(t, port)))
            .collect();
        if let Some((column, _)) = columns.first_key_value()
            && known.is_some_and(|protocol| protocol != Protocol::Postgres)
        {
            self.wrong(
                column.span(),
                "columns belong to protocol = \"postgres\": remove them",
            );
        }
        let environment = environment.as_ref().and_then(|t| self.take(t, value::name));
        let secret = protocol == Protocol::Postgres || credential.is_some();
        let tls = self.upstream_tls(tls.as_ref(), (protocol, secret), ca_file, server_name, &addresses);
        let credential = credential.and_then(|c| self.credential(c, known));
        let upstream = self.upstream_settings(tls_min_version.as_ref(), client_cert_file, client_key_file);
        let mut wrong = Vec::new();
        let http = super::http::settings(http, protocol, &|file| self.path(file), &mut wrong);
        for (at, what) in wrong {
            self.wrong(at, what);
        }
        let made = TargetConfig {
            target: Target {
                name: TargetName(shown.unwrap_or_default().into()),
                environment: Environment(environment.map_or_else(|| Arc::from("default"), Arc::from)),
                labels,
                protocol,
                configured: true,
            },
            addresses,
            tls,
            credential,
            columns: columns
                .iter()
                .filter_map(|(column, class)| self.column(column, class))
                .collect(),
            tools: self.tools(mcp, protocol),
            when_full: self.taken(when_full.as_ref(), when_full_of, Default::default()),
            recording: self.taken(recording.as_ref(), recording_of, RecordingLevel::Operations),
            recording_limit: self.taken(recording_limit.as_ref(), recording_limit_of, RECORDING_LIMIT),
            mode: mode.as_ref().and_then(|t| self.take(t, mode_of)),
            upstream,
            http,
        };
        known.map(|_protocol| made)
    }

    fn upstream_settings(
        &mut self,
        min_version: Option<&Text>,
        cert_file: Option<Spanned<PathBuf>>,
        key_file: Option<Spanned<PathBuf>>,
    ) -> UpstreamSettings {
        let client_certificate = match (cert_file, key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ClientCertificate {
                cert_file: self.path(cert.into_inner()),
                key_file: self.path(key.into_inner()),
            }),
            (Some(one), None) | (None, Some(one)) => {
                let what = "a client certificate needs both: write client_cert_file and client_key_file";
                self.wrong(one.span(), what);
                None
            }
        };
        UpstreamSettings {
            client_certificate,
            only_tls13: min_version
                .and_then(|t| self.take(t, super::http::only_tls13))
                .unwrap_or_default(),
        }
    }

    fn upstream_tls(
        &mut self,
        tls: Option<&Text>,
        (protocol, secret): (Protocol, bool),
        ca_file: Option<PathBuf>,
        server_name: Option<Text>,
        addresses: &[TargetAddress],
    ) -> UpstreamTls {
        let verify = |reader: &Self| UpstreamTls::Verify {
            ca_file: ca_file.map(|file| reader.path(file)),
            server_name: server_name.map(Spanned::into_inner),
        };
        match (tls.map(Spanned::get_ref).map(String::as_str), protocol) {
            (None, Protocol::Opaque | Protocol::Dns) => UpstreamTls::Disabled,
            (None | Some("verify"), _) => verify(self),
            (Some("disabled"), _) => {
                let loopback = |a: &TargetAddress| {
                    a.host == "localhost" || a.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
                };
                if !addresses.iter().all(loopback)
                    && secret
                    && !matches!(protocol, Protocol::Opaque | Protocol::Dns)
                {
                    let what = "tls = \"disabled\" would send the real credential in the clear: it is accepted for loopback addresses only";
                    self.wrong(tls.map_or(0..0, Spanned::span), what);
                }
                UpstreamTls::Disabled
            }
            (Some(other), _) => {
                let what =
                    format!("{other:?} is unknown: write tls = \"verify\" (or \"disabled\" on loopback)");
                self.wrong(tls.map_or(0..0, Spanned::span), what);
                UpstreamTls::Disabled
            }
        }
    }

    /// `protocol`: `None` where it is not known, and so neither where a credential belongs.
    fn credential(
        &mut self,
        raw: Spanned<RawCredential>,
        protocol: Option<Protocol>,
    ) -> Option<CredentialConfig> {
        let span = raw.span();
        let RawCredential {
            place,
            name,
            user,
            region,
            service,
            session_token_file,
            password_file,
            password_env,
            placeholder,
        } = raw.into_inner();
        let scope = Scope {
            region: region.as_ref(),
            service: service.as_ref(),
            session_token: session_token_file.map(|file| self.path(file)),
        };
        let read =
            |protocol| credential_place(protocol, place.as_ref(), (name.as_ref(), user.as_ref()), scope);
        let place = match protocol.map(read) {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err((at, what))) => {
                self.wrong(at.map_or_else(|| span.clone(), Spanned::span), what);
                None
            }
        };
        // Other texts would have to be prepared (RFC 4013) before they are compared.
        if let Some(text) = &placeholder
            && !text.get_ref().bytes().all(|byte| (b' '..=b'~').contains(&byte))
        {
            self.wrong(text.span(), "the placeholder must be printable ASCII".to_owned());
        }
        let password = self.secret(span, password_file, password_env);
        Some(CredentialConfig {
            place: place?,
            user: user.map(Spanned::into_inner).unwrap_or_default(),
            password: password?,
            placeholder: placeholder.map(Spanned::into_inner),
        })
    }

    fn secret(
        &mut self,
        span: Range<usize>,
        file: Option<PathBuf>,
        env: Option<Text>,
    ) -> Option<SecretSourceConfig> {
        match (file, env) {
            (Some(file), None) => Some(SecretSourceConfig::File(self.path(file))),
            (None, Some(name)) => Some(SecretSourceConfig::Env(name.into_inner())),
            (None, None) => {
                self.wrong(
                    span,
                    "the password is missing: write password_file or password_env",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.wrong(span, "write either password_file or password_env, not both");
                None
            }
        }
    }

    fn column(&mut self, column: &Text, class: &Text) -> Option<ColumnClass> {
        let parts: Vec<&str> = column.get_ref().split('.').collect();
        let (schema, table, name) = match parts.as_slice() {
            [table, name] => ("public", *table, *name),
            [schema, table, name] => (*schema, *table, *name),
            _ => {
                let what = format!(
                    "{:?} is no column: write \"table.column\" or \"schema.table.column\"",
                    column.get_ref()
                );
                self.wrong(column.span(), what);
                return None;
            }
        };
        let class = self.take(class, |t| {
            t.parse::<DataClass>().map_err(|error| error.to_string())
        })?;
        Some(ColumnClass {
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: name.to_owned(),
            class,
        })
    }

    fn audit(&mut self, raw: RawAudit, state_dir: &Path) -> AuditConfig {
        let RawAudit {
            dir,
            segment_bytes,
            segment_age,
            min_free_bytes,
            clickhouse,
        } = raw;
        if let Some(bytes) = &segment_bytes
            && *bytes.get_ref() < 64 * 1024
        {
            self.wrong(
                bytes.span(),
                "segment_bytes is too small: write at least 65536 (64 KiB)",
            );
        }
        AuditConfig {
            dir: dir.map_or_else(|| state_dir.join("audit"), |dir| self.path(dir)),
            segment_bytes: segment_bytes.map_or(64 * 1024 * 1024, Spanned::into_inner),
            segment_age: self.duration(segment_age.as_ref(), Duration::from_secs(300)),
            min_free_bytes: min_free_bytes.unwrap_or(64 * 1024 * 1024),
            clickhouse: clickhouse.and_then(|c| self.clickhouse(c)),
        }
    }

    fn clickhouse(&mut self, raw: Spanned<RawClickHouse>) -> Option<ClickHouseConfig> {
        let span = raw.span();
        let RawClickHouse {
            url,
            database,
            user,
            password_file,
            password_env,
            batch_records,
            batch_age,
            legacy,
        } = raw.into_inner();
        if !url.get_ref().starts_with("http://") && !url.get_ref().starts_with("https://") {
            let what = format!(
                "{:?} is no ClickHouse URL: write http://host:8123 or https://host:8443",
                url.get_ref()
            );
            self.wrong(url.span(), what);
        } else {
            self.take(&url, value::fetchable);
        }
        let password = match (password_file, password_env) {
            (None, None) => None,
            (file, env) => Some(self.secret(span, file, env)?),
        };
        if let Some(records) = &batch_records
            && *records.get_ref() == 0
        {
            self.wrong(records.span(), "batch_records is 0: write at least 1");
        }
        let or =
            |text: Option<Text>, default: &str| text.map_or_else(|| default.to_owned(), Spanned::into_inner);
        Some(ClickHouseConfig {
            url: url.into_inner(),
            database: or(database, "interdict"),
            user: or(user, "default"),
            password,
            batch_records: batch_records.map_or(10_000, Spanned::into_inner).max(1),
            batch_age: self.duration(batch_age.as_ref(), Duration::from_secs(1)),
            legacy,
        })
    }

    fn approval(&mut self, raw: &RawApproval) -> ApprovalConfig {
        let RawApproval {
            url,
            hold,
            request_ttl,
            grant_ttl,
        } = raw;
        ApprovalConfig {
            url: url.as_ref().and_then(|t| self.take(t, value::approval_url)),
            hold: self.duration(hold.as_ref(), Duration::from_secs(30)),
            request_ttl: self.duration(request_ttl.as_ref(), Duration::from_secs(24 * 3600)),
            grant_ttl: self.duration(grant_ttl.as_ref(), Duration::from_secs(3600)),
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let RawLimits { max_rows, max_time } = raw;
        let read = |t: &str| match model::duration(t) {
            Ok(time) if time.is_zero() => {
                Err("a max_time of nothing would stop everything: write max_time = \"30s\"".to_owned())
            }
            Ok(time) => Ok(time),
            Err(error) => Err(error.to_string()),
        };
        Limits {
            max_rows: *max_rows,
            max_time: max_time.as_ref().and_then(|t| self.take(t, read)),
        }
    }

    fn masking(&mut self, raw: RawMasking) -> MaskingConfig {
        let RawMasking { classes, overrides } = raw;
        let class_of = |t: &str| t.parse::<DataClass>().map_err(|error| error.to_string());
        let overrides = overrides
            .iter()
            .filter_map(|(class, strategy)| Some((self.take(class, class_of)?, strategy.get_ref().clone())))
            .collect();
        MaskingConfig {
            classes: classes.map(|file| self.path(file)),
            overrides,
        }
    }
}
