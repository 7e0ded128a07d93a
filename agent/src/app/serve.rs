//! From accepted connections to sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::audit::Event;
use crate::config::{Config, TargetConfig, UpstreamTls};
use crate::connection::tls::{Authority, SubjectName, TlsError, UpstreamVerifier};
use crate::connection::{Accepted, Acceptor, Connection, DatagramListener, Targets, reset};
use crate::credential::Credential;
use crate::inventory::{self, Inventory};
use crate::model::{Protocol, RunId, TargetName};
use crate::protocol::{dns, http, llm, mcp, opaque, postgres};
use crate::session::{Ledger, Rooms};
use crate::task::Tasks;

use super::descriptors;
use super::rooms::BuildError;

/// Between two records of strangers.
const STRANGER_PAUSE: Duration = Duration::from_secs(60);

/// What sessions need to begin.
pub(super) struct Serving {
    rooms: Arc<Rooms>,
    targets: Arc<Targets>,
    postgres: HashMap<TargetName, Arc<postgres::Legs>>,
    http: HashMap<TargetName, Arc<http::Legs>>,
    /// Sessions at the same time; beyond it the process waits to be accepted.
    room: Arc<Semaphore>,
    resolver: dns::Resolver,
}

/// Questions for names that one socket of the agent answers at the same time; beyond it they wait in the kernel.
const MAX_QUESTIONS: usize = 64;

/// Between two looks for sessions of names that are idle.
const TIDY: Duration = Duration::from_secs(15);

/// The port of servers of names (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

impl Serving {
    /// Prepares every configured target.
    ///
    /// # Errors
    /// Where a target's certificate could not be verified ever, or the inventory of tools cannot be used.
    pub(super) fn new(
        config: &Config,
        rooms: Arc<Rooms>,
        targets: Arc<Targets>,
        authority: &Arc<Authority>,
    ) -> Result<Self, BuildError> {
        let cancels = Arc::new(postgres::CancelKeys::default());
        let catalogues = Arc::new(postgres::Catalogues::default());
        let mut legs = HashMap::new();
        for target in config
            .targets
            .iter()
            .filter(|t| t.target.protocol == Protocol::Postgres)
        {
            let one = postgres::Legs {
                authority: Arc::clone(authority),
                names: target.addresses.iter().map(|a| subject(&a.host)).collect(),
                verifier: verifier(target)?,
                credential: target.credential.clone().map(Credential::new),
                cancels: Arc::clone(&cancels),
                catalogues: Arc::clone(&catalogues),
            };
            legs.insert(target.target.name.clone(), Arc::new(one));
        }
        let inventory = Inventory::open(&config.state_dir.join(inventory::FILE))?;
        let mut http = HashMap::new();
        let on_http = |target: &&TargetConfig| target.target.protocol.is_http();
        let ledger = ledger(config);
        for target in config.targets.iter().filter(on_http) {
            let one = http::Legs::new(target, Arc::clone(authority))?;
            let one = match target.target.protocol {
                Protocol::Mcp => {
                    let link = config.approval.url.clone();
                    let name = target.target.name.0.to_string();
                    let pins = mcp::Pins::new(inventory.clone(), name, target.tools);
                    one.speaking(Arc::new(mcp::McpServer::new(link, pins)))
                }
                Protocol::Llm => one.speaking(Arc::new(match &ledger {
                    Some(ledger) => {
                        llm::ModelApi::counting(Arc::clone(ledger), target.target.name.to_string())
                    }
                    None => llm::ModelApi::default(),
                })),
                Protocol::Http => match &target.http.descriptor_set {
                    Some(file) => one.described(http::Descriptors::read(file)?),
                    None => one,
                },
                Protocol::Postgres | Protocol::Dns | Protocol::Opaque => one,
            };
            http.insert(target.target.name.clone(), Arc::new(one));
        }
        let resolver = dns::Resolver::new(Arc::clone(&rooms), Arc::clone(&targets), config.dns.clone());
        Ok(Self {
            rooms,
            targets,
            resolver,
            postgres: legs,
            http,
            room: Arc::new(Semaphore::new(descriptors::sessions())),
        })
    }

    /// The run that its sessions belong to.
    pub(super) fn run(&self) -> RunId {
        self.rooms.run
    }

    /// Serves what `acceptor` accepts, until the run is `ending`; then what is there already, to its end.
    pub(super) async fn serve(self: Arc<Self>, acceptor: Acceptor, mut ending: watch::Receiver<()>) {
        let mut sessions = Tasks::default();
        let mut strangers = Strangers::default();
        loop {
            tokio::select! {
                biased;
                (accepted, room) = self.accept(&acceptor) => match accepted {
                    Accepted::Connection(connection) => {
                        let serving = Arc::clone(&self);
                        sessions.spawn("session", async move {
                            serving.session(connection).await;
                            drop(room);
                        });
                    }
                    Accepted::Stranger { peer } => {
                        tracing::warn!(%peer, "a connection that the kernel did not redirect was reset");
                        if let Some(count) = strangers.next(Instant::now()) {
                            self.record_strangers(count).await;
                        }
                    }
                },
                _ = sessions.next(), if !sessions.is_empty() => {}
                // Last: whatever waits to be accepted comes first.
                _ = ending.changed() => break,
            }
        }
        drop(acceptor);
        while sessions.next().await.is_some() {}
    }

    /// The next connection, once there is room for it.
    pub(super) async fn accept(&self, acceptor: &Acceptor) -> (Accepted, Option<OwnedSemaphorePermit>) {
        // Never closed: `None` cannot come.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        (acceptor.next().await, room)
    }

    /// Ends what stays open between questions.
    pub(super) async fn close(&self) {
        self.resolver.tidy(true).await;
    }

    /// Somebody on this host connected to the agent itself.
    pub(super) async fn record_strangers(&self, count: u64) {
        let event = Event::ConnectionRefused {
            run: self.rooms.run,
            process: None,
            original: None,
            reason: format!("the kernel did not redirect it here ({count} since the last such record)"),
        };
        if let Err(error) = self.rooms.audit.post(event).await {
            tracing::error!(%error, "a stranger could not be recorded");
        }
    }

    pub(super) async fn session(&self, connection: Connection) {
        let target = self.targets.find(connection.original);
        let rooms = Arc::clone(&self.rooms);
        let names = !target.target.configured && connection.original.0.port() == DNS_PORT;
        match target.target.protocol {
            Protocol::Dns => Box::pin(self.resolver.stream(connection)).await,
            Protocol::Opaque if names => Box::pin(self.resolver.stream(connection)).await,
            Protocol::Opaque => Box::pin(opaque::serve(connection, rooms, target)).await,
            Protocol::Http | Protocol::Mcp | Protocol::Llm => match self.http.get(&target.target.name) {
                Some(legs) => {
                    let legs = Arc::clone(legs);
                    Box::pin(http::serve(connection, rooms, target, legs)).await;
                }
                None => reset(connection.stream),
            },
            Protocol::Postgres => match self.postgres.get(&target.target.name) {
                Some(legs) => {
                    let legs = Arc::clone(legs);
                    Box::pin(postgres::serve(connection, rooms, target, legs)).await;
                }
                None => reset(connection.stream),
            },
        }
    }
}

/// Answers questions for names that come to `listener`, with what there is to serve with when they come, until it is `ending`.
pub(super) async fn names<E: Send + Sync>(
    serving: impl Fn() -> Arc<Serving> + Send,
    listener: DatagramListener,
    mut ending: watch::Receiver<E>,
) {
    let mut questions = Tasks::default();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        tokio::select! {
            biased;
            question = listener.next(), if questions.len() < MAX_QUESTIONS => {
                let serving = serving();
                questions.spawn("name", async move { serving.resolver.datagram(question).await });
            }
            _ = questions.next(), if !questions.is_empty() => {}
            _ = tidy.tick() => serving().resolver.tidy(false).await,
            // Who asked has ended, or asks the next agent: nobody waits for an answer.
            _ = ending.changed() => return,
        }
    }
}

/// Counts strangers: anybody on this host can connect, and nobody shall fill the disk by it.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    recorded: Option<Instant>,
    since: u64,
}

impl Strangers {
    /// How many there were since the last record, when it is time for another.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.recorded.is_some_and(|last| now < last + STRANGER_PAUSE) {
            return None;
        }
        self.recorded = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

fn subject(host: &str) -> SubjectName {
    host.parse()
        .map_or_else(|_name| SubjectName::Dns(host.to_owned()), SubjectName::Ip)
}

fn verifier(target: &TargetConfig) -> Result<Option<UpstreamVerifier>, TlsError> {
    match &target.tls {
        UpstreamTls::Disabled => Ok(None),
        UpstreamTls::Verify { ca_file, server_name } => {
            let first = target
                .addresses
                .first()
                .map(|a| a.host.as_str())
                .unwrap_or_default();
            let name = server_name.as_deref().unwrap_or(first);
            let verified = (ca_file.as_deref(), [].as_slice());
            UpstreamVerifier::configured(&target.target.name.0, name, verified, &target.upstream).map(Some)
        }
    }
}

/// Where it is counted what prompts take. Where it cannot be used, policies that read it see nothing and say no.
fn ledger(config: &Config) -> Option<Arc<Ledger>> {
    let models = |target: &TargetConfig| target.target.protocol == Protocol::Llm;
    if !config.targets.iter().any(models) {
        return None;
    }
    match Ledger::open(&config.state_dir.join("usage.db")) {
        Ok(ledger) => Some(Arc::new(ledger)),
        Err(error) => {
            tracing::error!(%error, "nobody counts what prompts take");
            None
        }
    }
}
