//! Building the rooms from a configuration.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::approval::{Broker, BrokerError};
use crate::audit::{AuditError, AuditLog};
use crate::config::Config;
use crate::connection::HostDns;
use crate::connection::tls::{Authority, Rotated, TlsError, rotate};
use crate::identity::{Binding, IdentityError, Issuers, TokenSource};
use crate::inventory::InventoryError;
use crate::mask::{Classes, ClassesError, KeyError, MaskEngine, MaskKey};
use crate::model::{BootId, Principal, PrincipalKind, RunId};
use crate::policy::{Engine, Policies, PolicyErrors, from_directory, shipped};
use crate::protocol::http::DescriptorsError;
use crate::session::Rooms;

/// Why a room could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The state directory.
    #[error("the state directory {path} cannot be used: {source}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Records.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Data classes.
    #[error(transparent)]
    Classes(#[from] ClassesError),
    /// The masking key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Policies.
    #[error("the policies are wrong:\n{0}")]
    Policies(#[from] PolicyErrors),
    /// Approvals.
    #[error(transparent)]
    Approvals(#[from] BrokerError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tools of MCP servers.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// What messages of gRPC mean.
    #[error(transparent)]
    Descriptors(#[from] DescriptorsError),
    /// The identity.
    #[error("the identity token is not accepted: {0}")]
    Identity(#[from] IdentityError),
}

/// Everything that judges a run, and what the process is given.
pub(super) struct Built {
    pub(super) rooms: Arc<Rooms>,
    pub(super) issuers: Issuers,
    pub(super) authority: Arc<Authority>,
}

/// What all workloads of an agent share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) audit: AuditLog,
    pub(super) masks: Arc<MaskEngine>,
    pub(super) policies: Arc<Policies>,
    pub(super) issuers: Issuers,
    pub(super) broker: Broker,
    pub(super) authority: Arc<Authority>,
}

impl Shared {
    /// The rooms of one workload, or of the one run.
    pub(super) fn rooms(&self, run: RunId, config: &Config, audit: AuditLog, binding: Arc<Binding>) -> Rooms {
        Rooms {
            run,
            binding,
            policies: Arc::clone(&self.policies),
            broker: self.broker.clone(),
            audit,
            masks: Arc::clone(&self.masks),
            mode: config.mode,
            limits: config.limits,
            hold: config.approval.hold,
        }
    }
}

/// Builds the rooms.
pub(super) async fn build(
    config: &Config,
    token: Option<&TokenSource>,
    workload: &str,
) -> Result<Built, BuildError> {
    let shared = shared(config)?;
    let binding = match token {
        Some(source) => Binding::from_token(source, &shared.issuers, crate::clock::now()).await?,
        None => Binding::fixed(workload_principal(workload)),
    };
    let rooms = shared.rooms(RunId::new(), config, shared.audit.clone(), Arc::new(binding));
    let Shared {
        issuers, authority, ..
    } = shared;
    Ok(Built {
        rooms: Arc::new(rooms),
        issuers,
        authority,
    })
}

/// Detectors and strategies, as configured.
pub(super) fn masks(config: &Config) -> Result<MaskEngine, BuildError> {
    let columns = config.targets.iter().flat_map(|t| t.columns.iter().cloned());
    let classes = Classes::load(&config.masking, columns)?;
    let key = MaskKey::load_or_create(&config.state_dir.join("mask.key"))?;
    Ok(MaskEngine::new(classes, key))
}

/// The policies, as configured.
pub(super) fn engine(config: &Config, masks: &MaskEngine) -> Result<Engine, BuildError> {
    let sources = match &config.policies {
        Some(dir) => from_directory(dir)?,
        None => shipped(),
    };
    Ok(Engine::load(&sources, masks.classes())?)
}

/// Builds what does not depend on who acts.
pub(super) fn shared(config: &Config) -> Result<Shared, BuildError> {
    let state = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::State { path, source }
    };
    fs::create_dir_all(&config.state_dir).map_err(state(&config.state_dir))?;
    let host = host_name();
    let audit = AuditLog::open(&config.audit, &host, BootId::new())?;
    let masks = Arc::new(masks(config)?);
    let policies = Arc::new(Policies::new(engine(config, &masks)?));
    let issuers = Issuers::new(&config.issuers);
    let broker = Broker::open_store(
        &config.state_dir.join("approvals.db"),
        audit.clone(),
        config.approval.clone(),
    )?;
    let ca_dir = config.state_dir.join("ca");
    let authority = Arc::new(Authority::load_or_create(&ca_dir, &host)?);
    super::environment::write_bundle(&ca_dir, &authority.pem()?).map_err(state(&ca_dir))?;
    Ok(Shared {
        audit,
        masks,
        policies,
        issuers,
        broker,
        authority,
    })
}

pub(super) fn workload_principal(name: &str) -> Principal {
    Principal {
        kind: PrincipalKind::Workload,
        issuer: None,
        subject: name.to_owned(),
        display: name.to_owned(),
        groups: [].into(),
        expires_at: None,
    }
}

/// Makes another certificate authority in `dir`, as `interdict ca rotate` does.
///
/// # Errors
/// Where there is none yet, or a file cannot be read or written.
pub fn rotate_authority(dir: &Path, overlap: std::time::Duration) -> Result<Rotated, TlsError> {
    rotate(dir, &host_name(), overlap)
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How the host finds names.
pub(super) fn host_dns() -> HostDns {
    parse_resolv_conf(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// Servers and search domains of resolv.conf(5); without a server it is this host, and the last list of domains counts.
fn parse_resolv_conf(text: &str) -> HostDns {
    let mut host = HostDns::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let ip: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                host.servers
                    .extend(ip.map(|ip| SocketAddr::new(ip.to_canonical(), 53)));
            }
            Some("search" | "domain") => {
                let plain = |word: &str| word.trim_matches('.').to_ascii_lowercase();
                host.search = words.map(plain).filter(|domain| !domain.is_empty()).collect();
            }
            _ => {}
        }
    }
    if host.servers.is_empty() {
        host.servers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_programs_read_it() {
        let host = parse_resolv_conf(
            "# a comment\nnameserver 127.0.0.53\nnameserver 2001:db8::1 \nnameserver nonsense\nnameserver\n\
             domain old.example\nsearch Corp.Example. .\n; options\noptions edns0 trust-ad\n",
        );
        let servers: Vec<String> = host.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53"]);
        assert_eq!(host.search, ["corp.example"]);
        let none = parse_resolv_conf("");
        assert_eq!(
            none.servers.first().map(ToString::to_string).as_deref(),
            Some("127.0.0.1:53")
        );
    }
}
