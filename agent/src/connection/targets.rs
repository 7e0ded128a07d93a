//! Which target a destination is. A name counts only as far as the agent resolved it itself.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::{HttpSettings, TargetConfig, UpstreamSettings, UpstreamTls, WhenFull};
use crate::model::{Environment, OriginalDst, Protocol, RecordingLevel, Target, TargetName};

/// How often names are resolved again.
const REFRESH: Duration = Duration::from_secs(60);

type Table = HashMap<(IpAddr, u16), Arc<TargetConfig>>;

/// From destination to target.
#[derive(Debug)]
pub struct Targets {
    configured: Vec<Arc<TargetConfig>>,
    table: ArcSwap<Table>,
    changed: watch::Sender<()>,
}

impl Targets {
    /// Resolves the names of all configured targets once. A name that does not resolve is left out (its destination is
    /// then unknown, and denied) until it does.
    pub async fn resolve(configured: &[TargetConfig]) -> Arc<Self> {
        let configured: Vec<_> = configured.iter().cloned().map(Arc::new).collect();
        let targets = Self {
            configured,
            table: ArcSwap::default(),
            changed: watch::channel(()).0,
        };
        targets.refresh().await;
        Arc::new(targets)
    }

    /// Resolves the names again each minute, until it is dropped.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REFRESH).await;
            self.refresh().await;
        }
    }

    async fn refresh(&self) {
        let old = self.table.load();
        let mut table = Table::new();
        for target in &self.configured {
            for address in &target.addresses {
                match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
                    Ok(found) => {
                        table.extend(found.map(|a| ((a.ip().to_canonical(), a.port()), Arc::clone(target))));
                    }
                    Err(error) => {
                        tracing::warn!(target = %target.target.name, host = address.host, %error, "name not resolved");
                        let kept = old.iter().filter(|(_, known)| Arc::ptr_eq(known, target));
                        table.extend(kept.map(|(key, known)| (*key, Arc::clone(known))));
                    }
                }
            }
        }
        self.table.store(Arc::new(table));
        self.changed.send_replace(());
    }

    /// Every address of a target.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.table.load().keys().copied().map(SocketAddr::from).collect()
    }

    /// Told whenever the addresses may be others.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The target of `destination`; where none is configured, an opaque one that is named after it, which only a
    /// policy that names it permits.
    #[must_use]
    pub fn find(&self, destination: OriginalDst) -> Arc<TargetConfig> {
        let SocketAddrParts { ip, port } = destination.0.into();
        let known = self.table.load().get(&(ip, port)).map(Arc::clone);
        known.unwrap_or_else(|| Arc::new(unknown(destination)))
    }
}

struct SocketAddrParts {
    ip: IpAddr,
    port: u16,
}

impl From<SocketAddr> for SocketAddrParts {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: address.port(),
        }
    }
}

fn unknown(destination: OriginalDst) -> TargetConfig {
    TargetConfig {
        target: Target {
            name: TargetName(destination.to_string().into()),
            environment: Environment("unknown".into()),
            labels: BTreeMap::new(),
            protocol: Protocol::Opaque,
            configured: false,
        },
        addresses: Vec::new(),
        tls: UpstreamTls::Disabled,
        credential: None,
        columns: Vec::new(),
        recording: RecordingLevel::Operations,
        mode: None,
        tools: crate::config::ToolRules::default(),
        when_full: WhenFull::Refuse,
        upstream: UpstreamSettings::default(),
        http: HttpSettings::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_destination_is_its_target_or_unknown() {
        let text = "[[target]]\nname = \"shop\"\nprotocol = \"postgres\"\naddresses = [\"localhost:5433\"]\n";
        let config = crate::config::parse(text, "interdict.toml".as_ref()).expect("valid");
        let targets = Targets::resolve(&config.targets).await;
        let find = |text: &str| {
            targets
                .find(OriginalDst(text.parse().expect("address")))
                .target
                .clone()
        };
        assert_eq!(find("127.0.0.1:5433").name.to_string(), "shop");
        let other = find("127.0.0.1:5434");
        assert_eq!(
            (other.name.to_string().as_str(), other.configured),
            ("127.0.0.1:5434", false)
        );
        assert_eq!(other.protocol, Protocol::Opaque);
    }
}
