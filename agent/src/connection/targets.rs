//! Which target a destination is. A name counts only as far as the agent resolved it itself.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::{HttpSettings, TargetConfig, UpstreamSettings, UpstreamTls, WhenFull};
use crate::model::{Environment, OriginalDst, Protocol, RecordingLevel, Target, TargetName};

/// How often names are resolved again.
const REFRESH: Duration = Duration::from_secs(60);

/// How long an address counts that an answer of a resolver named: at least and at most.
const LEARNED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How many of those are remembered.
const MAX_LEARNED: usize = 4096;

type Table = HashMap<(IpAddr, u16), Arc<TargetConfig>>;
type Learned = HashMap<(IpAddr, u16), (Arc<TargetConfig>, Instant)>;

/// How the host itself finds names (resolv.conf(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDns {
    /// Its resolvers, in their order.
    pub servers: Vec<SocketAddr>,
    /// What is tried behind a name, in lower case, without dots at the ends.
    pub search: Vec<String>,
}

/// From destination to target.
#[derive(Debug)]
pub struct Targets {
    configured: Vec<Arc<TargetConfig>>,
    host: HostDns,
    table: ArcSwap<Table>,
    learned: Mutex<Learned>,
    changed: watch::Sender<()>,
}

impl Targets {
    /// Resolves the names of all configured targets once. A name that does not resolve is left out (its destination is
    /// then unknown, and denied) until it does.
    pub async fn resolve(configured: &[TargetConfig], host: HostDns) -> Arc<Self> {
        let configured: Vec<_> = configured.iter().cloned().map(Arc::new).collect();
        let targets = Self {
            configured,
            host,
            table: ArcSwap::default(),
            learned: Mutex::default(),
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

    /// Every address of a target, and of the host's resolvers: what stays governed within any network.
    #[must_use]
    pub fn governed(&self) -> Vec<SocketAddr> {
        let mut all: Vec<(IpAddr, u16)> = self.table.load().keys().copied().collect();
        all.extend(self.lock().keys());
        let all = all.into_iter().map(SocketAddr::from);
        all.chain(self.host.servers.iter().copied()).collect()
    }

    /// Whether `name` (lower case, without the last dot) is that of a target: as configured, or with one of the host's
    /// search domains behind it.
    #[must_use]
    pub fn is_name(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The targets of that name, each with its port.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Arc<TargetConfig>, u16)> {
        let is = move |host: &str| {
            let Some(rest) = strip_prefix(name, host.trim_end_matches('.')) else {
                return false;
            };
            let domain = rest.strip_prefix('.');
            rest.is_empty() || domain.is_some_and(|d| self.host.search.iter().any(|s| s == d))
        };
        let hosts = |target: &'a Arc<TargetConfig>| target.addresses.iter().map(move |a| (target, a));
        let numeric = |host: &str| host.parse::<IpAddr>().is_ok();
        self.configured
            .iter()
            .flat_map(hosts)
            .filter(move |(_, address)| !numeric(&address.host) && is(&address.host))
            .map(|(target, address)| (target, address.port))
    }

    /// A resolver of the host answered that `name` has these addresses: where it is a target's name, they are its for
    /// as long as the answer may be kept, unless they are known to be another's.
    pub fn learn(&self, name: &str, addresses: &[IpAddr], keep: Duration) {
        let (least, most) = LEARNED;
        let now = Instant::now();
        let until = now + keep.clamp(least, most);
        let table = self.table.load();
        let mut news = false;
        let mut learned = self.lock();
        learned.retain(|_, (_, until)| *until > now);
        for (target, port) in self.named(name) {
            for ip in addresses {
                let key = (ip.to_canonical(), port);
                let theirs = |known: &Arc<TargetConfig>| !Arc::ptr_eq(known, target);
                let taken = table.get(&key).is_some_and(theirs)
                    || learned.get(&key).is_some_and(|(known, _)| theirs(known));
                if taken || (learned.len() >= MAX_LEARNED && !learned.contains_key(&key)) {
                    continue;
                }
                news |= !table.contains_key(&key);
                learned.insert(key, (Arc::clone(target), until));
            }
        }
        drop(learned);
        if news {
            self.changed.send_replace(());
        }
    }

    /// The server of names at `destination`: a configured target, one of the host's resolvers (which counts as
    /// configured), or one that nobody knows.
    #[must_use]
    pub fn server(&self, destination: OriginalDst) -> Arc<TargetConfig> {
        let found = self.find(destination);
        if found.target.configured {
            return found;
        }
        let mut server = unknown(destination);
        server.target.protocol = Protocol::Dns;
        if self.is_resolver(destination) {
            server.target.configured = true;
            server.target.environment = Environment("default".into());
        }
        Arc::new(server)
    }

    /// Whether the host asks it itself.
    #[must_use]
    pub fn is_resolver(&self, server: OriginalDst) -> bool {
        self.host.servers.contains(&server.0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
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
        let learned = || {
            let learned = self.lock();
            let (target, until) = learned.get(&(ip, port))?;
            (*until > Instant::now()).then(|| Arc::clone(target))
        };
        let known = known.or_else(learned);
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

/// What is left of `name` behind `host`, whose case does not matter.
fn strip_prefix<'a>(name: &'a str, host: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(host.len())?;
    head.eq_ignore_ascii_case(host).then_some(rest)
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
        recording_limit: 0,
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
        let targets = Targets::resolve(&config.targets, HostDns::default()).await;
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

    #[tokio::test]
    async fn names_are_those_of_targets_and_their_addresses_are_learned() {
        let text = "[[target]]\nname = \"shop\"\nprotocol = \"postgres\"\naddresses = [\"DB.invalid:5432\", \"127.0.0.9\"]\n\
                    [[target]]\nname = \"other\"\nprotocol = \"opaque\"\naddresses = [\"127.0.0.8:5432\"]\n";
        let config = crate::config::parse(text, "interdict.toml".as_ref()).expect("valid");
        let host = HostDns {
            servers: vec!["127.0.0.53:53".parse().expect("address")],
            search: vec!["corp.example".into()],
        };
        let targets = Targets::resolve(&config.targets, host).await;
        for name in ["db.invalid", "db.invalid.corp.example"] {
            assert!(targets.is_name(name), "{name}");
        }
        for name in [
            "",
            "db",
            "xdb.invalid",
            "db.invalid.",
            "db.invalid.corp.example.org",
            "db.invalidcorp.example",
            "127.0.0.9",
            "corp.example",
        ] {
            assert!(!targets.is_name(name), "{name}");
        }
        let find = |text: &str| {
            let address = OriginalDst(text.parse().expect("address"));
            targets.find(address).target.name.to_string()
        };
        let mut changes = targets.changes();
        changes.mark_unchanged();
        let ips = ["127.9.9.9", "127.0.0.8"].map(|ip| ip.parse().expect("address"));
        targets.learn("elsewhere.invalid", &ips, Duration::ZERO);
        assert_eq!(find("127.9.9.9:5432"), "127.9.9.9:5432");
        assert!(!changes.has_changed().expect("open"));
        targets.learn("db.invalid.corp.example", &ips, Duration::ZERO);
        assert_eq!(find("127.9.9.9:5432"), "shop");
        assert_eq!(find("127.9.9.9:5433"), "127.9.9.9:5433", "another port");
        assert_eq!(find("127.0.0.8:5432"), "other", "what is known stays");
        assert!(changes.has_changed().expect("open"));
        let server = |text: &str| {
            let server = targets.server(OriginalDst(text.parse().expect("address")));
            (server.target.protocol, server.target.configured)
        };
        assert_eq!(server("127.0.0.53:53"), (Protocol::Dns, true));
        assert_eq!(server("127.0.0.54:53"), (Protocol::Dns, false));
        for governed in ["127.0.0.53:53", "127.9.9.9:5432", "127.0.0.8:5432"] {
            let governed = governed.parse().expect("address");
            assert!(targets.governed().contains(&governed), "{governed}");
        }
    }
}
